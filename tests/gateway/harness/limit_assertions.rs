//! The limits, and a refusal as it was told.

use crate::harness::client::Response;
use crate::harness::json::{Json, money};
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;

/// A limit of the quota, and the refusal that names it.
pub struct Limit {
    pub field: &'static str,
    pub code: &'static str,
    pub measure: Measure,
    /// The longest that its window lasts, in seconds.
    pub window_seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Requests,
    Tokens,
    Spend,
    /// Those that are open now.
    Calls,
}

pub const DAY_SECONDS: u64 = 86_400;
pub const MINUTE_SECONDS: u64 = 60;

/// All limits, in the order of checks.
pub const LIMITS: [Limit; 9] = [
    limit("dailyRequestLimit", "daily_requests_exceeded", Measure::Requests, DAY_SECONDS),
    limit("dailyTokenLimit", "daily_tokens_exceeded", Measure::Tokens, DAY_SECONDS),
    limit("monthlyRequestLimit", "monthly_requests_exceeded", Measure::Requests, 31 * DAY_SECONDS),
    limit("monthlyTokenLimit", "monthly_tokens_exceeded", Measure::Tokens, 31 * DAY_SECONDS),
    limit(
        "requestsPerMinuteLimit",
        "requests_per_minute_exceeded",
        Measure::Requests,
        MINUTE_SECONDS,
    ),
    limit("tokensPerMinuteLimit", "tokens_per_minute_exceeded", Measure::Tokens, MINUTE_SECONDS),
    limit("concurrentCallsLimit", "concurrent_calls_exceeded", Measure::Calls, 1),
    limit("dailySpendLimit", "daily_spend_exceeded", Measure::Spend, DAY_SECONDS),
    limit("monthlySpendLimit", "monthly_spend_exceeded", Measure::Spend, 31 * DAY_SECONDS),
];

/// Those of them that a key can have of its own.
pub const KEY_LIMIT_FIELDS: [&str; 2] = ["requestsPerMinuteLimit", "monthlySpendLimit"];

const fn limit(field: &'static str, code: &'static str, measure: Measure, window: u64) -> Limit {
    Limit { field, code, measure, window_seconds: window }
}

/// Whose limit it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Project,
    Key,
    Organization,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Key => "key",
            Self::Organization => "organization",
        }
    }
}

impl Limit {
    /// A quota with this limit alone.
    pub fn quota_json(&self, value: i128) -> String {
        format!(r#"{{"{}":{}}}"#, self.field, self.json_value(value))
    }

    /// As the admin API takes it.
    pub fn json_value(&self, value: i128) -> String {
        if self.measure == Measure::Spend { money(value) } else { value.to_string() }
    }

    /// As a caller is told it: money is text.
    #[track_caller]
    pub fn parse_amount(&self, value: &Json) -> i128 {
        if self.measure == Measure::Spend {
            Json::new(&value.text()).nano()
        } else {
            i128::from(value.count())
        }
    }

    /// What a call of gpt-4o-mini takes of it.
    pub fn amount_for(&self, usage: Usage) -> i128 {
        match self.measure {
            Measure::Requests | Measure::Calls => 1,
            Measure::Tokens => i128::from(usage.total()),
            Measure::Spend => GPT_4O_MINI.cost(usage),
        }
    }

    /// Fails unless that is what it says to a call that needs `each` of it, where `room` is all.
    #[track_caller]
    pub fn assert_refused(&self, level: Level, refusal: &FullResponse, (each, room): (i128, i128)) {
        let error = refusal.assert_error(429, &[self.code]);
        let told = error.at("limit");
        let number = |name: &str| self.parse_amount(&told.at(name));
        assert_eq!(told.at("name").text(), self.field, "{told}");
        assert_eq!(told.at("level").text(), level.name(), "{told}");
        assert_eq!(number("limit"), room, "{told}");
        // Of tokens and money that is a bound: of the bytes, or closer where it was counted.
        let requested = number("requested");
        let is_bound = matches!(self.measure, Measure::Tokens | Measure::Spend);
        assert!(requested == each || is_bound && 0 < requested, "{told}");
        let taken = number("used") + number("held");
        assert!(taken + requested > room, "a refusal adds up: {told}");
        assert!(taken <= room, "never beyond the limit: {told}");
        // A limit on concurrent calls has no window that ends.
        if self.measure == Measure::Calls {
            assert!(told.at("resetAt").is_null(), "{told}");
        } else {
            assert!(told.at("resetAt").text().ends_with('Z'), "{told}");
        }
        // What calls in flight hold may come back; what is used does not, and no request does.
        let transient = told.at("transient").is_true();
        let returns = self.measure != Measure::Requests && number("used") + requested <= room;
        assert_eq!(transient, returns, "{told}");
        refusal.assert_retry_headers(self, transient);
    }
}

/// An answer as it was told, whole.
#[derive(Debug)]
pub struct FullResponse {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl FullResponse {
    pub async fn read(answer: Response) -> Self {
        let (status, headers) = (answer.status, answer.headers.clone());
        Self { status, headers, body: answer.text().await }
    }

    pub fn find_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.find_header(name).unwrap_or_else(|| panic!("no `{name}` on {self:?}"))
    }

    pub fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(own, _)| own == name)
    }

    #[track_caller]
    pub fn retry_after(&self) -> u64 {
        self.header("retry-after").parse().expect("Retry-After is whole seconds")
    }

    #[track_caller]
    pub fn assert_error(&self, status: u16, codes: &[&str]) -> Json {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("x-meteor-error-source"), "gateway");
        let error = Json::new(&self.body).at("error");
        let code = error.at("code").text();
        assert!(codes.contains(&code.as_str()), "{code} is none of {codes:?}: {error}");
        assert!(!error.at("message").text().is_empty());
        error
    }

    /// When to come again, and whether to do so unasked.
    #[track_caller]
    fn assert_retry_headers(&self, limit: &Limit, transient: bool) {
        let (kind, should_retry) = if limit.window_seconds <= MINUTE_SECONDS {
            ("rate_limit_error", None)
        } else {
            ("insufficient_quota", Some("false"))
        };
        assert_eq!(Json::new(&self.body).at("error.type").text(), kind);
        assert!((1..=limit.window_seconds).contains(&self.retry_after()), "{self:?}");
        if transient {
            assert_eq!(self.retry_after(), 1, "{self:?}");
            assert_eq!(self.find_header("x-should-retry"), Some("true"), "{self:?}");
        } else {
            assert_eq!(self.find_header("x-should-retry"), should_retry, "{self:?}");
        }
        if limit.measure == Measure::Requests || limit.measure == Measure::Tokens {
            self.header("ratelimit");
            self.header("ratelimit-policy");
        }
    }
}
