//! The Gemini dialect: the policy fields of a content request, and the facts of its answers.

use crate::dialect::request::{Fields, Request, RequestFault};

/// Reads the policy fields of a request whose path names `model`, and checks that the body is
/// JSON.
pub fn content_request(model: &str, body: &[u8], stream: bool) -> Result<Request, RequestFault> {
    Fields::read(body, [])?;
    Ok(Request {
        model: model.to_owned(),
        model_at: None,
        stream,
        output_tokens_max: None,
        choices: 1,
        include_usage: None,
        refers: false,
        state: None,
    })
}
