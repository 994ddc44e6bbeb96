//! What a message asks for, and what is wrong with one that cannot be understood.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::demo::anthropic::complaint::Complaint;
use crate::demo::ask::{Asked, THOUGHT_TOKENS, Talk, Tool, input_tokens, script, text_of, whole};

/// Reads a message, or the wish to count its tokens. It may lack its bound, which the real one
/// insists on.
pub fn understand(request: &Request<Bytes>) -> Result<Asked<Talk>, Complaint> {
    if !request.headers().contains_key("anthropic-version") {
        return Err(Complaint::about("anthropic-version: header is required"));
    }
    let body: Value = serde_json::from_slice(request.body()).map_err(|fault| {
        Complaint::about(format!("The request body is not valid JSON: {fault}"))
    })?;
    let model = body["model"].as_str().filter(|model| !model.is_empty());
    let model = model.ok_or_else(|| Complaint::about("model: Field required"))?.to_owned();
    let messages = body["messages"].as_array();
    let messages = messages.ok_or_else(|| Complaint::about("messages: Field required"))?;
    let last = messages.last().map(|last| &last["content"]);
    let last =
        last.ok_or_else(|| Complaint::about("messages: at least one message is required"))?;
    let script = script(request.headers(), &text_of(last))?;
    let system = body.get("system").into_iter();
    let contents = messages.iter().map(|message| &message["content"]).chain(system);
    let wish = Talk {
        input_tokens: input_tokens(contents, &body["tools"]),
        output_bound: whole(&body["max_tokens"], "max_tokens", u64::MAX)?,
        thought_tokens: thought_tokens(&body["thinking"]),
        choices: 1,
        drafts: 1,
        tool: tool(&body, script.calls_tool),
        streams: body["stream"].as_bool().unwrap_or_default(),
        includes_usage: true,
    };
    Ok(Asked { model, script, wish })
}

fn thought_tokens(thinking: &Value) -> u64 {
    let budget = thinking["budget_tokens"].as_u64().unwrap_or(THOUGHT_TOKENS);
    match thinking["type"].as_str() {
        Some("enabled" | "adaptive") => THOUGHT_TOKENS.min(budget),
        _ => 0,
    }
}

/// The tool that must be used, or that the script calls.
fn tool(body: &Value, called: bool) -> Option<Tool> {
    let choice = &body["tool_choice"];
    let must = called || matches!(choice["type"].as_str(), Some("any" | "tool"));
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools = tools.map(|tool| (&tool["name"], &tool["input_schema"]));
    Tool::choose(tools, choice["name"].as_str()).filter(|_| must)
}
