//! Reads a request of any endpoint.

use crate::dialect::endpoint::Endpoint;
use crate::dialect::request::{Request, RequestFault};
use crate::dialect::{anthropic, gemini, openai};

/// Reads what the gateway must know of a request; `model` is the one that the path names.
pub fn request(
    endpoint: Endpoint,
    model: Option<&str>,
    body: &[u8],
) -> Result<Request, RequestFault> {
    let model = model.unwrap_or_default();
    match endpoint {
        Endpoint::Embeddings => openai::embeddings_request(body),
        Endpoint::Messages | Endpoint::CountMessageTokens => anthropic::message_request(body),
        Endpoint::StreamGenerateContent => gemini::content_request(model, body, true),
        Endpoint::GenerateContent
        | Endpoint::CountTokens
        | Endpoint::EmbedContent
        | Endpoint::BatchEmbedContents => gemini::content_request(model, body, false),
        Endpoint::ChatCompletions
        | Endpoint::Models
        | Endpoint::GeminiModels
        | Endpoint::Limits
        | Endpoint::Health => openai::chat_request(body),
    }
}
