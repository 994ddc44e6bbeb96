//! Parses requests in the Gemini dialect.
//!
//! Field names may be in camel case or snake case, even mixed.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::demo::gemini::error::GeminiError;
use crate::demo::request::{
    CHOICES_MAX, DemoRequest, GenerationParams, REASONING_TOKENS, ToolInvocation, input_tokens,
    positive_integer, read_script, text_of,
};
use crate::demo::vector::{EmbeddingParams, dimensions, text_tokens};

/// Parses a request that generates content, or counts its tokens.
pub fn contents(
    model: &str,
    request: &Request<Bytes>,
    streams: bool,
) -> Result<DemoRequest<GenerationParams>, GeminiError> {
    let body = body(request)?;
    // `countTokens` accepts a whole `generateContent` request.
    let whole_request = camel_or_snake(&body, "generateContentRequest", "generate_content_request");
    let body = if whole_request.is_null() { &body } else { whole_request };
    let contents = body["contents"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(last) = contents.last() else {
        let message = "* GenerateContentRequest.contents: contents is not specified\n";
        return Err(GeminiError::invalid_request(message));
    };
    let script = read_script(request.headers(), &text_of(&last["parts"]))?;
    let system = &camel_or_snake(body, "systemInstruction", "system_instruction")["parts"];
    let spoken = contents.iter().map(|content| &content["parts"]);
    let spoken = spoken.chain(Some(system).filter(|parts| !parts.is_null()));
    let config = camel_or_snake(body, "generationConfig", "generation_config");
    let bound = camel_or_snake(config, "maxOutputTokens", "max_output_tokens");
    let choices = camel_or_snake(config, "candidateCount", "candidate_count");
    let choices = positive_integer(choices, "candidateCount", CHOICES_MAX)?.unwrap_or(1);
    let params = GenerationParams {
        input_tokens: input_tokens(spoken, &body["tools"]),
        output_bound: positive_integer(bound, "maxOutputTokens", u64::MAX)?,
        reasoning_tokens: reasoning_tokens(model, config),
        choices,
        generations: choices,
        tool: tool(body, script.calls_tool),
        is_stream: streams,
        includes_usage: true,
    };
    Ok(DemoRequest { model: model.to_owned(), script, params })
}

/// Parses `embedContent`.
pub fn single_text(
    model: &str,
    request: &Request<Bytes>,
) -> Result<DemoRequest<EmbeddingParams>, GeminiError> {
    read_texts(model, request, &[body(request)?])
}

/// Parses `batchEmbedContents`.
pub fn batch_texts(
    model: &str,
    request: &Request<Bytes>,
) -> Result<DemoRequest<EmbeddingParams>, GeminiError> {
    let body = body(request)?;
    read_texts(model, request, body["requests"].as_array().map_or(&[], Vec::as_slice))
}

const TEXTS_MAX: usize = 2048;

fn read_texts(
    model: &str,
    request: &Request<Bytes>,
    requests: &[Value],
) -> Result<DemoRequest<EmbeddingParams>, GeminiError> {
    if !(1..=TEXTS_MAX).contains(&requests.len()) {
        let message = format!("* requests: from 1 to {TEXTS_MAX} are expected\n");
        return Err(GeminiError::invalid_request(message));
    }
    if requests.iter().any(|params| params["content"]["parts"].is_null()) {
        return Err(GeminiError::invalid_request(
            "* EmbedContentRequest.content: content is not specified\n",
        ));
    }
    let texts: Vec<String> =
        requests.iter().map(|params| text_of(&params["content"]["parts"])).collect();
    let script = read_script(request.headers(), texts.last().map_or("", String::as_str))?;
    let size = requests.first().map_or(&Value::Null, |params| {
        camel_or_snake(params, "outputDimensionality", "output_dimensionality")
    });
    let params = EmbeddingParams {
        input_tokens: text_tokens(&texts),
        dimensions: dimensions(model, size, "outputDimensionality")?,
        texts,
        as_base64: false,
    };
    Ok(DemoRequest { model: model.to_owned(), script, params })
}

fn body(request: &Request<Bytes>) -> Result<Value, GeminiError> {
    serde_json::from_slice(request.body()).map_err(|error| {
        GeminiError::invalid_request(format!("Invalid JSON payload received. {error}"))
    })
}

fn camel_or_snake<'a>(value: &'a Value, camel: &str, snake: &str) -> &'a Value {
    if value[camel].is_null() { &value[snake] } else { &value[camel] }
}

/// Models from 2.5 on use reasoning unless the thinking budget is 0.
fn reasoning_tokens(model: &str, config: &Value) -> u64 {
    let thinks = ["gemini-2.5", "gemini-3"].iter().any(|start| model.starts_with(start));
    let thinking = camel_or_snake(config, "thinkingConfig", "thinking_config");
    // -1 lets the model decide.
    let budget = camel_or_snake(thinking, "thinkingBudget", "thinking_budget").as_u64();
    if thinks { REASONING_TOKENS.min(budget.unwrap_or(REASONING_TOKENS)) } else { 0 }
}

/// Returns the function that the request or the script demands.
fn tool(body: &Value, called: bool) -> Option<ToolInvocation> {
    let config = camel_or_snake(body, "toolConfig", "tool_config");
    let config = camel_or_snake(config, "functionCallingConfig", "function_calling_config");
    let name = camel_or_snake(config, "allowedFunctionNames", "allowed_function_names")[0].as_str();
    let must = called || config["mode"] == "ANY";
    let tools = body["tools"].as_array().into_iter().flatten();
    let functions = tools.flat_map(|tool| {
        let functions = camel_or_snake(tool, "functionDeclarations", "function_declarations");
        functions.as_array().into_iter().flatten()
    });
    let functions = functions.map(|function| {
        let schema = camel_or_snake(function, "parametersJsonSchema", "parameters_json_schema");
        let schema = if schema.is_null() { &function["parameters"] } else { schema };
        (&function["name"], schema)
    });
    ToolInvocation::choose(functions, name).filter(|_| must)
}
