//! Wire format of usage in the OpenAI dialect.

use serde::Serialize;

use crate::demo::generation::ReportedUsage;

/// Usage of a completion.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OpenAiUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(flatten)]
    details: Option<UsageDetails>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct UsageDetails {
    prompt_tokens_details: InputDetails,
    completion_tokens_details: OutputDetails,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct InputDetails {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct OutputDetails {
    #[serde(rename = "reasoning_tokens")]
    reasoning: u64,
    #[serde(rename = "audio_tokens")]
    audio: u64,
    #[serde(rename = "accepted_prediction_tokens")]
    accepted: u64,
    #[serde(rename = "rejected_prediction_tokens")]
    rejected: u64,
}

/// The field `usage` of a chunk.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub enum UsageField {
    /// The field is absent, because the request does not ask for usage.
    Absent,
    /// `null`: usage follows in the last chunk.
    Null,
    /// The usage, in the last chunk.
    Value(OpenAiUsage),
}

impl OpenAiUsage {
    /// Usage of a chat completion, with details.
    pub fn of_chat(used: ReportedUsage) -> Self {
        let parts = UsageDetails {
            prompt_tokens_details: InputDetails { cached_tokens: used.cached, audio_tokens: 0 },
            completion_tokens_details: OutputDetails {
                reasoning: used.reasoning,
                ..OutputDetails::default()
            },
        };
        Self { details: Some(parts), ..Self::of_text(used) }
    }

    /// Usage of a legacy completion, without details.
    pub const fn of_text(used: ReportedUsage) -> Self {
        Self {
            prompt_tokens: used.input,
            completion_tokens: used.output(),
            total_tokens: used.input + used.output(),
            details: None,
        }
    }
}

impl UsageField {
    /// The value for all chunks but the last.
    pub const fn until_last_chunk(usage: Option<OpenAiUsage>) -> Self {
        if usage.is_some() { Self::Null } else { Self::Absent }
    }

    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}
