//! An exchange of a client and a provider, and what of it must come through the gateway: all, but
//! for the one field that is spliced in, and what comes back only because of it.

use crate::harness::json::Json;

/// What a client asks and what a provider answers.
#[derive(Clone, Default)]
pub struct Exchange {
    pub name: String,
    pub target: String,
    /// The client's headers, besides those of every replay.
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub status: u16,
    pub response_headers: Vec<(&'static str, String)>,
    pub response_body: String,
    /// How the answer is coded where it leaves the provider coded.
    pub encoding: &'static str,
}

/// How the answer leaves the provider, and how the body of the request is spaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplayMode {
    /// In one piece under a content-length; the request as it is.
    Whole,
    /// In pieces of any size; the request with a blank after each mark.
    Anywhere,
    /// Byte by byte; the request with blanks, tabs and line ends of both kinds.
    Bytes,
    /// Coded, and cut as in `Anywhere`; the request as it is.
    Coded,
}

impl ReplayMode {
    pub const ALL: [Self; 4] = [Self::Whole, Self::Anywhere, Self::Bytes, Self::Coded];
}

/// The bytes one by one, or cut where the seed says.
pub fn split(mut bytes: &[u8], mut seed: Option<u64>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let length = seed.as_mut().map_or(1, |seed| {
            // Steps of Knuth's generator; its upper bits are the random ones.
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

/// The same JSON with other blanks between its parts; its texts and numbers stay as they are.
pub fn respace(json: &str, cut: ReplayMode) -> String {
    if matches!(cut, ReplayMode::Whole | ReplayMode::Coded) {
        return json.to_owned();
    }
    let (mut out, mut in_text, mut escaped) = (String::new(), false, false);
    for letter in json.chars() {
        let is_blank = !in_text && letter.is_ascii_whitespace();
        let (before, after) = match letter {
            _ if in_text || is_blank => ("", ""),
            ',' | ':' if cut == ReplayMode::Anywhere => ("", " "),
            _ if cut == ReplayMode::Anywhere => ("", ""),
            ',' => (" ", "\r\n\t"),
            ':' => ("  ", "\t"),
            '{' | '[' => ("", "\n "),
            '}' | ']' => ("\n", " "),
            _ => ("", ""),
        };
        if !is_blank {
            out.push_str(before);
            out.push(letter);
            out.push_str(after);
        }
        in_text ^= letter == '"' && !escaped;
        escaped = in_text && letter == '\\' && !escaped;
    }
    out
}

/// Whether the gateway asks for usage where this client did not: streamed chats and completions say
/// nothing of it unless they are asked to.
fn adds_include_usage(target: &str, body: &str) -> bool {
    let body = Json::new(body);
    let is_true = |path: &str| body.find(path).is_some_and(|value| value.is_true());
    (target.starts_with("/v1/chat/completions") || target.starts_with("/v1/completions"))
        && is_true("stream")
        && !is_true("stream_options.include_usage")
}

/// What must reach the provider: what the client sent, but for the one field that is spliced in.
pub fn expected_request(target: &str, body: &str) -> String {
    if !adds_include_usage(target, body) {
        return body.to_owned();
    }
    let options = Json::new(body).find("stream_options");
    let Some(options) = options.filter(|options| !options.is_null()) else {
        assert!(!body.contains("\"stream_options\""), "no exchange has a null there");
        return body.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1);
    };
    let options = options.to_string();
    let asks = if options.contains("\"include_usage\"") {
        options.replacen("false", "true", 1)
    } else if options.contains('"') {
        options.replacen('{', "{\"include_usage\":true,", 1)
    } else {
        options.replacen('{', "{\"include_usage\":true", 1)
    };
    body.replacen(&options, &asks, 1)
}

/// What must reach the client: what the provider sent, without what only the gateway asked for.
pub fn expected_response(exchange: &Exchange, body: &str) -> String {
    let answer = &exchange.response_body;
    let is_stream =
        exchange.response_headers.iter().any(|(_, value)| value.contains("event-stream"));
    if exchange.status != 200 || !is_stream || !adds_include_usage(&exchange.target, body) {
        return answer.clone();
    }
    let end = if answer.contains("\r\n\r\n") { "\r\n\r\n" } else { "\n\n" };
    let events = answer.split_inclusive(end).filter(|event| !is_usage_event(event));
    events.map(|event| event.replacen(",\"usage\":null", "", 1)).collect()
}

/// Whether a coded answer reaches the client as text: what is only there because the gateway asked
/// for it may have to be taken out.
pub fn is_decompressed(exchange: &Exchange, body: &str) -> bool {
    let types = exchange.response_headers.iter().filter(|(name, _)| *name == "content-type");
    let is_document = types.into_iter().any(|(_, value)| value.starts_with("application/json"));
    exchange.status == 200 && !is_document && adds_include_usage(&exchange.target, body)
}

/// Whether an event holds usage and no choices.
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
    for (sent, wanted) in [
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
        assert_eq!(expected_request(chat, sent), wanted);
        assert_eq!(expected_request("/v1/messages", sent), sent);
    }
    let answer =
        "data: {\"choices\":[1],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{}}\n\n";
    let exchange = Exchange {
        target: chat.to_owned(),
        status: 200,
        response_headers: vec![("content-type", "text/event-stream".to_owned())],
        response_body: format!("{answer}data: [DONE]\n\n"),
        ..Exchange::default()
    };
    let stripped = "data: {\"choices\":[1]}\n\ndata: [DONE]\n\n";
    assert_eq!(expected_response(&exchange, r#"{"stream":true}"#), stripped);
    assert_eq!(expected_response(&exchange, "{}"), exchange.response_body);
    assert_eq!(respace(r#"{"a\"{:":[1,{}]}"#, ReplayMode::Anywhere), r#"{"a\"{:": [1, {}]}"#);
    let odd = "{\n \"a\\\"{:\"  :\t[\n 1 ,\r\n\t{\n \n} \n] \n} ";
    assert_eq!(respace(r#"{ "a\"{:": [1,{}]}"#, ReplayMode::Bytes), odd);
    let cut = split(&[7; 5_000], Some(1));
    assert!(cut.len() > 10 && cut.concat() == [7; 5_000], "{}", cut.len());
    assert_eq!(split(b"abc", None), [b"a", b"b", b"c"]);
}
