//! A quota: the limits of a project and whether they are enforced.

use crate::domain::limit::Limits;
use crate::domain::time::ResetDay;

/// The limits of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub limits: Limits,
    /// Whether calls over a limit are refused. If false, usage is only counted.
    pub enforce: bool,
    /// The day of the month on which the project's month begins.
    pub reset_day: ResetDay,
}

impl Default for Quota {
    /// No limits, enforced, with a month that begins on the first day.
    fn default() -> Self {
        Self { limits: Limits::default(), enforce: true, reset_day: ResetDay::FIRST }
    }
}
