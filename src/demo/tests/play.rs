//! Waits, breaks and ends, which are the same in all dialects.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::demo::provider::serve;
use crate::demo::tests::stand::{CHAT, provider, request, said};
use crate::tasks;

#[tokio::test]
async fn waits_are_where_they_were_asked_for() {
    let provider = provider().await;
    let late = provider.say("/slow 80ms hello", true).await;
    assert!(late.whole && Duration::from_millis(80) <= late.took.0);
    assert!(late.took.1 < Duration::from_millis(80), "only the head is late");
    let slow = provider.say("/chunk 10ms /tokens 16", true).await;
    // A role, eight chunks, a finish, an end: ten pauses.
    assert_eq!(slow.chunks().len(), 10);
    assert!(slow.took.0 < Duration::from_millis(80) && Duration::from_millis(100) <= slow.took.1);
}

#[tokio::test]
async fn a_cut_is_no_end_and_a_stall_none_either() {
    let provider = provider().await;
    for stream in [true, false] {
        let cut = provider.say("/cut", stream).await;
        assert_eq!((cut.status, cut.whole), (StatusCode::OK, false));
        assert!(!cut.text.is_empty() && !cut.text.contains("[DONE]"));
        let stalled = provider.say("/stall", stream);
        assert!(tokio::time::timeout(Duration::from_millis(100), stalled).await.is_err());
    }
}

#[tokio::test]
async fn headers_ask_as_words_do() {
    let mut asked = request(CHAT, &json!({"model": "m", "messages": said("x")}).to_string());
    asked.headers_mut().insert("x-demo-status", "503".parse().expect("a value"));
    assert_eq!(provider().await.send(asked).await.status, 503);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tasks::spawn("provider", serve(listener, stopped));
    let idle = TcpStream::connect(address).await.expect("it listens");
    drop(stop);
    served.await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
}
