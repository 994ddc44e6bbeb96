//! A quota: all limits of a project, and how they apply.

use crate::domain::limit::Limits;
use crate::domain::time::ResetDay;

/// All limits of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The limits that are set.
    pub limits: Limits,
    /// Whether a limit refuses, or only counts.
    pub enforce: bool,
    /// The day on which the project's month begins.
    pub reset_day: ResetDay,
}

impl Default for Quota {
    /// No limits, enforced, a month from the first.
    fn default() -> Self {
        Self { limits: Limits::default(), enforce: true, reset_day: ResetDay::FIRST }
    }
}
