//! Live quota and money: API keys, limits, wallets, admission of calls and their settlement.

pub mod mutex;
pub mod wait_queue;
pub mod limit_state;
pub mod provider_state_index;
pub mod idempotency;
pub mod input_token_cache;
pub mod live_state;
pub mod key_directory;
pub mod hold_estimate;
pub mod disconnect_tracker;
pub mod permit;
pub mod wait_slot;
pub mod reserve;
pub mod admit;

#[cfg(test)]
mod tests;
