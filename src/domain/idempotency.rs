//! What is done once: a call whose client gave it a key of its own, and how it came out.

use crate::domain::ids::RequestLogId;
use crate::domain::money::Nano;
use crate::domain::usage::Usage;

/// How long a key stands for its call, counted from when that came: a day.
pub const RETENTION_MS: i64 = 86_400_000;

/// The first half of a SHA-256.
pub type Digest = [u8; 16];

/// What a call that is to be done once is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The API key, the path, and the client's own key of the call.
    pub key_digest: Digest,
    /// What was asked.
    pub body_digest: Digest,
}

/// A call that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedCall {
    /// The call.
    pub id: RequestLogId,
    /// The status that its client saw; 0 when it saw none.
    pub status: u16,
    /// What it used.
    pub usage: Usage,
    /// What it was charged.
    pub cost: Nano,
}
