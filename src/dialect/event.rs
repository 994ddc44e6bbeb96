//! What one event of a stream says, in any dialect.

use std::ops::Range;

use crate::domain::pieces::Pieces;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariffs::Share;
use crate::domain::usage::Usage;

/// How near an event is to the end of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// There is more to come.
    #[default]
    Ahead,
    /// A client may take it for the end, though usage may follow.
    Near,
    /// It is the end: nothing follows.
    Here,
}

/// What one event says. An event that is not understood says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// How near it is to the end.
    pub end: End,
    /// It says why the generation ended.
    pub finish: bool,
    /// It says that the provider failed in the midst of its answer.
    pub failed: bool,
    /// All usage that the stream reported so far, where this event reports some.
    pub usage: Option<Usage>,
    /// What other models had of that.
    pub shares: Vec<Share>,
    /// The tier of service that this event names.
    pub service_tier: Option<ServiceTier>,
    /// It reports usage and carries no choice: the extra chunk of `include_usage`.
    pub only_usage: bool,
    /// Where `"usage":null` stands in the data, with one of its commas.
    pub null_usage: Option<Range<usize>>,
    /// Output tokens by our own count of its text.
    pub output_tokens: u64,
    /// What hosted tools did by the piece, as it says.
    pub pieces: Pieces,
    /// The id of state that the provider keeps for whoever called.
    pub kept_id: Option<Box<str>>,
}
