//! Usage as the OpenAI dialect tells it.

use serde::Serialize;

use crate::demo::answer::Used;

/// What the answer says that it used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(flatten)]
    parts: Option<Parts>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Parts {
    prompt_tokens_details: InputParts,
    completion_tokens_details: OutputParts,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct InputParts {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct OutputParts {
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
pub enum Told {
    /// Nobody asked for it: there is no such key.
    Absent,
    /// It was asked for and is not known yet: null.
    Later,
    /// In the last chunk.
    Now(Usage),
}

impl Usage {
    /// With its parts, as chat tells it.
    pub fn of_chat(used: Used) -> Self {
        let parts = Parts {
            prompt_tokens_details: InputParts { cached_tokens: used.cached, audio_tokens: 0 },
            completion_tokens_details: OutputParts {
                reasoning: used.thought,
                ..OutputParts::default()
            },
        };
        Self { parts: Some(parts), ..Self::of_text(used) }
    }

    /// Without parts, as the older completions tell it.
    pub const fn of_text(used: Used) -> Self {
        Self {
            prompt_tokens: used.input,
            completion_tokens: used.output(),
            total_tokens: used.input + used.output(),
            parts: None,
        }
    }
}

impl Told {
    /// What all chunks but the last say.
    pub const fn before(usage: Option<Usage>) -> Self {
        if usage.is_some() { Self::Later } else { Self::Absent }
    }

    /// Whether there is no such key.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}
