//! An exchange between a client and an upstream, and what must pass through the gateway unmodified:
//! everything except the usage request that the gateway adds and the usage that comes back because
//! of it.

use crate::harness::json::Json;

/// A request of a client and the response of an upstream.
#[derive(Clone, Default)]
pub struct Exchange {
    pub name: String,
    pub target: String,
    /// Headers of the client, in addition to those that every replay sends.
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub status: u16,
    pub response_headers: Vec<(&'static str, String)>,
    pub response_body: String,
    /// The content encoding used by [`ReplayMode::Compressed`].
    pub encoding: &'static str,
}

/// How the upstream sends the response, and the whitespace of the request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplayMode {
    /// The response in one piece with a content-length; the request unchanged.
    Whole,
    /// The response in pieces of random size; the request with a space after each `,` and `:`.
    RandomPieces,
    /// The response byte by byte; the request with spaces, tabs and both kinds of line ends.
    Bytes,
    /// The response compressed, in pieces of random size; the request unchanged.
    Compressed,
}

impl ReplayMode {
    pub const ALL: [Self; 4] = [Self::Whole, Self::RandomPieces, Self::Bytes, Self::Compressed];
}

/// Splits into single bytes, or into pieces of random size if there is a seed.
pub fn split(mut bytes: &[u8], mut seed: Option<u64>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let length = seed.as_mut().map_or(1, |seed| {
            // Knuth's generator; the upper bits are the random ones.
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (kind, length) = (*seed >> 62, (*seed >> 33) % 4_096);
            1 + if kind == 0 { length % 7 } else { length % 700 }
        });
        let length = usize::try_from(length).expect("a small number").min(bytes.len());
        pieces.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    pieces
}

/// The same JSON with other whitespace between its parts; strings and numbers are unchanged.
pub fn respace(json: &str, mode: ReplayMode) -> String {
    if matches!(mode, ReplayMode::Whole | ReplayMode::Compressed) {
        return json.to_owned();
    }
    let (mut out, mut in_text, mut escaped) = (String::new(), false, false);
    for character in json.chars() {
        let is_whitespace = !in_text && character.is_ascii_whitespace();
        let (before, after) = match character {
            _ if in_text || is_whitespace => ("", ""),
            ',' | ':' if mode == ReplayMode::RandomPieces => ("", " "),
            _ if mode == ReplayMode::RandomPieces => ("", ""),
            ',' => (" ", "\r\n\t"),
            ':' => ("  ", "\t"),
            '{' | '[' => ("", "\n "),
            '}' | ']' => ("\n", " "),
            _ => ("", ""),
        };
        if !is_whitespace {
            out.push_str(before);
            out.push(character);
            out.push_str(after);
        }
        in_text ^= character == '"' && !escaped;
        escaped = in_text && character == '\\' && !escaped;
    }
    out
}

/// True if the gateway must request usage that the client did not: streamed chat and text
/// completions report none unless asked to.
fn adds_include_usage(target: &str, body: &str) -> bool {
    let body = Json::new(body);
    let is_true = |path: &str| body.find(path).is_some_and(|value| value.is_true());
    (target.starts_with("/v1/chat/completions") || target.starts_with("/v1/completions"))
        && is_true("stream")
        && !is_true("stream_options.include_usage")
}

/// The request body that must reach the upstream: the client's body plus the usage request.
pub fn expected_request(target: &str, body: &str) -> String {
    if !adds_include_usage(target, body) {
        return body.to_owned();
    }
    let options = Json::new(body).find("stream_options");
    let Some(options) = options.filter(|options| !options.is_null()) else {
        assert!(!body.contains("\"stream_options\""), "no exchange has a null `stream_options`");
        return body.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1);
    };
    let options = options.to_string();
    let with_usage = if options.contains("\"include_usage\"") {
        options.replacen("false", "true", 1)
    } else if options.contains('"') {
        options.replacen('{', "{\"include_usage\":true,", 1)
    } else {
        options.replacen('{', "{\"include_usage\":true", 1)
    };
    body.replacen(&options, &with_usage, 1)
}

/// The response body that must reach the client: the upstream's body without usage that only the
/// gateway requested.
pub fn expected_response(exchange: &Exchange, body: &str) -> String {
    let response = &exchange.response_body;
    let is_stream =
        exchange.response_headers.iter().any(|(_, value)| value.contains("event-stream"));
    if exchange.status != 200 || !is_stream || !adds_include_usage(&exchange.target, body) {
        return response.clone();
    }
    let end = if response.contains("\r\n\r\n") { "\r\n\r\n" } else { "\n\n" };
    let events = response.split_inclusive(end).filter(|event| !is_usage_event(event));
    events.map(|event| event.replacen(",\"usage\":null", "", 1)).collect()
}

/// True if a compressed response reaches the client decompressed, because usage may have to be
/// removed.
pub fn is_decompressed(exchange: &Exchange, body: &str) -> bool {
    let types = exchange.response_headers.iter().filter(|(name, _)| *name == "content-type");
    let is_document = types.into_iter().any(|(_, value)| value.starts_with("application/json"));
    exchange.status == 200 && !is_document && adds_include_usage(&exchange.target, body)
}

/// True if the event has usage and no choices.
fn is_usage_event(event: &str) -> bool {
    let mut data = event.lines().filter_map(|line| line.strip_prefix("data:"));
    let Some(data) = data.next().filter(|data| data.contains("\"choices\"")) else { return false };
    let data = Json::new(data);
    let has_usage = data.find("usage").is_some_and(|usage| !usage.is_null());
    has_usage && data.at("choices").to_string() == "[]"
}

#[test]
fn expectations_match_handwritten_examples() {
    let chat = "/v1/chat/completions";
    for (sent, expected) in [
        (r#"{"stream":false}"#, r#"{"stream":false}"#),
        (r#" {"stream":true}"#, r#" {"stream_options":{"include_usage":true},"stream":true}"#),
        (
            r#"{"stream":true,"stream_options":{ "include_usage" : false }}"#,
            r#"{"stream":true,"stream_options":{ "include_usage" : true }}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{ "x" :1}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true, "x" :1}}"#,
        ),
    ] {
        assert_eq!(expected_request(chat, sent), expected);
        assert_eq!(expected_request("/v1/messages", sent), sent);
    }
    let response =
        "data: {\"choices\":[1],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{}}\n\n";
    let exchange = Exchange {
        target: chat.to_owned(),
        status: 200,
        response_headers: vec![("content-type", "text/event-stream".to_owned())],
        response_body: format!("{response}data: [DONE]\n\n"),
        ..Exchange::default()
    };
    let stripped = "data: {\"choices\":[1]}\n\ndata: [DONE]\n\n";
    assert_eq!(expected_response(&exchange, r#"{"stream":true}"#), stripped);
    assert_eq!(expected_response(&exchange, "{}"), exchange.response_body);
    assert_eq!(respace(r#"{"a\"{:":[1,{}]}"#, ReplayMode::RandomPieces), r#"{"a\"{:": [1, {}]}"#);
    let expected_whitespace = "{\n \"a\\\"{:\"  :\t[\n 1 ,\r\n\t{\n \n} \n] \n} ";
    assert_eq!(respace(r#"{ "a\"{:": [1,{}]}"#, ReplayMode::Bytes), expected_whitespace);
    let mode = split(&[7; 5_000], Some(1));
    assert!(mode.len() > 10 && mode.concat() == [7; 5_000], "{}", mode.len());
    assert_eq!(split(b"abc", None), [b"a", b"b", b"c"]);
}
