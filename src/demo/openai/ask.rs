//! What is asked for in the OpenAI dialect, and what is wrong with what cannot be understood.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::demo::ask::{
    Asked, CHOICES_MAX, THOUGHT_TOKENS, Talk, Tool, input_tokens, script, text_of, whole,
};
use crate::demo::openai::complaint::Complaint;
use crate::demo::prose;
use crate::demo::vector::{Texts, dimensions};

/// Answers to all prompts of a completion together.
const TEXTS_MAX: u64 = 32;
const INPUTS_MAX: usize = 2048;
/// The bound of a completion that has none.
const TEXT_TOKENS: u64 = 16;

/// Reads a chat completion.
pub fn chat(request: &Request<Bytes>) -> Result<Asked<Talk>, Complaint> {
    let (body, model) = body_and_model(request)?;
    let messages = messages(&body)?;
    let prompt = messages.last().map(|last| text_of(&last["content"])).unwrap_or_default();
    let script = script(request.headers(), &prompt)?;
    let choices = whole(&body["n"], "n", CHOICES_MAX)?.unwrap_or(1);
    let wish = Talk {
        input_tokens: input_tokens(messages.iter().map(|said| &said["content"]), &body["tools"]),
        output_bound: output_bound(&body)?,
        thought_tokens: if reasons(&model) { THOUGHT_TOKENS } else { 0 },
        choices,
        drafts: choices,
        tool: tool(&body, script.calls_tool),
        streams: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or_default(),
    };
    Ok(Asked { model, script, wish })
}

/// Reads a completion of the older kind.
pub fn text(request: &Request<Bytes>) -> Result<Asked<Talk>, Complaint> {
    let (body, model) = body_and_model(request)?;
    let prompts = inputs(&body["prompt"], "prompt")?;
    let script = script(request.headers(), prompts.last().map_or("", |last| &last.text))?;
    let each = whole(&body["n"], "n", CHOICES_MAX)?.unwrap_or(1);
    let drafts = whole(&body["best_of"], "best_of", CHOICES_MAX)?.unwrap_or(each).max(each);
    let asked = prompts.len() as u64;
    if TEXTS_MAX < asked * drafts {
        let message = format!("Invalid 'prompt': at most {TEXTS_MAX} answers can be asked for.");
        return Err(Complaint::about(message, Some("prompt"), Some("invalid_value")));
    }
    let bound = whole(&body["max_tokens"], "max_tokens", u64::MAX)?.unwrap_or(TEXT_TOKENS);
    let wish = Talk {
        input_tokens: prompts.iter().map(|prompt| prompt.tokens).sum::<u64>().max(1),
        output_bound: Some(bound),
        thought_tokens: 0,
        choices: asked * each,
        drafts: asked * drafts,
        tool: None,
        streams: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or_default(),
    };
    Ok(Asked { model, script, wish })
}

/// Reads a wish for vectors.
pub fn embedding(request: &Request<Bytes>) -> Result<Asked<Texts>, Complaint> {
    let (body, model) = body_and_model(request)?;
    let inputs = inputs(&body["input"], "input")?;
    let script = script(request.headers(), inputs.last().map_or("", |last| &last.text))?;
    let in_base64 = match body["encoding_format"].as_str().unwrap_or("float") {
        "float" => false,
        "base64" => true,
        other => {
            let message = format!("Invalid 'encoding_format': '{other}' is not float or base64.");
            return Err(Complaint::about(message, Some("encoding_format"), Some("invalid_value")));
        }
    };
    let wish = Texts {
        input_tokens: inputs.iter().map(|input| input.tokens).sum::<u64>().max(1),
        dimensions: dimensions(&model, &body["dimensions"], "dimensions")?,
        texts: inputs.into_iter().map(|input| input.text).collect(),
        in_base64,
    };
    Ok(Asked { model, script, wish })
}

fn body_and_model(request: &Request<Bytes>) -> Result<(Value, String), Complaint> {
    let body: Value = serde_json::from_slice(request.body()).map_err(|_| {
        Complaint::about("We could not parse the JSON body of your request.", None, None)
    })?;
    let model = body["model"].as_str().filter(|model| !model.is_empty()).map(str::to_owned);
    let missing = || Complaint::about("you must provide a model parameter", None, None);
    Ok((body, model.ok_or_else(missing)?))
}

fn missing(name: &'static str) -> Complaint {
    let message = format!("Missing required parameter: '{name}'.");
    Complaint::about(message, Some(name), Some("missing_required_parameter"))
}

fn empty(name: &'static str) -> Complaint {
    let message = format!(
        "Invalid '{name}': empty array. Expected an array with minimum length 1, but got an \
         empty array instead."
    );
    Complaint::about(message, Some(name), Some("empty_array"))
}

fn messages(body: &Value) -> Result<&[Value], Complaint> {
    let messages = body["messages"].as_array().ok_or_else(|| missing("messages"))?;
    if messages.is_empty() { Err(empty("messages")) } else { Ok(messages) }
}

fn output_bound(body: &Value) -> Result<Option<u64>, Complaint> {
    let of = |name| whole(&body[name], name, u64::MAX);
    let (new, old) = (of("max_completion_tokens")?, of("max_tokens")?);
    if new.is_some() && old.is_some() {
        let message =
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        let code = Some("invalid_parameter_combination");
        return Err(Complaint::about(message, Some("max_tokens"), code));
    }
    Ok(new.or(old))
}

/// The function that must be called, or that the script calls.
fn tool(body: &Value, called: bool) -> Option<Tool> {
    let choice = &body["tool_choice"];
    let name = choice["function"]["name"].as_str();
    let must = called || name.is_some() || choice == "required";
    let functions = body["tools"].as_array().into_iter().flatten().map(|tool| &tool["function"]);
    let functions = functions.map(|function| (&function["name"], &function["parameters"]));
    Tool::choose(functions, name).filter(|_| must)
}

/// `gpt-5…`, `o1…`, `o4-mini`.
fn reasons(model: &str) -> bool {
    let numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    model.starts_with("gpt-5") || model.strip_prefix('o').is_some_and(numbered)
}

/// A text, or a list of tokens with the text that they are written in.
struct Input {
    text: String,
    tokens: u64,
}

/// A text, a list of texts, a list of tokens or a list of such lists.
fn inputs(value: &Value, name: &'static str) -> Result<Vec<Input>, Complaint> {
    let of_tokens = |value: &Value| {
        value.as_array().filter(|list| list.iter().all(Value::is_u64)).map(Vec::len)
    };
    let input = |value: &Value| match (value.as_str(), of_tokens(value)) {
        (Some(text), _) => Some(Input { text: text.to_owned(), tokens: prose::tokens_of(text) }),
        (None, Some(tokens)) => Some(Input { text: value.to_string(), tokens: tokens as u64 }),
        (None, None) => None,
    };
    if value.is_null() {
        return Err(missing(name));
    }
    if value.as_array().is_some_and(Vec::is_empty) {
        return Err(empty(name));
    }
    let inputs = match (input(value), value.as_array()) {
        (Some(one), _) => Some(vec![one]),
        (None, Some(list)) if list.len() <= INPUTS_MAX => list.iter().map(input).collect(),
        _ => None,
    };
    inputs.ok_or_else(|| {
        let message =
            format!("Invalid '{name}': a text, a list of tokens or of texts is expected.");
        Complaint::about(message, Some(name), Some("invalid_type"))
    })
}
