//! Limits: the rules of a quota, each by name, in the order in which they are checked.

use crate::domain::money::Nano;

/// One rule of a quota. The order is the order of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Limit {
    /// Calls a UTC day.
    DailyRequests,
    /// Input and output tokens a UTC day.
    DailyTokens,
    /// Calls a month of the project's reset day.
    MonthlyRequests,
    /// Input and output tokens a month.
    MonthlyTokens,
    /// Calls a UTC minute.
    RequestsPerMinute,
    /// Input and output tokens a UTC minute.
    TokensPerMinute,
    /// Calls open at once.
    ConcurrentCalls,
    /// Money a UTC day, in nano-units.
    DailySpend,
    /// Money a month, in nano-units.
    MonthlySpend,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The project's.
    Project,
    /// The API key's own.
    Key,
    /// The organization's, over all its projects.
    Organization,
}

impl Level {
    /// The word in refusals and in the list of limits.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Key => "key",
            Self::Organization => "organization",
        }
    }
}

/// The stretch of time that a limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// A UTC minute.
    Minute,
    /// A UTC date.
    Day,
    /// From one reset day to the next.
    Month,
    /// This very moment.
    Concurrent,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Calls.
    Requests,
    /// Input and output tokens.
    Tokens,
    /// Nano-units of money.
    Spend,
}

impl Limit {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// Every limit, in the order of checks.
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

    /// The field of a quota that sets it.
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

    /// The code of a refusal by it.
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

    /// When it begins anew.
    pub const fn window(self) -> Window {
        match self {
            Self::DailyRequests | Self::DailyTokens | Self::DailySpend => Window::Day,
            Self::MonthlyRequests | Self::MonthlyTokens | Self::MonthlySpend => Window::Month,
            Self::RequestsPerMinute | Self::TokensPerMinute => Window::Minute,
            Self::ConcurrentCalls => Window::Concurrent,
        }
    }

    /// What it counts.
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

/// A value for each limit; `None` is no limit, 0 blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits([Option<i64>; Limit::COUNT]);

impl Limits {
    /// The largest count a limit can have: 2⁵³ − 1, exact in every JSON reader.
    pub const MAX: i64 = (1 << 53) - 1;

    /// The value of `limit`, in its measure.
    pub const fn get(&self, limit: Limit) -> Option<i64> {
        self.0[limit as usize]
    }

    /// The same with `limit` at `value`.
    #[must_use]
    pub const fn with(mut self, limit: Limit, value: Option<i64>) -> Self {
        self.0[limit as usize] = value;
        self
    }

    /// The limits that are set, in the order of checks.
    pub fn configured(&self) -> impl Iterator<Item = (Limit, i64)> + '_ {
        Limit::ALL.into_iter().filter_map(|limit| Some((limit, self.get(limit)?)))
    }
}

/// An amount of each measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Calls.
    pub requests: i64,
    /// Input and output tokens.
    pub tokens: i64,
    /// Money.
    pub spend: Nano,
}

impl Amounts {
    /// The amount in `measure`.
    pub const fn get(&self, measure: Measure) -> i64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::Tokens => self.tokens,
            Measure::Spend => self.spend.0,
        }
    }
}

/// Sums stop at the ends of their range: a provider's absurd report ends no settlement halfway.
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
    fn each_limit_and_level_goes_by_names_of_its_own() {
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
    fn the_largest_limit_is_the_largest_that_every_json_reader_takes_exactly() {
        assert_eq!(Limits::MAX, 9_007_199_254_740_991);
    }

    #[test]
    fn sums_stop_at_the_ends_of_their_range() {
        let most = Amounts { requests: i64::MAX, tokens: i64::MAX, spend: Nano(i64::MAX) };
        let mut sum = most;
        sum += Amounts { requests: 1, tokens: 1, spend: Nano(1) };
        assert_eq!(sum, most);
        let mut rest = Amounts { requests: 5, tokens: 5, spend: Nano(5) };
        rest -= Amounts { requests: 2, tokens: 3, spend: Nano(4) };
        assert_eq!(rest, Amounts { requests: 3, tokens: 2, spend: Nano(1) });
    }
}
