//! What Google's Gemini says, byte for byte, and what the tests ask it.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::Usage;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};

/// The words of the fake answer; the last ones look like usage and like an event, and are not.
pub const WORDS: &[&str] = &[
    "Hello",
    ", wörld",
    " 🌍",
    r#" \"usageMetadata\": {\"promptTokenCount\": 9}"#,
    r"}\r\n\r\ndata: {}\r\n\r\n",
];

/// The tool that it calls when it is offered any.
pub const TOOL: &str = "get_weather";

/// How it embeds any text.
pub const VALUES: &str = "[0.25, -0.5, 0.125]";

const STEM: &str = r#""modelVersion": "gemini-fake-1","responseId": "fake-1""#;

/// Thoughts are counted apart from the answer, and what is zero is left out.
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

/// The body of a call that was not streamed.
pub fn complete_content(usage: Usage) -> String {
    candidate_json(&text_part(&WORDS.concat()), true, usage)
}

/// The same for a call that offers a tool.
pub fn tool_call(usage: Usage) -> String {
    candidate_json(&function_call_part(), true, usage)
}

/// The chunks of a streamed call, framed by nothing yet: all but the last know the input only.
pub fn chunks(words: &[&str], usage: Usage) -> Vec<String> {
    let so_far = Usage::of(usage.prompt, 0);
    let said = words.iter().map(|word| candidate_json(&text_part(word), false, so_far));
    said.chain([candidate_json(&text_part(""), true, usage)]).collect()
}

/// The same for a call that offers a tool.
pub fn tool_chunks(usage: Usage) -> Vec<String> {
    vec![
        candidate_json(&function_call_part(), false, usage),
        candidate_json(&text_part(""), true, usage),
    ]
}

/// Server-sent events, as `?alt=sse` asks for them: lines end with CRLF, and no `[DONE]` comes.
pub fn events(chunks: &[String]) -> Vec<String> {
    chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect()
}

/// What comes without `?alt=sse`: the chunks as one JSON array, an element at a time.
pub fn array(chunks: &[String]) -> Vec<String> {
    let mut pieces: Vec<String> = chunks.iter().map(|chunk| format!(",\r\n{chunk}\n")).collect();
    if let Some(first) = pieces.first_mut() {
        first.replace_range(..",\r\n".len(), "[");
    }
    pieces.push("]".to_owned());
    pieces
}

/// The answer of `countTokens`.
pub fn token_count(usage: Usage) -> String {
    let details = details(usage);
    format!(r#"{{"totalTokens": {},"promptTokensDetails": {details}}}"#, usage.prompt)
}

/// The answer of `embedContent`.
pub fn embedding(usage: Usage) -> String {
    format!(r#"{{"embedding": {{"values": {VALUES}}},{}}}"#, embedding_usage(usage))
}

/// The answer of `batchEmbedContents` to this many requests.
pub fn batch_embeddings(requests: usize, usage: Usage) -> String {
    let each = vec![format!(r#"{{"values": {VALUES}}}"#); requests].join(",");
    format!(r#"{{"embeddings": [{each}],{}}}"#, embedding_usage(usage))
}

/// No total, and another name for the details than elsewhere.
fn embedding_usage(usage: Usage) -> String {
    let (prompt, details) = (usage.prompt, details(usage));
    format!(r#""usageMetadata": {{"promptTokenCount": {prompt},"promptTokenDetails": {details}}}"#)
}

/// An error of Google's own, such as 503 `UNAVAILABLE`.
pub fn error(code: u16, status: &str) -> String {
    format!(r#"{{"error": {{"code": {code},"message": "Failed by plan","status": "{status}"}}}}"#)
}

/// The same in the midst of server-sent events.
pub fn error_event(code: u16, status: &str) -> String {
    format!("data: {}\r\n\r\n", error(code, status))
}

/// Answers as the path and the body ask: counted, embedded, streamed (either way) or whole, with a
/// tool where one is offered.
pub fn reply(seen: &ReceivedRequest, usage: Usage, pace: Duration) -> Plan {
    let offered = seen.json().find("tools").is_some();
    let asked = |method: &str| seen.target.contains(method);
    if asked(":countTokens") {
        json(200, token_count(usage))
    } else if asked(":embedContent") {
        json(200, embedding(usage))
    } else if asked(":batchEmbedContents") {
        json(200, batch_embeddings(seen.json().at("requests").list().len(), usage))
    } else if asked(":streamGenerateContent") {
        let chunks = if offered { tool_chunks(usage) } else { chunks(WORDS, usage) };
        if asked("alt=sse") {
            return Plan::stream(events(&chunks), pace);
        }
        let mut plan = Plan::stream(array(&chunks), pace);
        plan.headers = json(200, "").headers;
        plan
    } else {
        json(200, if offered { tool_call(usage) } else { complete_content(usage) })
    }
}

/// Google names the character set.
pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Plan {
    let headers = vec![("content-type", "application/json; charset=UTF-8".to_owned())];
    Plan { headers, ..Plan::json(status, body) }
}

/// A call of `:generateContent` or `:streamGenerateContent`, with a bound of its output or without.
pub fn contents(max_output_tokens: Option<u64>) -> String {
    let bound = max_output_tokens.map_or(String::new(), |most| {
        format!(r#","generationConfig":{{"maxOutputTokens":{most}}}"#)
    });
    format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"Say hello."}}]}}]{bound}}}"#)
}

/// Where it is sent; a streamed answer comes as server-sent events.
pub fn target(model: &str, stream: bool) -> String {
    let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    format!("/v1beta/models/{model}:{method}")
}

#[tokio::test]
async fn fake_gemini_responses_are_valid_json_and_report_usage() {
    let usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 1 };
    let provider = Upstream::start(move |seen| reply(seen, usage, Duration::ZERO)).await;
    let address = provider.url.trim_start_matches("http://");
    let ask = async |path: &str, body: &str| {
        let request = Request::post(path, body);
        request.send(address).await.text().await
    };
    let whole = |said: &Json| {
        assert_eq!(said.at("usageMetadata.promptTokenCount").count(), 14);
        assert_eq!(said.at("usageMetadata.candidatesTokenCount").count(), 5, "without thoughts");
        assert_eq!(said.at("usageMetadata.thoughtsTokenCount").count(), 1);
        assert_eq!(said.at("usageMetadata.totalTokenCount").count(), 20);
    };
    let plain = contents(Some(20));
    let offering = contents(None).replacen('{', r#"{"tools":[],"#, 1);
    for (body, chunks) in [(&plain, WORDS.len() + 1), (&offering, 2)] {
        whole(&Json::new(&ask(&target("gemini-fake-1", false), body).await));
        let streamed = target("gemini-fake-1", true);
        let events = ask(&streamed, body).await;
        let events: Vec<Json> = events
            .split_terminator("\r\n\r\n")
            .map(|event| Json::new(event.strip_prefix("data: ").expect("only data")))
            .collect();
        assert_eq!(events.len(), chunks);
        whole(&events[chunks - 1]);
        let array = ask(streamed.trim_end_matches("?alt=sse"), body).await;
        assert_eq!(Json::new(&array).list(), events, "the same in the other framing");
    }
    let path = |method: &str| format!("/v1beta/models/gemini-fake-1:{method}");
    let counted = Json::new(&ask(&path("countTokens"), &plain).await);
    assert_eq!(counted.at("totalTokens").count(), 14);
    let embedded = Json::new(&ask(&path("embedContent"), &plain).await);
    assert_eq!(embedded.at("embedding.values").list().len(), 3);
    let batch = Json::new(&ask(&path("batchEmbedContents"), r#"{"requests":[1,2]}"#).await);
    assert_eq!(batch.at("embeddings").list().len(), 2);
    assert_eq!(batch.at("usageMetadata.promptTokenCount").count(), 14);
    let event = error_event(503, "UNAVAILABLE");
    let data = event.strip_prefix("data: ").expect("only data");
    assert_eq!(Json::new(data).at("error.status").text(), "UNAVAILABLE");
}
