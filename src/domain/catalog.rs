//! The catalog: models, their prices, and the upstreams that serve them.

use std::sync::Arc;

use crate::domain::tariff::PriceSchedule;

/// An upstream that serves a model, and how the model is named and priced there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Index into the list of upstreams.
    pub upstream: usize,
    /// The model's name at that upstream; `None` when it is the public one.
    pub upstream_model: Option<Arc<str>>,
    pub rank: TargetRank,
    /// The prices at that upstream.
    pub schedule: PriceSchedule,
}

/// The selection order of a target among all targets of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TargetRank {
    /// Targets with the lowest number are tried first; higher numbers are fallbacks.
    pub priority: u16,
    /// Share of the calls among targets of equal priority. A target of weight 0 comes last.
    pub weight: u16,
}

impl Default for TargetRank {
    fn default() -> Self {
        Self { priority: 0, weight: 1 }
    }
}

/// A model that callers may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub name: Arc<str>,
    pub aliases: Vec<Arc<str>>,
    /// The maximum number of output tokens of one choice.
    pub max_output_tokens: u64,
    /// The request field that limits the output in the OpenAI dialect: `max_tokens`, or
    /// `max_completion_tokens` for models that reject `max_tokens`.
    pub output_field: &'static str,
    /// Whether the model bills output that its response does not contain, such as reasoning.
    pub hidden_output: bool,
    /// The context window in tokens, if known.
    pub max_input_tokens: Option<u64>,
    /// Sorted by ascending priority, then by descending weight.
    pub targets: Vec<Target>,
}
