//! What is asked for in the Gemini dialect, and what is wrong with what cannot be understood.
//!
//! Keys come in camel case and in snake case, mixed.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::demo::ask::{
    Asked, CHOICES_MAX, THOUGHT_TOKENS, Talk, Tool, input_tokens, script, text_of, whole,
};
use crate::demo::gemini::complaint::Complaint;
use crate::demo::vector::{Texts, dimensions, tokens_of};

/// Reads a wish for contents, or one to count their tokens.
pub fn contents(
    model: &str,
    request: &Request<Bytes>,
    streams: bool,
) -> Result<Asked<Talk>, Complaint> {
    let body = body(request)?;
    // What is to be counted may be a whole request.
    let whole_request = either(&body, "generateContentRequest", "generate_content_request");
    let body = if whole_request.is_null() { &body } else { whole_request };
    let contents = body["contents"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(last) = contents.last() else {
        let message = "* GenerateContentRequest.contents: contents is not specified\n";
        return Err(Complaint::about(message));
    };
    let script = script(request.headers(), &text_of(&last["parts"]))?;
    let system = &either(body, "systemInstruction", "system_instruction")["parts"];
    let spoken = contents.iter().map(|content| &content["parts"]);
    let spoken = spoken.chain(Some(system).filter(|parts| !parts.is_null()));
    let config = either(body, "generationConfig", "generation_config");
    let bound = either(config, "maxOutputTokens", "max_output_tokens");
    let choices = either(config, "candidateCount", "candidate_count");
    let choices = whole(choices, "candidateCount", CHOICES_MAX)?.unwrap_or(1);
    let wish = Talk {
        input_tokens: input_tokens(spoken, &body["tools"]),
        output_bound: whole(bound, "maxOutputTokens", u64::MAX)?,
        thought_tokens: thought_tokens(model, config),
        choices,
        drafts: choices,
        tool: tool(body, script.calls_tool),
        streams,
        includes_usage: true,
    };
    Ok(Asked { model: model.to_owned(), script, wish })
}

/// Reads a wish for the vector of one text.
pub fn vector(model: &str, request: &Request<Bytes>) -> Result<Asked<Texts>, Complaint> {
    vectors_of(model, request, &[body(request)?])
}

/// Reads a wish for the vectors of several.
pub fn vectors(model: &str, request: &Request<Bytes>) -> Result<Asked<Texts>, Complaint> {
    let body = body(request)?;
    vectors_of(model, request, body["requests"].as_array().map_or(&[], Vec::as_slice))
}

const TEXTS_MAX: usize = 2048;

fn vectors_of(
    model: &str,
    request: &Request<Bytes>,
    wishes: &[Value],
) -> Result<Asked<Texts>, Complaint> {
    if !(1..=TEXTS_MAX).contains(&wishes.len()) {
        let message = format!("* requests: from 1 to {TEXTS_MAX} are expected\n");
        return Err(Complaint::about(message));
    }
    if wishes.iter().any(|wish| wish["content"]["parts"].is_null()) {
        return Err(Complaint::about("* EmbedContentRequest.content: content is not specified\n"));
    }
    let texts: Vec<String> = wishes.iter().map(|wish| text_of(&wish["content"]["parts"])).collect();
    let script = script(request.headers(), texts.last().map_or("", String::as_str))?;
    let size = wishes
        .first()
        .map_or(&Value::Null, |wish| either(wish, "outputDimensionality", "output_dimensionality"));
    let wish = Texts {
        input_tokens: tokens_of(&texts),
        dimensions: dimensions(model, size, "outputDimensionality")?,
        texts,
        in_base64: false,
    };
    Ok(Asked { model: model.to_owned(), script, wish })
}

fn body(request: &Request<Bytes>) -> Result<Value, Complaint> {
    serde_json::from_slice(request.body())
        .map_err(|fault| Complaint::about(format!("Invalid JSON payload received. {fault}")))
}

fn either<'a>(value: &'a Value, camel: &str, snake: &str) -> &'a Value {
    if value[camel].is_null() { &value[snake] } else { &value[camel] }
}

/// Those from 2.5 on think, unless they are told not to.
fn thought_tokens(model: &str, config: &Value) -> u64 {
    let thinks = ["gemini-2.5", "gemini-3"].iter().any(|start| model.starts_with(start));
    let thinking = either(config, "thinkingConfig", "thinking_config");
    // Where it is -1, the model decides.
    let budget = either(thinking, "thinkingBudget", "thinking_budget").as_u64();
    if thinks { THOUGHT_TOKENS.min(budget.unwrap_or(THOUGHT_TOKENS)) } else { 0 }
}

/// The function that must be called, or that the script calls.
fn tool(body: &Value, called: bool) -> Option<Tool> {
    let config = either(body, "toolConfig", "tool_config");
    let config = either(config, "functionCallingConfig", "function_calling_config");
    let name = either(config, "allowedFunctionNames", "allowed_function_names")[0].as_str();
    let must = called || config["mode"] == "ANY";
    let tools = body["tools"].as_array().into_iter().flatten();
    let functions = tools.flat_map(|tool| {
        let functions = either(tool, "functionDeclarations", "function_declarations");
        functions.as_array().into_iter().flatten()
    });
    let functions = functions.map(|function| {
        let schema = either(function, "parametersJsonSchema", "parameters_json_schema");
        let schema = if schema.is_null() { &function["parameters"] } else { schema };
        (&function["name"], schema)
    });
    Tool::choose(functions, name).filter(|_| must)
}
