//! Byte-exact Gemini responses, and request bodies for the Gemini dialect.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::Usage;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};

/// The text of the fake response, in stream chunks. The last two look like usage and like an event
/// and must not be read as such.
pub const WORDS: &[&str] = &[
    "Hello",
    ", wörld",
    " 🌍",
    r#" \"usageMetadata\": {\"promptTokenCount\": 9}"#,
    r"}\r\n\r\ndata: {}\r\n\r\n",
];

/// The tool that the fake upstream calls if the request offers any tool.
pub const TOOL: &str = "get_weather";

/// The embedding of every text.
pub const VALUES: &str = "[0.25, -0.5, 0.125]";

const STEM: &str = r#""modelVersion": "gemini-fake-1","responseId": "fake-1""#;

/// Gemini counts thoughts separately from candidates and leaves out zero counts.
fn metadata(usage: Usage) -> String {
    let counts = [
        ("promptTokenCount", usage.prompt),
        ("candidatesTokenCount", usage.completion - usage.reasoning),
        ("totalTokenCount", usage.total()),
        ("cachedContentTokenCount", usage.cached),
        ("thoughtsTokenCount", usage.reasoning),
    ];
    let mut members: Vec<String> = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("\"{name}\": {count}"))
        .collect();
    members.push(format!("\"promptTokensDetails\": {}", details(usage)));
    format!("{{{},\"serviceTier\": \"standard\"}}", members.join(","))
}

fn details(usage: Usage) -> String {
    format!(r#"[{{"modality": "TEXT","tokenCount": {}}}]"#, usage.prompt)
}

fn candidate_json(part: &str, last: bool, usage: Usage) -> String {
    let reason = if last { r#","finishReason": "STOP""# } else { "" };
    let usage = metadata(usage);
    format!(
        r#"{{"candidates": [{{"content": {{"parts": [{part}],"role": "model"}}{reason},"index": 0}}],"usageMetadata": {usage},{STEM}}}"#
    )
}

fn text_part(text: &str) -> String {
    format!(r#"{{"text": "{text}"}}"#)
}

fn function_call_part() -> String {
    format!(r#"{{"functionCall": {{"name": "{TOOL}","args": {{"city": "Kraków"}}}}}}"#)
}

/// Response body of `:generateContent`.
pub fn complete_content(usage: Usage) -> String {
    candidate_json(&text_part(&WORDS.concat()), true, usage)
}

/// Like the above, with a tool call.
pub fn tool_call(usage: Usage) -> String {
    candidate_json(&function_call_part(), true, usage)
}

/// Chunks of a streamed call, without framing. All but the last report only the input.
pub fn chunks(words: &[&str], usage: Usage) -> Vec<String> {
    let so_far = Usage::of(usage.prompt, 0);
    let response = words.iter().map(|word| candidate_json(&text_part(word), false, so_far));
    response.chain([candidate_json(&text_part(""), true, usage)]).collect()
}

/// Like the above, with a tool call.
pub fn tool_chunks(usage: Usage) -> Vec<String> {
    vec![
        candidate_json(&function_call_part(), false, usage),
        candidate_json(&text_part(""), true, usage),
    ]
}

/// Server-sent events (`?alt=sse`). Lines end with CRLF, and there is no `[DONE]`.
pub fn events(chunks: &[String]) -> Vec<String> {
    chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect()
}

/// The response without `?alt=sse`: the chunks as one JSON array, one element per piece.
pub fn array(chunks: &[String]) -> Vec<String> {
    let mut pieces: Vec<String> = chunks.iter().map(|chunk| format!(",\r\n{chunk}\n")).collect();
    if let Some(first) = pieces.first_mut() {
        first.replace_range(..",\r\n".len(), "[");
    }
    pieces.push("]".to_owned());
    pieces
}

/// Response body of `countTokens`.
pub fn token_count(usage: Usage) -> String {
    let details = details(usage);
    format!(r#"{{"totalTokens": {},"promptTokensDetails": {details}}}"#, usage.prompt)
}

/// Response body of `embedContent`.
pub fn embedding(usage: Usage) -> String {
    format!(r#"{{"embedding": {{"values": {VALUES}}},{}}}"#, embedding_usage(usage))
}

/// Response body of `batchEmbedContents` for `requests` inputs.
pub fn batch_embeddings(requests: usize, usage: Usage) -> String {
    let each = vec![format!(r#"{{"values": {VALUES}}}"#); requests].join(",");
    format!(r#"{{"embeddings": [{each}],{}}}"#, embedding_usage(usage))
}

/// Embeddings have no total count, and spell the details differently.
fn embedding_usage(usage: Usage) -> String {
    let (prompt, details) = (usage.prompt, details(usage));
    format!(r#""usageMetadata": {{"promptTokenCount": {prompt},"promptTokenDetails": {details}}}"#)
}

/// An error response body, such as 503 `UNAVAILABLE`.
pub fn error(code: u16, status: &str) -> String {
    format!(r#"{{"error": {{"code": {code},"message": "Failed by plan","status": "{status}"}}}}"#)
}

/// The same error as a server-sent event.
pub fn error_event(code: u16, status: &str) -> String {
    format!("data: {}\r\n\r\n", error(code, status))
}

/// The response that fits the path and body: a token count, embeddings, streamed in either framing
/// or whole, with a tool call if a tool is offered.
pub fn reply(seen: &ReceivedRequest, usage: Usage, pace: Duration) -> Plan {
    let offered = seen.json().find("tools").is_some();
    let targets = |method: &str| seen.target.contains(method);
    if targets(":countTokens") {
        json(200, token_count(usage))
    } else if targets(":embedContent") {
        json(200, embedding(usage))
    } else if targets(":batchEmbedContents") {
        json(200, batch_embeddings(seen.json().at("requests").list().len(), usage))
    } else if targets(":streamGenerateContent") {
        let chunks = if offered { tool_chunks(usage) } else { chunks(WORDS, usage) };
        if targets("alt=sse") {
            return Plan::stream(events(&chunks), pace);
        }
        let mut plan = Plan::stream(array(&chunks), pace);
        plan.headers = json(200, "").headers;
        plan
    } else {
        json(200, if offered { tool_call(usage) } else { complete_content(usage) })
    }
}

/// Google's content type includes the character set.
pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Plan {
    let headers = vec![("content-type", "application/json; charset=UTF-8".to_owned())];
    Plan { headers, ..Plan::json(status, body) }
}

/// A request body for `:generateContent` or `:streamGenerateContent`, with or without an output
/// limit.
pub fn contents(max_output_tokens: Option<u64>) -> String {
    let bound = max_output_tokens.map_or(String::new(), |tokens| {
        format!(r#","generationConfig":{{"maxOutputTokens":{tokens}}}"#)
    });
    format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"Say hello."}}]}}]{bound}}}"#)
}

/// The request target. A streamed response uses server-sent events.
pub fn target(model: &str, stream: bool) -> String {
    let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    format!("/v1beta/models/{model}:{method}")
}

#[tokio::test]
async fn fake_gemini_responses_are_valid_json_and_report_usage() {
    let usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 1 };
    let provider = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
    let address = provider.url.trim_start_matches("http://");
    let send = async |path: &str, body: &str| {
        let request = Request::post(path, body);
        request.send(address).await.text().await
    };
    let assert_usage = |response: &Json| {
        assert_eq!(response.at("usageMetadata.promptTokenCount").count(), 14);
        assert_eq!(
            response.at("usageMetadata.candidatesTokenCount").count(),
            5,
            "excludes thoughts"
        );
        assert_eq!(response.at("usageMetadata.thoughtsTokenCount").count(), 1);
        assert_eq!(response.at("usageMetadata.totalTokenCount").count(), 20);
    };
    let plain = contents(Some(20));
    let offering = contents(None).replacen('{', r#"{"tools":[],"#, 1);
    for (body, chunks) in [(&plain, WORDS.len() + 1), (&offering, 2)] {
        assert_usage(&Json::new(&send(&target("gemini-fake-1", false), body).await));
        let streamed = target("gemini-fake-1", true);
        let events = send(&streamed, body).await;
        let events: Vec<Json> = events
            .split_terminator("\r\n\r\n")
            .map(|event| Json::new(event.strip_prefix("data: ").expect("only data")))
            .collect();
        assert_eq!(events.len(), chunks);
        assert_usage(&events[chunks - 1]);
        let array = send(streamed.trim_end_matches("?alt=sse"), body).await;
        assert_eq!(Json::new(&array).list(), events, "the same in the other framing");
    }
    let path = |method: &str| format!("/v1beta/models/gemini-fake-1:{method}");
    let counted = Json::new(&send(&path("countTokens"), &plain).await);
    assert_eq!(counted.at("totalTokens").count(), 14);
    let embedded = Json::new(&send(&path("embedContent"), &plain).await);
    assert_eq!(embedded.at("embedding.values").list().len(), 3);
    let batch = Json::new(&send(&path("batchEmbedContents"), r#"{"requests":[1,2]}"#).await);
    assert_eq!(batch.at("embeddings").list().len(), 2);
    assert_eq!(batch.at("usageMetadata.promptTokenCount").count(), 14);
    let event = error_event(503, "UNAVAILABLE");
    let data = event.strip_prefix("data: ").expect("only data");
    assert_eq!(Json::new(data).at("error.status").text(), "UNAVAILABLE");
}
