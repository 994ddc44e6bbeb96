//! Parses requests in the OpenAI dialect.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::demo::canned_text;
use crate::demo::openai::error::OpenAiError;
use crate::demo::request::{
    CHOICES_MAX, DemoRequest, GenerationParams, REASONING_TOKENS, ToolInvocation, input_tokens,
    positive_integer, read_script, text_of,
};
use crate::demo::vector::{EmbeddingParams, dimensions};

/// Largest number of generations for all prompts together.
const COMPLETIONS_MAX: u64 = 32;
const INPUTS_MAX: usize = 2048;
/// Output limit of a legacy completion without `max_tokens`.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// Parses a chat completion request.
pub fn chat(request: &Request<Bytes>) -> Result<DemoRequest<GenerationParams>, OpenAiError> {
    let (body, model) = body_and_model(request)?;
    let messages = messages(&body)?;
    let prompt = messages.last().map(|last| text_of(&last["content"])).unwrap_or_default();
    let script = read_script(request.headers(), &prompt)?;
    let choices = positive_integer(&body["n"], "n", CHOICES_MAX)?.unwrap_or(1);
    let params = GenerationParams {
        input_tokens: input_tokens(
            messages.iter().map(|message| &message["content"]),
            &body["tools"],
        ),
        output_bound: output_bound(&body)?,
        reasoning_tokens: if is_reasoning_model(&model) { REASONING_TOKENS } else { 0 },
        choices,
        generations: choices,
        tool: tool(&body, script.calls_tool, |tool| &tool["function"]),
        is_stream: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or_default(),
    };
    Ok(DemoRequest { model, script, params })
}

/// Parses a legacy completion request.
pub fn text(request: &Request<Bytes>) -> Result<DemoRequest<GenerationParams>, OpenAiError> {
    let (body, model) = body_and_model(request)?;
    let prompts = inputs(&body["prompt"], "prompt")?;
    let script = read_script(request.headers(), prompts.last().map_or("", |last| &last.text))?;
    let per_prompt = positive_integer(&body["n"], "n", CHOICES_MAX)?.unwrap_or(1);
    let generations = positive_integer(&body["best_of"], "best_of", CHOICES_MAX)?
        .unwrap_or(per_prompt)
        .max(per_prompt);
    let prompt_count = prompts.len() as u64;
    if COMPLETIONS_MAX < prompt_count * generations {
        let message = format!("Invalid 'prompt': at most {COMPLETIONS_MAX} choices are allowed.");
        return Err(OpenAiError::invalid_request(message, Some("prompt"), Some("invalid_value")));
    }
    let bound = positive_integer(&body["max_tokens"], "max_tokens", u64::MAX)?
        .unwrap_or(DEFAULT_MAX_TOKENS);
    let params = GenerationParams {
        input_tokens: prompts.iter().map(|prompt| prompt.tokens).sum::<u64>().max(1),
        output_bound: Some(bound),
        reasoning_tokens: 0,
        choices: prompt_count * per_prompt,
        generations: prompt_count * generations,
        tool: None,
        is_stream: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or_default(),
    };
    Ok(DemoRequest { model, script, params })
}

/// Parses a request for a response, its compaction or its input token count.
pub fn response(request: &Request<Bytes>) -> Result<DemoRequest<GenerationParams>, OpenAiError> {
    let (body, model) = body_and_model(request)?;
    let contents = item_contents(&body["input"])?;
    let script =
        read_script(request.headers(), &contents.last().map_or_else(String::new, text_of))?;
    let instructions = Some(&body["instructions"]).filter(|instructions| !instructions.is_null());
    let params = GenerationParams {
        input_tokens: input_tokens(contents.iter().chain(instructions), &body["tools"]),
        output_bound: positive_integer(&body["max_output_tokens"], "max_output_tokens", u64::MAX)?,
        reasoning_tokens: if is_reasoning_model(&model) { REASONING_TOKENS } else { 0 },
        choices: 1,
        generations: 1,
        tool: tool(&body, script.calls_tool, |tool| tool),
        is_stream: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: true,
    };
    Ok(DemoRequest { model, script, params })
}

/// Parses a moderation request and returns the number of inputs. The model is optional.
pub fn moderation(request: &Request<Bytes>) -> Result<DemoRequest<usize>, OpenAiError> {
    let body = body(request)?;
    let model = body["model"].as_str().unwrap_or("omni-moderation-latest").to_owned();
    let input = required_non_empty(&body["input"], "input")?;
    let list = input.as_array();
    let texts = list.filter(|list| list.iter().all(Value::is_string));
    if texts.is_none() && !input.is_string() && !list.is_some_and(|list| list[0].is_object()) {
        return Err(invalid_type("input", "a text, a list of texts or of parts is expected"));
    }
    let prompt = text_of(texts.and_then(|texts| texts.last()).unwrap_or(input));
    let script = read_script(request.headers(), &prompt)?;
    Ok(DemoRequest { model, script, params: texts.map_or(1, Vec::len) })
}

/// Parses an embedding request.
pub fn embedding(request: &Request<Bytes>) -> Result<DemoRequest<EmbeddingParams>, OpenAiError> {
    let (body, model) = body_and_model(request)?;
    let inputs = inputs(&body["input"], "input")?;
    let script = read_script(request.headers(), inputs.last().map_or("", |last| &last.text))?;
    let in_base64 = match body["encoding_format"].as_str().unwrap_or("float") {
        "float" => false,
        "base64" => true,
        other => {
            let message = format!("Invalid 'encoding_format': '{other}' is not float or base64.");
            return Err(OpenAiError::invalid_request(
                message,
                Some("encoding_format"),
                Some("invalid_value"),
            ));
        }
    };
    let params = EmbeddingParams {
        input_tokens: inputs.iter().map(|input| input.tokens).sum::<u64>().max(1),
        dimensions: dimensions(&model, &body["dimensions"], "dimensions")?,
        texts: inputs.into_iter().map(|input| input.text).collect(),
        as_base64: in_base64,
    };
    Ok(DemoRequest { model, script, params })
}

fn body(request: &Request<Bytes>) -> Result<Value, OpenAiError> {
    serde_json::from_slice(request.body()).map_err(|_| {
        OpenAiError::invalid_request(
            "We could not parse the JSON body of your request.",
            None,
            None,
        )
    })
}

fn body_and_model(request: &Request<Bytes>) -> Result<(Value, String), OpenAiError> {
    let body = body(request)?;
    let model = body["model"].as_str().filter(|model| !model.is_empty()).map(str::to_owned);
    let missing = || OpenAiError::invalid_request("you must provide a model parameter", None, None);
    Ok((body, model.ok_or_else(missing)?))
}

fn missing_param(name: &'static str) -> OpenAiError {
    let message = format!("Missing required parameter: '{name}'.");
    OpenAiError::invalid_request(message, Some(name), Some("missing_required_parameter"))
}

fn empty_array(name: &'static str) -> OpenAiError {
    let message = format!(
        "Invalid '{name}': empty array. Expected an array with minimum length 1, but got an \
         empty array instead."
    );
    OpenAiError::invalid_request(message, Some(name), Some("empty_array"))
}

fn invalid_type(name: &'static str, expected: &str) -> OpenAiError {
    OpenAiError::invalid_request(
        format!("Invalid '{name}': {expected}."),
        Some(name),
        Some("invalid_type"),
    )
}

/// Returns the value, or an error if it is missing or an empty list.
fn required_non_empty<'a>(value: &'a Value, name: &'static str) -> Result<&'a Value, OpenAiError> {
    match value {
        Value::Null => Err(missing_param(name)),
        Value::Array(list) if list.is_empty() => Err(empty_array(name)),
        _ => Ok(value),
    }
}

fn messages(body: &Value) -> Result<&[Value], OpenAiError> {
    let messages = required_non_empty(&body["messages"], "messages")?.as_array();
    messages.map(Vec::as_slice).ok_or_else(|| missing_param("messages"))
}

/// Returns the content of each input item: messages, function calls and their results.
fn item_contents(input: &Value) -> Result<Vec<Value>, OpenAiError> {
    let content = |item: &Value| {
        let mut fields = ["content", "output", "arguments"].into_iter();
        fields.find_map(|name| item.get(name)).cloned().unwrap_or_default()
    };
    match required_non_empty(input, "input")? {
        Value::String(_) => Ok(vec![input.clone()]),
        Value::Array(items) => Ok(items.iter().map(content).collect()),
        _ => Err(invalid_type("input", "a text or a list of items is expected")),
    }
}

fn output_bound(body: &Value) -> Result<Option<u64>, OpenAiError> {
    let of = |name| positive_integer(&body[name], name, u64::MAX);
    let (new, old) = (of("max_completion_tokens")?, of("max_tokens")?);
    if new.is_some() && old.is_some() {
        let message =
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        let code = Some("invalid_parameter_combination");
        return Err(OpenAiError::invalid_request(message, Some("max_tokens"), code));
    }
    Ok(new.or(old))
}

/// Returns the function that the request or the script demands. `function` extracts it from a tool.
fn tool(body: &Value, called: bool, function: fn(&Value) -> &Value) -> Option<ToolInvocation> {
    let choice = &body["tool_choice"];
    let name = function(choice)["name"].as_str();
    let must = called || name.is_some() || choice == "required";
    let functions = body["tools"].as_array().into_iter().flatten().map(function);
    let functions = functions.map(|function| (&function["name"], &function["parameters"]));
    ToolInvocation::choose(functions, name).filter(|_| must)
}

/// Matches `gpt-5…`, `o1…` and `o4-mini`.
fn is_reasoning_model(model: &str) -> bool {
    let is_numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    model.starts_with("gpt-5") || model.strip_prefix('o').is_some_and(is_numbered)
}

/// One input: a text, or a list of token ids with its JSON text.
struct Input {
    text: String,
    tokens: u64,
}

/// Parses a text, a list of texts, a list of token ids or a list of such lists.
fn inputs(value: &Value, name: &'static str) -> Result<Vec<Input>, OpenAiError> {
    let of_tokens = |value: &Value| {
        value.as_array().filter(|list| list.iter().all(Value::is_u64)).map(Vec::len)
    };
    let input = |value: &Value| match (value.as_str(), of_tokens(value)) {
        (Some(text), _) => {
            Some(Input { text: text.to_owned(), tokens: canned_text::estimate_tokens(text) })
        }
        (None, Some(tokens)) => Some(Input { text: value.to_string(), tokens: tokens as u64 }),
        (None, None) => None,
    };
    let value = required_non_empty(value, name)?;
    let inputs = match (input(value), value.as_array()) {
        (Some(single), _) => Some(vec![single]),
        (None, Some(list)) if list.len() <= INPUTS_MAX => list.iter().map(input).collect(),
        _ => None,
    };
    inputs.ok_or_else(|| invalid_type(name, "a text, a list of tokens or of texts is expected"))
}
