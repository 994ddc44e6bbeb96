//! A parsed request, independent of its wire format.

use http::HeaderMap;
use serde_json::{Map, Value};

use crate::demo::canned_text;
use crate::demo::reply::Reply;
use crate::demo::script::{InvalidCommand, Script};

/// A parsed request.
#[derive(Debug)]
pub struct DemoRequest<T> {
    pub model: String,
    /// How to respond.
    pub script: Script,
    pub params: T,
}

/// Parameters of a request that generates text.
#[derive(Debug)]
pub struct GenerationParams {
    /// Estimated input tokens, at least 1.
    pub input_tokens: u64,
    /// Output limit per choice, including reasoning tokens.
    pub output_bound: Option<u64>,
    /// Reasoning tokens, unless the script sets them.
    pub reasoning_tokens: u64,
    /// Number of choices in the response.
    pub choices: u64,
    /// Number of choices generated and counted, of which the response holds `choices`.
    pub generations: u64,
    /// The tool to call instead of generating text.
    pub tool: Option<ToolInvocation>,
    pub is_stream: bool,
    /// Whether a stream reports usage.
    pub includes_usage: bool,
}

/// A tool call.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolInvocation {
    pub name: String,
    /// A JSON object, serialized.
    pub arguments: String,
    /// Whether the request named the tool.
    pub was_named: bool,
}

/// An error in the wire format of a dialect.
pub trait WireError {
    /// Creates the error that the real provider sends with this status.
    fn of_status(status: u16, model: &str) -> Self;
    fn to_reply(&self) -> Reply;
}

/// An integer parameter out of range.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// Name of the parameter.
    pub name: &'static str,
    pub message: String,
}

/// Largest number of choices.
pub const CHOICES_MAX: u64 = 8;
/// Reasoning tokens of a reasoning model.
pub const REASONING_TOKENS: u64 = 32;
/// Overhead in tokens: per message, and per prompt.
const MESSAGE_TOKENS: u64 = 4;
const PROMPT_TOKENS: u64 = 3;
const IMAGE_TOKENS: u64 = 85;

/// Replies to a parsed request, or with the error that the script demands or that parsing returned.
pub fn respond<T, C: WireError>(
    request: Result<DemoRequest<T>, C>,
    reply: impl FnOnce(&DemoRequest<T>) -> Reply,
) -> (Reply, Script) {
    match request {
        Ok(request) => {
            let reply = match request.script.status {
                Some(status) => C::of_status(status, &request.model).to_reply(),
                None => reply(&request),
            };
            (reply, request.script)
        }
        Err(error) => (error.to_reply(), Script::default()),
    }
}

/// Reads the script from the headers and the last prompt.
pub fn read_script(headers: &HeaderMap, prompt: &str) -> Result<Script, InvalidCommand> {
    Script::from_headers(headers)?.with_prompt_commands(prompt)
}

/// Parses an integer from 1 to `max`; `None` for `null`.
pub fn positive_integer(
    value: &Value,
    name: &'static str,
    max: u64,
) -> Result<Option<u64>, OutOfRange> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().filter(|number| (1..=max).contains(number));
    let message = || format!("Invalid '{name}': an integer from 1 to {max} is expected.");
    number.map(Some).ok_or_else(|| OutOfRange { name, message: message() })
}

/// Returns the text of a message, given as a string or a list of parts.
pub fn text_of(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    let texts = parts.map(|part| match part["text"].as_str() {
        Some(text) => text.to_owned(),
        // Tool results nest their content.
        None => text_of(&part["content"]),
    });
    content.as_str().map(str::to_owned).into_iter().chain(texts).collect()
}

/// Estimates the input tokens of a conversation.
pub fn input_tokens<'a>(contents: impl Iterator<Item = &'a Value>, tools: &Value) -> u64 {
    let counted: u64 = contents.map(|content| MESSAGE_TOKENS + content_tokens(content)).sum();
    let tools = if tools.is_null() { 0 } else { canned_text::estimate_tokens(&tools.to_string()) };
    PROMPT_TOKENS + counted + tools
}

fn content_tokens(content: &Value) -> u64 {
    let parts = content.as_array().into_iter().flatten();
    let images = parts.filter(|part| is_image(part)).count() as u64;
    canned_text::estimate_tokens(&text_of(content)) + images * IMAGE_TOKENS
}

fn is_image(part: &Value) -> bool {
    let media = ["inlineData", "inline_data", "fileData", "file_data"];
    matches!(part["type"].as_str(), Some("image_url" | "image" | "input_image"))
        || media.iter().any(|name| part.get(name).is_some())
}

impl ToolInvocation {
    /// Picks the named tool, or the first one, with an example value for each of its properties.
    pub fn choose<'a>(
        mut tools: impl Iterator<Item = (&'a Value, &'a Value)>,
        name: Option<&str>,
    ) -> Option<Self> {
        let (tool, schema) =
            tools.find(|(tool, _)| name.is_none_or(|name| tool.as_str() == Some(name)))?;
        let arguments = example_object(schema).to_string();
        Some(Self { name: tool.as_str()?.to_owned(), arguments, was_named: name.is_some() })
    }
}

/// Returns an example object of a JSON schema.
fn example_object(schema: &Value) -> Value {
    let properties = schema["properties"].as_object().into_iter().flatten();
    Value::Object(
        properties
            .map(|(name, schema)| (name.clone(), example_value(schema)))
            .collect::<Map<_, _>>(),
    )
}

/// Returns an example value of a JSON schema.
fn example_value(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind.to_ascii_lowercase().as_str() {
        "object" => example_object(schema),
        "array" => Value::Array(Vec::new()),
        "integer" | "number" => Value::from(1),
        "boolean" => Value::from(true),
        "null" => Value::Null,
        _ => Value::from("demo"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_found_in_every_form_of_content() {
        assert_eq!(text_of(&json!("a")), "a");
        assert_eq!(text_of(&json!([{"text": "a"}, {"type": "image"}, {"text": "b"}])), "ab");
        let result = json!([{"type": "tool_result", "content": [{"type": "text", "text": "c"}]}]);
        assert_eq!(text_of(&result), "c");
        assert_eq!(text_of(&Value::Null), "");
    }

    #[test]
    fn tool_arguments_follow_the_schema() {
        let schema = json!({"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "INTEGER"}, "unit": {"enum": ["C", "F"]},
            "also": {"type": ["array", "null"]}, "deep": {"type": "object", "properties":
            {"yes": {"type": "boolean"}}}}});
        let (first, second) = (json!("first"), json!("second"));
        let tools = || [(&first, &Value::Null), (&second, &schema)].into_iter();
        let called = |name| ToolInvocation::choose(tools(), name);
        let chosen = called(Some("second")).expect("a tool");
        let expected = r#"{"also":[],"city":"demo","days":1,"deep":{"yes":true},"unit":"C"}"#;
        assert_eq!(chosen.arguments, expected);
        let chosen = called(None).expect("a first");
        assert_eq!((&*chosen.name, &*chosen.arguments, chosen.was_named), ("first", "{}", false));
        assert_eq!(called(Some("third")), None);
    }
}
