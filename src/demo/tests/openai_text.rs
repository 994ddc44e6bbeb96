//! Legacy completions and embeddings in the OpenAI dialect.

use serde_json::json;

use crate::demo::canned_text;
use crate::demo::tests::harness::{embedding_json, start_provider};
use crate::demo::vector;

const TEXT: &str = "/v1/completions";
const EMBED: &str = "/v1/embeddings";

#[tokio::test]
async fn a_legacy_completion_has_a_default_output_limit() {
    let provider = start_provider().await;
    let body = json!({"model": "gpt-3.5-turbo-instruct", "prompt": "Say hello."});
    let complete = provider.post(TEXT, &body).await.json();
    assert!(complete["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
    assert_eq!(complete["object"], "text_completion");
    let text: String = canned_text::tokens(16).collect();
    assert_eq!(complete["choices"][0]["text"], text);
    assert_eq!(complete["choices"][0]["finish_reason"], "length");
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 16, "total_tokens": 19});
    assert_eq!(complete["usage"], usage);
}

#[tokio::test]
async fn a_legacy_completion_returns_choices_per_prompt_and_counts_all_generations() {
    let provider = start_provider().await;
    let body = json!({"model": "m", "prompt": [[1, 2, 3], [4, 5]], "n": 2, "best_of": 3,
        "max_tokens": 5});
    let response = provider.post(TEXT, &body).await.json();
    assert_eq!(response["choices"].as_array().map(Vec::len), Some(4));
    assert_eq!(response["choices"][3]["index"], 3);
    assert_eq!(response["usage"]["prompt_tokens"], 5);
    assert_eq!(response["usage"]["completion_tokens"], 30);
    for prompt in [json!(null), json!([]), json!([1, "a"]), json!({}), json!(vec!["a"; 40])] {
        let response = provider.post(TEXT, &json!({"model": "m", "prompt": prompt})).await;
        assert_eq!(response.status, 400, "{prompt}");
        assert_eq!(response.json()["error"]["param"], "prompt");
    }
}

#[tokio::test]
async fn a_legacy_completion_can_be_streamed() {
    let provider = start_provider().await;
    let mut body = json!({"model": "m", "prompt": "/tokens 9", "max_tokens": 50, "stream": true});
    let chunks = provider.post(TEXT, &body).await.chunks();
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str());
    assert_eq!(text.collect::<String>(), canned_text::tokens(9).collect::<String>());
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "usage was not requested");
    assert_eq!(chunks.last().expect("an end")["choices"][0]["finish_reason"], "stop");
    body["stream_options"] = json!({"include_usage": true});
    let chunks = provider.post(TEXT, &body).await.chunks();
    let (last, others) = chunks.split_last().expect("chunks");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(9)));
    assert!(others.iter().all(|chunk| chunk["usage"].is_null()));
    body["prompt"] = json!("/breakoff");
    let broken = provider.post(TEXT, &body).await.text;
    assert!(broken.trim_end().ends_with(r#""code":null}}"#), "{broken}");
}

#[tokio::test]
async fn embeddings_are_numbers_or_base64() {
    let provider = start_provider().await;
    let mut body = json!({"model": "text-embedding-3-small", "input": "Say hello."});
    let list = provider.post(EMBED, &body).await.json();
    assert_eq!(
        (&list["object"], &list["data"][0]["object"]),
        (&json!("list"), &json!("embedding"))
    );
    assert_eq!(list["data"][0]["embedding"].as_array().map(Vec::len), Some(1536));
    assert_eq!(list["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    body["dimensions"] = json!(4);
    let short = provider.post(EMBED, &body).await.text;
    let entry = format!(r#""embedding":{}"#, embedding_json("Say hello.", 4));
    assert!(short.contains(&entry), "{short}");
    body["encoding_format"] = json!("base64");
    let bytes = provider.post(EMBED, &body).await.json();
    let base64 = vector::base64(&vector::embed("Say hello.", 4));
    assert_eq!(bytes["data"][0]["embedding"], base64);
}

#[tokio::test]
async fn all_embedding_inputs_are_counted() {
    let provider = start_provider().await;
    for (input, vectors, tokens) in [
        (json!(["Say hello.", "abcd"]), 2, 4),
        (json!([1, 2, 3]), 1, 3),
        (json!([[1, 2, 3], [4]]), 2, 4),
        (json!(""), 1, 1),
        (json!("/input 77"), 1, 77),
    ] {
        let body = json!({"model": "text-embedding-3-small", "input": input, "dimensions": 2});
        let list = provider.post(EMBED, &body).await.json();
        assert_eq!(list["data"].as_array().map(Vec::len), Some(vectors), "{input}");
        assert_eq!(list["usage"]["prompt_tokens"], tokens, "{input}");
    }
    for (name, value) in [
        ("input", json!([])),
        ("input", json!(7)),
        ("dimensions", json!(4000)),
        ("encoding_format", json!("text")),
    ] {
        let mut body = json!({"model": "text-embedding-3-small", "input": "x"});
        body[name] = value;
        let response = provider.post(EMBED, &body).await;
        assert_eq!(
            (response.status.as_u16(), &response.json()["error"]["param"]),
            (400, &json!(name))
        );
    }
    let body = json!({"model": "m", "input": "/nousage", "dimensions": 2});
    assert!(provider.post(EMBED, &body).await.json().get("usage").is_none());
}
