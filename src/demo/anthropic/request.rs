//! Parses requests in the Anthropic dialect.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::demo::anthropic::error::AnthropicError;
use crate::demo::request::{
    DemoRequest, GenerationParams, REASONING_TOKENS, ToolInvocation, input_tokens,
    positive_integer, read_script, text_of,
};

/// Parses a message or token count request. Unlike with the real provider, `max_tokens` is
/// optional.
pub fn read(request: &Request<Bytes>) -> Result<DemoRequest<GenerationParams>, AnthropicError> {
    if !request.headers().contains_key("anthropic-version") {
        return Err(AnthropicError::invalid_request("anthropic-version: header is required"));
    }
    let body: Value = serde_json::from_slice(request.body()).map_err(|error| {
        AnthropicError::invalid_request(format!("The request body is not valid JSON: {error}"))
    })?;
    let model = body["model"].as_str().filter(|model| !model.is_empty());
    let model =
        model.ok_or_else(|| AnthropicError::invalid_request("model: Field required"))?.to_owned();
    let messages = body["messages"].as_array();
    let messages =
        messages.ok_or_else(|| AnthropicError::invalid_request("messages: Field required"))?;
    let last = messages.last().map(|last| &last["content"]);
    let last = last.ok_or_else(|| {
        AnthropicError::invalid_request("messages: at least one message is required")
    })?;
    let script = read_script(request.headers(), &text_of(last))?;
    let system = body.get("system").into_iter();
    let contents = messages.iter().map(|message| &message["content"]).chain(system);
    let params = GenerationParams {
        input_tokens: input_tokens(contents, &body["tools"]),
        output_bound: positive_integer(&body["max_tokens"], "max_tokens", u64::MAX)?,
        reasoning_tokens: reasoning_tokens(&body["thinking"]),
        choices: 1,
        generations: 1,
        tool: tool(&body, script.calls_tool),
        is_stream: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: true,
    };
    Ok(DemoRequest { model, script, params })
}

fn reasoning_tokens(thinking: &Value) -> u64 {
    let budget = thinking["budget_tokens"].as_u64().unwrap_or(REASONING_TOKENS);
    match thinking["type"].as_str() {
        Some("enabled" | "adaptive") => REASONING_TOKENS.min(budget),
        _ => 0,
    }
}

/// Returns the tool that the request or the script demands.
fn tool(body: &Value, called: bool) -> Option<ToolInvocation> {
    let choice = &body["tool_choice"];
    let must = called || matches!(choice["type"].as_str(), Some("any" | "tool"));
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools = tools.map(|tool| (&tool["name"], &tool["input_schema"]));
    ToolInvocation::choose(tools, choice["name"].as_str()).filter(|_| must)
}
