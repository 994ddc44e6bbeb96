//! Limits: the rules of a quota, in the order in which they are checked.

use crate::domain::money::Nano;

/// One rule of a quota. The variants are in check order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Limit {
    /// Calls per UTC day.
    DailyRequests,
    /// Input and output tokens per UTC day.
    DailyTokens,
    /// Calls per month. A month begins on the project's reset day.
    MonthlyRequests,
    /// Input and output tokens per month.
    MonthlyTokens,
    /// Calls per UTC minute.
    RequestsPerMinute,
    /// Input and output tokens per UTC minute.
    TokensPerMinute,
    /// Calls in flight at the same time.
    ConcurrentCalls,
    /// Money per UTC day, in nano-units.
    DailySpend,
    /// Money per month, in nano-units.
    MonthlySpend,
}

/// The subject that a limit belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Project,
    Key,
    /// The sum over all projects of the organization.
    Organization,
}

impl Level {
    /// Returns the name used in refusals and in the list of limits.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Key => "key",
            Self::Organization => "organization",
        }
    }
}

/// The time span that a limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Minute,
    Day,
    /// From one reset day up to the next.
    Month,
    /// No time span: the limit applies to the calls in flight.
    Concurrent,
}

/// The quantity that a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Requests,
    /// Input and output tokens.
    Tokens,
    /// Money in nano-units.
    Spend,
}

impl Limit {
    pub const COUNT: usize = 9;

    /// Every limit, in check order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::DailyRequests,
        Self::DailyTokens,
        Self::MonthlyRequests,
        Self::MonthlyTokens,
        Self::RequestsPerMinute,
        Self::TokensPerMinute,
        Self::ConcurrentCalls,
        Self::DailySpend,
        Self::MonthlySpend,
    ];

    /// Returns the name of the quota field that sets this limit.
    pub const fn field(self) -> &'static str {
        match self {
            Self::DailyRequests => "dailyRequestLimit",
            Self::DailyTokens => "dailyTokenLimit",
            Self::MonthlyRequests => "monthlyRequestLimit",
            Self::MonthlyTokens => "monthlyTokenLimit",
            Self::RequestsPerMinute => "requestsPerMinuteLimit",
            Self::TokensPerMinute => "tokensPerMinuteLimit",
            Self::ConcurrentCalls => "concurrentCallsLimit",
            Self::DailySpend => "dailySpendLimit",
            Self::MonthlySpend => "monthlySpendLimit",
        }
    }

    /// Returns the error code of a refusal by this limit.
    pub const fn code(self) -> &'static str {
        match self {
            Self::DailyRequests => "daily_requests_exceeded",
            Self::DailyTokens => "daily_tokens_exceeded",
            Self::MonthlyRequests => "monthly_requests_exceeded",
            Self::MonthlyTokens => "monthly_tokens_exceeded",
            Self::RequestsPerMinute => "requests_per_minute_exceeded",
            Self::TokensPerMinute => "tokens_per_minute_exceeded",
            Self::ConcurrentCalls => "concurrent_calls_exceeded",
            Self::DailySpend => "daily_spend_exceeded",
            Self::MonthlySpend => "monthly_spend_exceeded",
        }
    }

    /// Returns the window of this limit.
    pub const fn window(self) -> Window {
        match self {
            Self::DailyRequests | Self::DailyTokens | Self::DailySpend => Window::Day,
            Self::MonthlyRequests | Self::MonthlyTokens | Self::MonthlySpend => Window::Month,
            Self::RequestsPerMinute | Self::TokensPerMinute => Window::Minute,
            Self::ConcurrentCalls => Window::Concurrent,
        }
    }

    /// Returns the quantity that this limit counts.
    pub const fn measure(self) -> Measure {
        match self {
            Self::DailyRequests
            | Self::MonthlyRequests
            | Self::RequestsPerMinute
            | Self::ConcurrentCalls => Measure::Requests,
            Self::DailyTokens | Self::MonthlyTokens | Self::TokensPerMinute => Measure::Tokens,
            Self::DailySpend | Self::MonthlySpend => Measure::Spend,
        }
    }
}

/// A value for each limit. `None` means no limit, 0 refuses every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits([Option<i64>; Limit::COUNT]);

impl Limits {
    /// The largest value of a limit: 2⁵³ − 1, which every JSON parser represents exactly.
    pub const MAX: i64 = (1 << 53) - 1;

    /// Returns the value of `limit`, in its measure.
    pub const fn get(&self, limit: Limit) -> Option<i64> {
        self.0[limit as usize]
    }

    /// Returns these limits with `limit` set to `value`.
    #[must_use]
    pub const fn with(mut self, limit: Limit, value: Option<i64>) -> Self {
        self.0[limit as usize] = value;
        self
    }

    /// Returns the limits that have a value, in check order.
    pub fn configured(&self) -> impl Iterator<Item = (Limit, i64)> + '_ {
        Limit::ALL.into_iter().filter_map(|limit| Some((limit, self.get(limit)?)))
    }
}

/// An amount of each measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    pub requests: i64,
    pub tokens: i64,
    pub spend: Nano,
}

impl Amounts {
    /// Returns the amount of `measure`.
    pub const fn get(&self, measure: Measure) -> i64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::Tokens => self.tokens,
            Measure::Spend => self.spend.0,
        }
    }
}

/// Saturating addition, so that an absurd usage report of a provider cannot abort a settlement.
impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.spend = Nano(self.spend.0.saturating_add(other.spend.0));
    }
}

impl std::ops::SubAssign for Amounts {
    fn sub_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_sub(other.requests);
        self.tokens = self.tokens.saturating_sub(other.tokens);
        self.spend = Nano(self.spend.0.saturating_sub(other.spend.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_and_level_has_unique_names() {
        use std::collections::BTreeSet;
        let fields: BTreeSet<_> = Limit::ALL.map(Limit::field).into();
        let codes: BTreeSet<_> = Limit::ALL.map(Limit::code).into();
        assert_eq!((fields.len(), codes.len()), (Limit::COUNT, Limit::COUNT));
        assert!(fields.iter().all(|field| field.ends_with("Limit")));
        assert!(codes.iter().all(|code| code.ends_with("_exceeded")));
        let levels = [Level::Project, Level::Key, Level::Organization].map(Level::name);
        assert_eq!(levels, ["project", "key", "organization"]);
    }

    #[test]
    fn the_largest_limit_is_exact_in_every_json_parser() {
        assert_eq!(Limits::MAX, 9_007_199_254_740_991);
    }

    #[test]
    fn sums_saturate() {
        let max = Amounts { requests: i64::MAX, tokens: i64::MAX, spend: Nano(i64::MAX) };
        let mut sum = max;
        sum += Amounts { requests: 1, tokens: 1, spend: Nano(1) };
        assert_eq!(sum, max);
        let mut difference = Amounts { requests: 5, tokens: 5, spend: Nano(5) };
        difference -= Amounts { requests: 2, tokens: 3, spend: Nano(4) };
        assert_eq!(difference, Amounts { requests: 3, tokens: 2, spend: Nano(1) });
    }
}
