//! Generated content and embeddings in the Gemini dialect.

use http::StatusCode;
use serde_json::{Value, json};

use crate::demo::canned_text;
use crate::demo::tests::harness::{
    ProviderResponse, TestProvider, embedding_json, event_data, start_provider,
};

const FLASH: &str = "/v1beta/models/gemini-2.5-flash";

fn content_body(prompt: &str) -> Value {
    json!({"systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": prompt}]}]})
}

async fn call(provider: &TestProvider, verb: &str, body: &Value) -> ProviderResponse {
    provider.post(&format!("{FLASH}:{verb}"), body).await
}

/// Returns the events of a stream.
fn events(response: &ProviderResponse) -> Vec<Value> {
    response.events("text/event-stream", "\r\n\r\n").into_iter().map(event_data).collect()
}

fn text_of(responses: &[Value]) -> String {
    let parts = responses.iter().map(|one| &one["candidates"][0]["content"]["parts"][0]);
    parts.filter_map(|part| part["text"].as_str()).collect()
}

fn error(response: &ProviderResponse) -> (u16, Value) {
    let error = response.json()["error"].clone();
    assert_eq!(error["code"], response.status.as_u16());
    (response.status.as_u16(), error)
}

#[tokio::test]
async fn content_has_the_real_wire_format() {
    let provider = start_provider().await;
    let response = call(&provider, "generateContent", &content_body("Say hello.")).await;
    assert_eq!((response.status, response.is_complete), (StatusCode::OK, true));
    assert_eq!(response.headers["content-type"], "application/json; charset=UTF-8");
    let body = response.json();
    let tokens = canned_text::default_tokens();
    let text: String = canned_text::tokens(tokens).collect();
    let candidate = json!({"content": {"parts": [{"text": text}], "role": "model"},
        "finishReason": "STOP", "index": 0});
    assert_eq!(body["candidates"], json!([candidate]));
    assert_eq!(body["modelVersion"], "gemini-2.5-flash");
    assert!(body["responseId"].is_string());
    let usage = json!({"promptTokenCount": 17, "candidatesTokenCount": tokens,
        "thoughtsTokenCount": 32, "totalTokenCount": 49 + tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 17}]});
    assert_eq!(body["usageMetadata"], usage);
    let under_v1 =
        provider.post("/v1/models/gemini-2.5-flash:generateContent", &content_body("x")).await;
    assert_eq!(under_v1.json()["modelVersion"], "gemini-2.5-flash");
}

#[tokio::test]
async fn usage_accumulates_over_a_stream() {
    let provider = start_provider().await;
    let response =
        call(&provider, "streamGenerateContent?alt=sse", &content_body("/tokens 9 /cached 3"))
            .await;
    let events = events(&response);
    assert_eq!(text_of(&events), canned_text::tokens(9).collect::<String>());
    let counts: Vec<u64> = events
        .iter()
        .filter_map(|event| event["usageMetadata"]["candidatesTokenCount"].as_u64())
        .collect();
    assert_eq!(counts, [1, 3, 6, 8, 9, 9]);
    for event in &events {
        let usage = &event["usageMetadata"];
        assert_eq!(
            (&usage["thoughtsTokenCount"], &usage["cachedContentTokenCount"]),
            (&json!(32), &json!(3))
        );
    }
    let (last, others) = events.split_last().expect("events");
    assert_eq!(last["candidates"][0]["finishReason"], "STOP");
    assert!(others.iter().all(|event| event["candidates"][0].get("finishReason").is_none()));
}

#[tokio::test]
async fn without_sse_a_stream_is_a_json_array() {
    let provider = start_provider().await;
    let response = call(&provider, "streamGenerateContent", &content_body("/tokens 9")).await;
    assert_eq!(response.headers["content-type"], "application/json; charset=UTF-8");
    assert!(
        response.text.contains("}\n,\r\n{") && response.text.ends_with("}\n]"),
        "{}",
        response.text
    );
    let list: Vec<Value> = serde_json::from_str(&response.text).expect("a list");
    assert_eq!(text_of(&list), canned_text::tokens(9).collect::<String>());
    let refused = call(&provider, "streamGenerateContent", &content_body("/error 503")).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()[0]["error"]["status"]),
        (503, &json!("UNAVAILABLE"))
    );
}

#[tokio::test]
async fn limits_and_candidates_work_in_camel_and_snake_case() {
    let provider = start_provider().await;
    for config in [
        json!({"generationConfig": {"maxOutputTokens": 20, "candidateCount": 2}}),
        json!({"generation_config": {"max_output_tokens": 20, "candidate_count": 2}}),
    ] {
        let mut body = content_body("x");
        body.as_object_mut().expect("an object").extend(config.as_object().cloned().expect("one"));
        let response = call(&provider, "generateContent", &body).await.json();
        assert_eq!(response["candidates"].as_array().map(Vec::len), Some(2));
        assert_eq!(response["candidates"][1]["finishReason"], "MAX_TOKENS");
        let usage = &response["usageMetadata"];
        assert_eq!(
            (&usage["candidatesTokenCount"], &usage["thoughtsTokenCount"]),
            (&json!(20), &json!(20))
        );
        let events = events(&call(&provider, "streamGenerateContent?alt=sse", &body).await);
        let last = events.last().expect("a last event");
        assert_eq!((&last["candidates"][0]["index"], &last["usageMetadata"]), (&json!(1), usage));
    }
    let mut body = content_body("/tokens 9");
    body["generationConfig"] = json!({"thinkingConfig": {"thinking_budget": 0}});
    let response = call(&provider, "generateContent", &body).await.json();
    assert!(response["usageMetadata"].get("thoughtsTokenCount").is_none());
}

#[tokio::test]
async fn a_demanded_function_is_called() {
    let provider = start_provider().await;
    let schema = json!({"type": "OBJECT", "properties": {"city": {"type": "STRING"}}});
    let mut body = content_body("x");
    body["tools"] = json!([{"functionDeclarations": [{"name": "weather", "parameters": schema},
        {"name": "time", "parametersJsonSchema": schema}]}]);
    let undemanded = call(&provider, "generateContent", &body).await.json();
    assert!(undemanded["candidates"][0]["content"]["parts"][0]["text"].is_string());
    for (config, name) in [
        (json!({"mode": "ANY"}), "weather"),
        (json!({"mode": "ANY", "allowedFunctionNames": ["time"]}), "time"),
    ] {
        body["toolConfig"] = json!({"functionCallingConfig": config});
        let called = json!({"functionCall": {"name": name, "args": {"city": "demo"}}});
        let complete = call(&provider, "generateContent", &body).await.json();
        assert_eq!(complete["candidates"][0]["content"]["parts"], json!([called]));
        assert_eq!(complete["candidates"][0]["finishReason"], "STOP");
        assert_eq!(complete["usageMetadata"]["candidatesTokenCount"], 4);
        let events = events(&call(&provider, "streamGenerateContent?alt=sse", &body).await);
        assert_eq!(events[0]["candidates"][0]["content"]["parts"], json!([called]));
        let last = events.last().expect("a last event");
        assert_eq!(last["usageMetadata"], complete["usageMetadata"]);
    }
    body["generationConfig"] = json!({"maxOutputTokens": 2});
    let truncated = call(&provider, "generateContent", &body).await.json();
    assert_eq!(truncated["candidates"][0]["content"], json!({"role": "model"}));
    assert_eq!(truncated["candidates"][0]["finishReason"], "MAX_TOKENS");
}

#[tokio::test]
async fn a_stream_can_end_with_an_error() {
    let provider = start_provider().await;
    let broken = call(&provider, "streamGenerateContent?alt=sse", &content_body("/breakoff")).await;
    let events = events(&broken);
    assert!(broken.is_complete && 2 < events.len() && !broken.text.contains("finishReason"));
    assert_eq!(events.last().expect("an error")["error"]["code"], 503);
    for prompt in ["/breakoff", "/breakoff /tokens 0"] {
        let list = call(&provider, "streamGenerateContent", &content_body(prompt)).await;
        let list: Vec<Value> = serde_json::from_str(&list.text).expect("a list");
        assert_eq!(list.last().expect("an error")["error"]["status"], "UNAVAILABLE");
    }
    let complete = call(&provider, "generateContent", &content_body("/breakoff")).await.json();
    assert_eq!(complete["candidates"][0]["finishReason"], "STOP");
}

#[tokio::test]
async fn usage_can_be_turned_off() {
    let provider = start_provider().await;
    let body = content_body("/nousage");
    for verb in ["generateContent", "streamGenerateContent", "streamGenerateContent?alt=sse"] {
        let response = call(&provider, verb, &body).await;
        assert!(
            response.text.contains("STOP") && !response.text.contains("usageMetadata"),
            "{verb}"
        );
    }
}

#[tokio::test]
async fn token_counts_match_content_usage() {
    let provider = start_provider().await;
    let expected = json!({"totalTokens": 17,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 17}]});
    let wrapped = json!({"generateContentRequest": content_body("Say hello.")});
    for body in [content_body("Say hello."), wrapped] {
        assert_eq!(call(&provider, "countTokens", &body).await.json(), expected);
    }
}

#[tokio::test]
async fn texts_are_embedded() {
    let provider = start_provider().await;
    let of = async |verb: &str, body: Value| {
        let path = format!("/v1beta/models/gemini-embedding-001:{verb}");
        provider.post(&path, &body).await
    };
    let content = |text: &str| json!({"parts": [{"text": text}]});
    let one = of("embedContent", json!({"content": content("Say hello.")})).await.json();
    assert_eq!(one["embedding"]["values"].as_array().map(Vec::len), Some(3072));
    let requests = json!({"requests": [
        {"content": content("Say hello."), "outputDimensionality": 4},
        {"content": content("abcd"), "outputDimensionality": 4}]});
    let response = of("batchEmbedContents", requests).await;
    let (first, second) = (embedding_json("Say hello.", 4), embedding_json("abcd", 4));
    let start = format!(r#"{{"embeddings":[{{"values":{first}}},{{"values":{second}}}]"#);
    assert!(response.text.starts_with(&start), "{}", response.text);
    let usage = json!({"promptTokenCount": 4,
        "promptTokenDetails": [{"modality": "TEXT", "tokenCount": 4}]});
    assert_eq!(response.json()["usageMetadata"], usage);
    let bad =
        of("embedContent", json!({"content": content("x"), "outputDimensionality": 5000})).await;
    assert_eq!(error(&bad).0, 400);
    assert_eq!(error(&of("embedContent", json!({})).await).0, 400);
    assert_eq!(error(&of("batchEmbedContents", json!({"requests": []})).await).0, 400);
    assert_eq!(
        error(
            &of("batchEmbedContents", json!({"requests": [{"content": content("/error 429")}]}))
                .await
        )
        .0,
        429
    );
}

#[tokio::test]
async fn errors_have_the_real_wire_format() {
    let provider = start_provider().await;
    for (code, status) in [
        (400_u16, "INVALID_ARGUMENT"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
    ] {
        let body = content_body(&format!("/error {code}"));
        let (fields, error) = error(&call(&provider, "generateContent", &body).await);
        assert_eq!((fields, &error["status"]), (code, &json!(status)));
        let delay = error["details"][0]["retryDelay"].as_str();
        assert_eq!(delay, (code == 429).then_some("1s"));
    }
    for body in [json!({}), json!({"contents": []}), content_body("/tokens many")] {
        assert_eq!(error(&call(&provider, "generateContent", &body).await).0, 400);
    }
    assert_eq!(error(&call(&provider, "sing", &content_body("x")).await).0, 404);
}

#[tokio::test]
async fn models_are_listed() {
    let provider = start_provider().await;
    let list = provider.get("/v1beta/models").await.json();
    let names: Vec<&Value> =
        list["models"].as_array().into_iter().flatten().map(|model| &model["name"]).collect();
    assert_eq!(names, ["models/gemini-2.5-flash", "models/gemini-embedding-001"]);
    let one = provider.get(FLASH).await.json();
    assert_eq!(one["supportedGenerationMethods"], json!(["generateContent", "countTokens"]));
    assert_eq!(error(&provider.get("/v1beta/models/none").await).0, 404);
}
