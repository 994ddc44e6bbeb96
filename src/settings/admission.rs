//! Settings of admission near a limit.

use std::time::Duration;

/// Settings of admission for calls that do not fit under a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// How long a call waits for tokens or money held by calls in flight. Restarts whenever some of
    /// it is released.
    pub hold_wait: Duration,
    /// The maximum number of calls that wait for one project's limits or one wallet.
    pub waiting_max: usize,
    /// The minimum output tokens of one choice that a call is admitted with if its request sets no
    /// output limit.
    pub output_floor: u64,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self { hold_wait: Duration::from_secs(2), waiting_max: 65_536, output_floor: 256 }
    }
}
