//! The facts of one event of a stream, in any dialect.

use std::ops::Range;

use crate::domain::call_pricing::ModelUsageShare;
use crate::domain::service_tier::ServiceTier;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Usage;

/// How near an event is to the end of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamEnd {
    /// There is more to come.
    #[default]
    Open,
    /// A client may take it for the end, though usage may follow.
    Closing,
    /// It is the end: nothing follows.
    Terminated,
}

/// What one event says. An event that is not understood says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFacts {
    /// How near it is to the end.
    pub end: StreamEnd,
    /// It says why the generation ended.
    pub has_finish_reason: bool,
    /// It says that the provider failed in the midst of its answer.
    pub failed: bool,
    /// All usage that the stream reported so far, where this event reports some.
    pub usage: Option<Usage>,
    /// What other models had of that.
    pub shares: Vec<ModelUsageShare>,
    /// The tier of service that this event names.
    pub service_tier: Option<ServiceTier>,
    /// It reports usage and carries no choice: the extra chunk of `include_usage`.
    pub is_usage_only: bool,
    /// Where `"usage":null` stands in the data, with one of its commas.
    pub null_usage_span: Option<Range<usize>>,
    /// Output tokens by our own count of its text.
    pub output_tokens: u64,
    /// What hosted tools did by the piece, as it says.
    pub item_units: UnitCounts,
    /// The id of state that the provider keeps for whoever called.
    pub state_id: Option<Box<str>>,
}
