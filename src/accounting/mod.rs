//! Quota and money in motion: who may call, what a call takes, and what it gives back.

pub mod mutex;
pub mod wait_queue;
pub mod limit_state;
pub mod provider_state;
pub mod idempotency;
pub mod input_token_cache;
pub mod live_state;
pub mod directory;
pub mod usage_estimate;
pub mod disconnect_tracker;
pub mod permit;
pub mod wait_slot;
pub mod reserve;
pub mod admit;

#[cfg(test)]
mod tests;
