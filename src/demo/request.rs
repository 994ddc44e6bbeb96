//! What a request asks for, whatever its wire format.

use http::HeaderMap;
use serde_json::{Map, Value};

use crate::demo::canned_text;
use crate::demo::reply::Reply;
use crate::demo::script::{InvalidCommand, Script};

/// A request that was understood.
#[derive(Debug)]
pub struct DemoRequest<T> {
    /// The model.
    pub model: String,
    /// How it wants to be answered.
    pub script: Script,
    /// What it wants.
    pub params: T,
}

/// The wish for a text.
#[derive(Debug)]
pub struct GenerationParams {
    /// How many input tokens it comes to, at least 1.
    pub input_tokens: u64,
    /// The most output tokens of an answer, its thoughts included.
    pub output_bound: Option<u64>,
    /// How many hidden tokens the model spends unless the script says.
    pub reasoning_tokens: u64,
    /// How many answers are given.
    pub choices: u64,
    /// How many are made for that, and counted.
    pub generations: u64,
    /// The tool that shall be called instead of saying something.
    pub tool: Option<ToolInvocation>,
    /// Whether the answer is a stream.
    pub is_stream: bool,
    /// Whether a stream tells its usage.
    pub includes_usage: bool,
}

/// A tool, and what it is called with.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolInvocation {
    /// Its name.
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
    /// Whether the request named it.
    pub was_named: bool,
}

/// A wire format's words for why there is no answer.
pub trait WireError {
    /// What the real provider says with that status.
    fn of_status(status: u16, model: &str) -> Self;
    /// As it is sent.
    fn to_reply(&self) -> Reply;
}

/// A value that is no number of its range.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// Its name in the request.
    pub name: &'static str,
    /// What is wrong.
    pub message: String,
}

/// The most answers to one question.
pub const CHOICES_MAX: u64 = 8;
/// Hidden tokens of a reasoning model.
pub const REASONING_TOKENS: u64 = 32;
/// Tokens that a message costs besides its text, and a prompt besides its messages.
const MESSAGE_TOKENS: u64 = 4;
const PROMPT_TOKENS: u64 = 3;
const IMAGE_TOKENS: u64 = 85;

/// The answer to what was understood, or the error that it asks for, or what was not understood.
pub fn respond<T, C: WireError>(
    asked: Result<DemoRequest<T>, C>,
    answer: impl FnOnce(&DemoRequest<T>) -> Reply,
) -> (Reply, Script) {
    match asked {
        Ok(asked) => {
            let reply = match asked.script.status {
                Some(status) => C::of_status(status, &asked.model).to_reply(),
                None => answer(&asked),
            };
            (reply, asked.script)
        }
        Err(complaint) => (complaint.to_reply(), Script::default()),
    }
}

/// The script of a request whose last words are `prompt`.
pub fn read_script(headers: &HeaderMap, prompt: &str) -> Result<Script, InvalidCommand> {
    Script::from_headers(headers)?.with_prompt_commands(prompt)
}

/// A number from 1 to `most`, or none.
pub fn positive_integer(
    value: &Value,
    name: &'static str,
    most: u64,
) -> Result<Option<u64>, OutOfRange> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().filter(|number| (1..=most).contains(number));
    let message = || format!("Invalid '{name}': an integer from 1 to {most} is expected.");
    number.map(Some).ok_or_else(|| OutOfRange { name, message: message() })
}

/// The text of a message, which is one text or a list of parts.
pub fn text_of(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    let texts = parts.map(|part| match part["text"].as_str() {
        Some(text) => text.to_owned(),
        // The result of a tool has contents of its own.
        None => text_of(&part["content"]),
    });
    content.as_str().map(str::to_owned).into_iter().chain(texts).collect()
}

/// How many tokens a conversation comes to.
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
    /// The tool of that name, or else the first, called with a value for each of its properties.
    pub fn choose<'a>(
        mut tools: impl Iterator<Item = (&'a Value, &'a Value)>,
        name: Option<&str>,
    ) -> Option<Self> {
        let (known, schema) =
            tools.find(|(known, _)| name.is_none_or(|name| known.as_str() == Some(name)))?;
        let arguments = example_object(schema).to_string();
        Some(Self { name: known.as_str()?.to_owned(), arguments, was_named: name.is_some() })
    }
}

/// An object as a schema describes it.
fn example_object(schema: &Value) -> Value {
    let known = schema["properties"].as_object().into_iter().flatten();
    Value::Object(
        known.map(|(name, schema)| (name.clone(), example_value(schema))).collect::<Map<_, _>>(),
    )
}

/// A value as a schema describes it.
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
    fn a_text_is_found_wherever_it_stands() {
        assert_eq!(text_of(&json!("a")), "a");
        assert_eq!(text_of(&json!([{"text": "a"}, {"type": "image"}, {"text": "b"}])), "ab");
        let result = json!([{"type": "tool_result", "content": [{"type": "text", "text": "c"}]}]);
        assert_eq!(text_of(&result), "c");
        assert_eq!(text_of(&Value::Null), "");
    }

    #[test]
    fn a_tool_is_called_as_its_schema_says() {
        let schema = json!({"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "INTEGER"}, "unit": {"enum": ["C", "F"]},
            "also": {"type": ["array", "null"]}, "deep": {"type": "object", "properties":
            {"yes": {"type": "boolean"}}}}});
        let (first, second) = (json!("first"), json!("second"));
        let tools = || [(&first, &Value::Null), (&second, &schema)].into_iter();
        let called = |name| ToolInvocation::choose(tools(), name);
        let chosen = called(Some("second")).expect("known");
        let expected = r#"{"also":[],"city":"demo","days":1,"deep":{"yes":true},"unit":"C"}"#;
        assert_eq!(chosen.arguments, expected);
        let chosen = called(None).expect("a first");
        assert_eq!((&*chosen.name, &*chosen.arguments, chosen.was_named), ("first", "{}", false));
        assert_eq!(called(Some("third")), None);
    }
}
