//! The Anthropic dialect: the policy fields of a message request, and the facts of its events.

use crate::dialect::request::{Fields, Request, RequestFault};

const POLICY_FIELDS: [&str; 3] = ["model", "stream", "max_tokens"];

/// Reads the policy fields of a message request, and checks that the body is JSON.
pub fn message_request(body: &[u8]) -> Result<Request, RequestFault> {
    let fields = Fields::read(body, POLICY_FIELDS)?;
    Ok(Request {
        model: fields.text(0, "must be the name of a model, a string")?,
        model_at: fields.place(0),
        stream: fields.flag(1)?,
        output_tokens_max: fields.count(2)?,
        choices: 1,
        include_usage: None,
        refers: false,
        state: None,
    })
}
