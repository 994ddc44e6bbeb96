//! Delays, faults and shutdown, the same in all dialects.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::demo::provider::serve;
use crate::demo::tests::harness::{CHAT, messages, request, start_provider};
use crate::tasks;

#[tokio::test]
async fn delays_occur_where_requested() {
    let provider = start_provider().await;
    let late = provider.chat("/slow 80ms hello", true).await;
    assert!(late.is_complete && Duration::from_millis(80) <= late.took.0);
    assert!(late.took.1 < Duration::from_millis(80), "only the headers are late");
    let slow = provider.chat("/chunk 10ms /tokens 16", true).await;
    // A role, eight chunks, a finish reason and the end: ten delays.
    assert_eq!(slow.chunks().len(), 10);
    assert!(slow.took.0 < Duration::from_millis(80) && Duration::from_millis(100) <= slow.took.1);
}

#[tokio::test]
async fn cut_and_stalled_responses_are_incomplete() {
    let provider = start_provider().await;
    for stream in [true, false] {
        let cut = provider.chat("/cut", stream).await;
        assert_eq!((cut.status, cut.is_complete), (StatusCode::OK, false));
        assert!(!cut.text.is_empty() && !cut.text.contains("[DONE]"));
        let stalled = provider.chat("/stall", stream);
        assert!(tokio::time::timeout(Duration::from_millis(100), stalled).await.is_err());
    }
}

#[tokio::test]
async fn headers_set_the_script_like_prompt_commands() {
    let mut request = request(CHAT, &json!({"model": "m", "messages": messages("x")}).to_string());
    request.headers_mut().insert("x-demo-status", "503".parse().expect("a value"));
    assert_eq!(start_provider().await.send(request).await.status, 503);
}

#[tokio::test]
async fn the_provider_shuts_down_on_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (shutdown, shutdown_requested) = oneshot::channel::<()>();
    let server = tasks::spawn("provider", serve(listener, shutdown_requested));
    let idle = TcpStream::connect(address).await.expect("a listening socket");
    drop(shutdown);
    server.await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn headers_select_the_dialect_of_the_model_list() {
    let provider = start_provider().await;
    let models = async |path: &str, name: &'static str| {
        let mut request = request(path, "");
        request.headers_mut().insert(name, "x".parse().expect("a value"));
        provider.send(request).await
    };
    let claude = models("/v1/models", "anthropic-version").await.json();
    assert_eq!(claude["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&claude["has_more"], &claude["first_id"]),
        (&json!(false), &claude["data"][0]["id"])
    );
    let one = models("/v1/models/claude-haiku-4-5", "anthropic-version").await.json();
    assert_eq!((&one["type"], &one), (&json!("model"), &claude["data"][1]));
    let other = models("/v1/models/gpt-4o", "anthropic-version").await;
    assert_eq!((other.status.as_u16(), &other.json()["type"]), (404, &json!("error")));
    let gemini = models("/v1/models", "x-goog-api-key").await.json();
    assert_eq!(gemini["models"].as_array().map(Vec::len), Some(2));
    let open = provider.get("/v1/models").await.json();
    assert_eq!(open["data"].as_array().map(Vec::len), Some(16));
}

#[tokio::test]
async fn scripts_work_in_every_dialect() {
    let provider = start_provider().await;
    let messages = |prompt: &str| json!([{"role": "user", "content": prompt}]);
    let body_for = |prompt: &str, stream: bool| {
        json!({"model": "m", "stream": stream, "messages":
        messages(prompt), "prompt": prompt, "input": prompt, "contents": [{"parts": [{"text": prompt}]}]})
    };
    let endpoints = [
        ("/v1/completions", true),
        ("/v1/completions", false),
        ("/v1/responses", true),
        ("/v1/responses", false),
        ("/v1/messages", true),
        ("/v1/messages", false),
        ("/v1beta/models/m:streamGenerateContent?alt=sse", true),
        ("/v1beta/models/m:streamGenerateContent", true),
        ("/v1beta/models/m:generateContent", false),
    ];
    for (path, stream) in endpoints {
        let cut = provider.post(path, &body_for("/cut", stream)).await;
        assert_eq!((cut.status, cut.is_complete), (StatusCode::OK, false), "{path}");
        assert!(!cut.text.is_empty(), "{path}");
        let body = body_for("/stall", stream);
        let stalled = tokio::time::timeout(Duration::from_millis(60), provider.post(path, &body));
        assert!(stalled.await.is_err(), "{path}");
        let slow = provider.post(path, &body_for("/slow 30ms /chunk 5ms /tokens 8", stream)).await;
        assert!(slow.is_complete && Duration::from_millis(30) <= slow.took.0, "{path}");
        assert!(!stream || Duration::from_millis(20) <= slow.took.1, "{path}");
        let counted = provider.post(path, &body_for("/input 4711", false)).await.text;
        assert!(counted.contains("4711"), "{path}");
        let mut refused = request(path, &body_for("x", stream).to_string());
        refused.headers_mut().insert("x-demo-status", "503".parse().expect("a value"));
        assert_eq!(provider.send(refused).await.status, 503, "{path}");
    }
}
