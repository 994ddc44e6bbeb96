//! Idempotency keys: how a repeated call is recognized, and how the first one ended.

use crate::domain::ids::RequestLogId;
use crate::domain::money::Nano;
use crate::domain::usage::Usage;

/// How long a key is remembered after its call arrived: one day.
pub const RETENTION_MS: i64 = 86_400_000;

/// The first half of a SHA-256 hash.
pub type Digest = [u8; 16];

/// Identifies a call with an `Idempotency-Key` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Digest of the API key, the path and the client's idempotency key.
    pub key_digest: Digest,
    /// Digest of the request body.
    pub body_digest: Digest,
}

/// The outcome of a finished call with an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedCall {
    pub id: RequestLogId,
    /// The HTTP status sent to the client; 0 if none was sent.
    pub status: u16,
    pub usage: Usage,
    pub cost: Nano,
}
