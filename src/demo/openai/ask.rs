//! What a chat completion asks for, and what is wrong with one that cannot be understood.

use http::HeaderMap;
use serde_json::Value;

use crate::demo::openai::complaint::Complaint;
use crate::demo::prose;
use crate::demo::script::{Misunderstood, Script};

/// A chat completion as it was asked for.
#[derive(Debug)]
pub struct Ask {
    /// The model.
    pub model: String,
    /// How many input tokens it comes to.
    pub input_tokens: u64,
    /// The most output tokens of a choice.
    pub output_bound: Option<u64>,
    /// How many answers.
    pub choices: u64,
    /// Whether the answer is a stream.
    pub streams: bool,
    /// Whether a stream tells its usage.
    pub includes_usage: bool,
}

const CHOICES_MAX: u64 = 8;
/// Tokens that a message costs besides its text, and a prompt besides its messages.
const MESSAGE_TOKENS: u64 = 4;
const PROMPT_TOKENS: u64 = 3;
const IMAGE_TOKENS: u64 = 85;

/// Reads a request, and how it wants to be answered.
pub fn understand(headers: &HeaderMap, body: &[u8]) -> Result<(Ask, Script), Complaint> {
    let body: Value = serde_json::from_slice(body).map_err(|_| {
        Complaint::about("We could not parse the JSON body of your request.", None, None)
    })?;
    let model = body["model"].as_str().filter(|model| !model.is_empty());
    let model =
        model.ok_or_else(|| Complaint::about("you must provide a model parameter", None, None))?;
    let messages = messages(&body)?;
    let output_bound = output_bound(&body)?;
    let counted: u64 =
        messages.iter().map(|message| MESSAGE_TOKENS + content_tokens(&message["content"])).sum();
    let tools = body.get("tools").map_or(0, |tools| prose::tokens_of(&tools.to_string()));
    let ask = Ask {
        model: model.to_owned(),
        input_tokens: PROMPT_TOKENS + counted + tools,
        output_bound,
        choices: whole(&body, "n", CHOICES_MAX)?.unwrap_or(1),
        streams: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or_default(),
    };
    let prompt = messages.last().map(|last| content_text(&last["content"])).unwrap_or_default();
    let script = Script::of_headers(headers).and_then(|script| script.and_words(&prompt));
    let script = script.map_err(|Misunderstood(message)| {
        Complaint::about(message, Some("messages"), Some("invalid_demo_command"))
    })?;
    Ok((ask, script))
}

fn messages(body: &Value) -> Result<&[Value], Complaint> {
    let Some(messages) = body["messages"].as_array() else {
        let code = Some("missing_required_parameter");
        let message = "Missing required parameter: 'messages'.";
        return Err(Complaint::about(message, Some("messages"), code));
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, \
            but got an empty array instead.";
        return Err(Complaint::about(message, Some("messages"), Some("empty_array")));
    }
    Ok(messages)
}

fn output_bound(body: &Value) -> Result<Option<u64>, Complaint> {
    let new = whole(body, "max_completion_tokens", u64::MAX)?;
    let old = whole(body, "max_tokens", u64::MAX)?;
    if new.is_some() && old.is_some() {
        let message =
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        let code = Some("invalid_parameter_combination");
        return Err(Complaint::about(message, Some("max_tokens"), code));
    }
    Ok(new.or(old))
}

fn whole(body: &Value, name: &'static str, most: u64) -> Result<Option<u64>, Complaint> {
    let value = &body[name];
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().filter(|number| (1..=most).contains(number));
    number.map(Some).ok_or_else(|| {
        let message = format!("Invalid '{name}': an integer from 1 to {most} is expected.");
        Complaint::about(message, Some(name), Some("invalid_value"))
    })
}

/// The text of a message, which is one text or a list of parts.
fn content_text(content: &Value) -> String {
    let parts = content.as_array().into_iter().flatten();
    let texts = parts.filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(texts).collect()
}

fn content_tokens(content: &Value) -> u64 {
    let parts = content.as_array().into_iter().flatten();
    let images = parts.filter(|part| part["type"] == "image_url").count() as u64;
    prose::tokens_of(&content_text(content)) + images * IMAGE_TOKENS
}
