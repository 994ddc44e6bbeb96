//! How calls are admitted near a limit.

use std::time::Duration;

/// How calls are admitted when what they might use does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// How long a call waits for tokens or money that open calls hold, counted anew whenever some
    /// of it comes back.
    pub hold_wait: Duration,
    /// How many calls may wait for the limits of one project, or for one wallet.
    pub waiting_max: usize,
    /// The least output, in tokens of one choice, that a call without a bound of its own is
    /// admitted with.
    pub output_floor: u64,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self { hold_wait: Duration::from_secs(2), waiting_max: 65_536, output_floor: 256 }
    }
}
