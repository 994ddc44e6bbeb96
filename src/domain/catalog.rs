//! The catalog: which models there are, what they cost, and which upstreams serve them.

use std::sync::Arc;

use crate::domain::tariff::PriceSchedule;

/// Where a model is served: an upstream, by its place in the catalog, and the name it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Index into the list of upstreams.
    pub upstream: usize,
    /// The model's name at that upstream; `None` when it is the public one.
    pub upstream_model: Option<Arc<str>>,
    /// When it is chosen.
    pub rank: TargetRank,
    /// What it costs there.
    pub schedule: PriceSchedule,
}

/// When a place is chosen, among all that serve a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TargetRank {
    /// The least comes first, the others when it fails.
    pub priority: u16,
    /// Its share of the calls, among those of its priority; one without a share comes after them.
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
    /// The public name.
    pub name: Arc<str>,
    /// Other public names.
    pub aliases: Vec<Arc<str>>,
    /// The most output tokens of one choice.
    pub max_output_tokens: u64,
    /// What the bound of its output is called in the OpenAI dialect: `max_tokens`, or, where that
    /// is refused, `max_completion_tokens`.
    pub output_field: &'static str,
    /// Whether part of what it generates, and bills, does not show in its answer.
    pub hidden_output: bool,
    /// The context window, where known.
    pub max_input_tokens: Option<u64>,
    /// Where it is served: by priority, and of one priority the greatest weight first.
    pub targets: Vec<Target>,
}
