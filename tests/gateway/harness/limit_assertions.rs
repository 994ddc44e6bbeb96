//! The limits, and assertions on the refusals that name them.

use crate::harness::client::Response;
use crate::harness::json::{Json, money};
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;

/// A quota field, and the error code of its refusal.
pub struct Limit {
    pub field: &'static str,
    pub code: &'static str,
    pub measure: Measure,
    /// The longest duration of its window.
    pub window_seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Requests,
    Tokens,
    Spend,
    /// Concurrent calls.
    Calls,
}

pub const DAY_SECONDS: u64 = 86_400;
pub const MINUTE_SECONDS: u64 = 60;

/// All limits, in the order in which they are checked.
pub static LIMITS: [Limit; 9] = [
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

/// The limit with this quota field, such as `dailyTokenLimit`.
#[track_caller]
pub fn by_field(field: &str) -> &'static Limit {
    LIMITS.iter().find(|limit| limit.field == field).unwrap_or_else(|| panic!("no limit `{field}`"))
}

/// The limits that an API key can have.
pub const KEY_LIMIT_FIELDS: [&str; 2] = ["requestsPerMinuteLimit", "monthlySpendLimit"];

const fn limit(field: &'static str, code: &'static str, measure: Measure, window: u64) -> Limit {
    Limit { field, code, measure, window_seconds: window }
}

/// The level of the subject that the limit applies to.
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
    /// A quota with only this limit.
    pub fn quota_json(&self, value: i128) -> String {
        format!(r#"{{"{}":{}}}"#, self.field, self.json_value(value))
    }

    /// The value as the admin API accepts it.
    pub fn json_value(&self, value: i128) -> String {
        if self.measure == Measure::Spend { money(value) } else { value.to_string() }
    }

    /// Parses the value as callers see it, where money is a string.
    #[track_caller]
    pub fn parse_amount(&self, value: &Json) -> i128 {
        if self.measure == Measure::Spend {
            Json::new(&value.text()).nano()
        } else {
            i128::from(value.count())
        }
    }

    /// The amount that a call of gpt-4o-mini counts against this limit.
    pub fn amount_for(&self, usage: Usage) -> i128 {
        match self.measure {
            Measure::Requests | Measure::Calls => 1,
            Measure::Tokens => i128::from(usage.total()),
            Measure::Spend => GPT_4O_MINI.cost(usage),
        }
    }

    /// Asserts that the refusal names this limit, for a call that needs `each` where `room` is the
    /// limit.
    #[track_caller]
    pub fn assert_refused(
        &self,
        level: Level,
        refusal: &FullResponse,
        (amount, limit): (i128, i128),
    ) {
        let error = refusal.assert_error(429, &[self.code]);
        let detail = error.at("limit");
        let number = |name: &str| self.parse_amount(&detail.at(name));
        assert_eq!(detail.at("name").text(), self.field, "{detail}");
        assert_eq!(detail.at("level").text(), level.name(), "{detail}");
        assert_eq!(number("limit"), limit, "{detail}");
        // Tokens and money are bounds: of the body's bytes, or closer if they were counted.
        let requested = number("requested");
        let is_bound = matches!(self.measure, Measure::Tokens | Measure::Spend);
        assert!(requested == amount || is_bound && 0 < requested, "{detail}");
        let used_and_held = number("used") + number("held");
        assert!(
            used_and_held + requested > limit,
            "used, held and requested exceed the limit: {detail}"
        );
        assert!(used_and_held <= limit, "never beyond the limit: {detail}");
        // A limit on concurrent calls has no window that ends.
        if self.measure == Measure::Calls {
            assert!(detail.at("resetAt").is_null(), "{detail}");
        } else {
            assert!(detail.at("resetAt").text().ends_with('Z'), "{detail}");
        }
        // Holds of calls in flight may be returned; usage and requests are not.
        let transient = detail.at("transient").is_true();
        let returns = self.measure != Measure::Requests && number("used") + requested <= limit;
        assert_eq!(transient, returns, "{detail}");
        refusal.assert_retry_headers(self, transient);
    }
}

/// A response with its complete body.
#[derive(Debug)]
pub struct FullResponse {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl FullResponse {
    pub async fn read(response: Response) -> Self {
        let (status, headers) = (response.status, response.headers.clone());
        Self { status, headers, body: response.text().await }
    }

    pub fn find_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.find_header(name).unwrap_or_else(|| panic!("no `{name}` on {self:?}"))
    }

    pub fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(field, _)| field == name)
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

    /// Checks Retry-After and the header that controls automatic retries.
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
