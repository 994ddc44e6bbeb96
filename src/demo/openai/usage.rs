//! Usage as the OpenAI dialect tells it.

use serde::Serialize;

use crate::demo::generation::ReportedUsage;

/// What the answer says that it used.
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

/// The key `usage` of a chunk.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub enum UsageField {
    /// Nobody asked for it: there is no such key.
    Absent,
    /// It was asked for and is not known yet: null.
    Null,
    /// In the last chunk.
    Value(OpenAiUsage),
}

impl OpenAiUsage {
    /// With its parts, as chat tells it.
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

    /// Without parts, as the older completions tell it.
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
    /// What all chunks but the last say.
    pub const fn until_last_chunk(usage: Option<OpenAiUsage>) -> Self {
        if usage.is_some() { Self::Null } else { Self::Absent }
    }

    /// Whether there is no such key.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}
