//! Request and response headers: which are forwarded, stripped, renamed or added.

use std::fmt::Write;

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;

use crate::accounting::key_directory::{KEY_BYTES, KEY_PREFIX};
use crate::accounting::live_state::TightestLimits;
use crate::dialect::endpoint::Dialect;
use crate::domain::counter::Headroom;
use crate::domain::ids::RequestLogId;
use crate::domain::time::{UnixMs, seconds_until};

/// The request id that the upstream assigned.
pub const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");
/// The request id that the gateway assigned.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same id, under the name that Anthropic clients read.
const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Where an error comes from: `gateway` or `upstream`.
pub const ERROR_SOURCE: HeaderName = HeaderName::from_static("x-meteor-error-source");

/// The maximum output tokens per choice, if the gateway lowered it.
pub const OUTPUT_CLAMPED: HeaderName = HeaderName::from_static("x-meteor-output-clamped");

/// The maximum number of headers that the gateway adds to a response.
pub const fn gateway_headers_max(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Anthropic => 18,
        Dialect::OpenAi | Dialect::Gemini => 11,
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// True for request headers that the upstream must not receive: hop-by-hop headers, credentials,
/// headers that change who is billed or remove usage from the response, method overrides, headers
/// about the client's route to the gateway, and headers that the gateway sets itself. All others are
/// forwarded, including ones that do not exist yet.
fn is_stripped_from_request(name: &str) -> bool {
    let is_listed = matches!(
        name,
        "host"
            | "content-length"
            | "expect"
            | "accept-encoding"
            | "authorization"
            | "x-api-key"
            | "x-goog-api-key"
            | "api-key"
            | "openai-organization"
            | "openai-project"
            | "anthropic-workspace-id"
            | "x-goog-user-project"
            | "x-goog-fieldmask"
            | "x-http-method-override"
            | "x-method-override"
            | "x-http-method"
            | "cookie"
            | "forwarded"
            | "x-request-id"
            | "idempotency-key"
    );
    is_listed || is_hop_by_hop(name) || name.starts_with("x-forwarded-")
}

/// True for response headers that the client must not receive: hop-by-hop headers, headers about the
/// shared credential, and addresses of the upstream, which may contain the credential.
fn is_stripped_from_response(name: &str) -> bool {
    let is_listed = matches!(
        name,
        "set-cookie"
            | "alt-svc"
            | "location"
            | "content-location"
            | "refresh"
            | "openai-organization"
            | "openai-project"
            | "anthropic-organization-id"
            | "anthropic-workspace-id"
    );
    is_listed || is_hop_by_hop(name)
}

/// True for headers that report the upstream's own rate limits.
fn is_rate_limit_header(name: &str) -> bool {
    name.starts_with("x-ratelimit-")
        || name.starts_with("anthropic-ratelimit-")
        || matches!(name, "ratelimit" | "ratelimit-policy")
}

/// True if the value contains a gateway API key. Some clients send the key in several headers.
fn may_contain_key(value: &HeaderValue) -> bool {
    KEY_BYTES <= value.len() && memmem::find(value.as_bytes(), KEY_PREFIX.as_bytes()).is_some()
}

/// Turns the client's request headers into those for the upstream.
pub fn for_upstream(headers: &mut HeaderMap) {
    remove(headers, |name, value| is_stripped_from_request(name) || may_contain_key(value));
    headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Turns the upstream's response headers into those for the client. The upstream's rate limits are
/// those of a credential that all callers share, so they are forwarded only if `forward_limits` is
/// set.
pub fn for_client(headers: &mut HeaderMap, forward_limits: bool) {
    remove(headers, |name, _| {
        is_stripped_from_response(name) || (!forward_limits && is_rate_limit_header(name))
    });
    for name in [REQUEST_ID, ANTHROPIC_REQUEST_ID] {
        if let Some(id) = headers.remove(name) {
            headers.insert(UPSTREAM_REQUEST_ID, id);
        }
    }
}

/// Removes the headers that `is_stripped` selects and those that the `connection` header lists.
fn remove(headers: &mut HeaderMap, is_stripped: impl Fn(&str, &HeaderValue) -> bool) {
    let lines = headers.get_all(http::header::CONNECTION).iter();
    let mut removed: Vec<HeaderName> = lines
        .filter_map(|value| value.to_str().ok())
        .filter(|value| !value.eq_ignore_ascii_case("keep-alive"))
        .flat_map(|value| value.split(',').filter_map(|name| name.trim().parse().ok()))
        .collect();
    let stripped = headers.iter().filter(|(name, value)| is_stripped(name.as_str(), value));
    removed.extend(stripped.map(|(name, _)| name.clone()));
    for name in removed {
        headers.remove(name);
    }
}

/// Adds the request id of the gateway.
pub fn add_id(fields: &mut HeaderMap, id: RequestLogId, dialect: Dialect) {
    let id = HeaderValue::from_bytes(&id.hyphenated()).unwrap_or(HeaderValue::from_static(""));
    if dialect == Dialect::Anthropic {
        fields.insert(ANTHROPIC_REQUEST_ID, id.clone());
    }
    fields.insert(REQUEST_ID, id);
}

/// Returns a number as a header value.
pub fn number(value: u64) -> HeaderValue {
    HeaderValue::from(value)
}

/// Adds the headers that report the remaining headroom of the tightest limits.
pub fn add_rate_limits(
    fields: &mut HeaderMap,
    limits: &TightestLimits,
    dialect: Dialect,
    now: UnixMs,
) {
    let [requests, tokens] = limits;
    let mut writer = HeaderWriter::default();
    for (headroom, names) in [(requests, &REQUEST_HEADERS), (tokens, &TOKEN_HEADERS)] {
        let Some(headroom) = headroom else { continue };
        let limit = writer.number(headroom.value).value();
        let remaining = writer.number(headroom.remaining).value();
        if dialect == Dialect::Anthropic {
            fields.insert(&names.anthropic[0], limit.clone());
            fields.insert(&names.anthropic[1], remaining.clone());
            fields.insert(&names.anthropic[2], writer.instant(headroom.reset_at).value());
        }
        fields.insert(&names.openai[0], limit);
        fields.insert(&names.openai[1], remaining);
        // Seconds as OpenAI writes them: `34s`.
        let reset = writer.unsigned(seconds_until(headroom.reset_at, now)).text("s").value();
        fields.insert(&names.openai[2], reset);
    }
    let tightest = [requests, tokens]
        .into_iter()
        .flatten()
        .min_by_key(|headroom| remaining_millionths(headroom));
    if let Some(headroom) = tightest {
        let seconds = seconds_until(headroom.reset_at, now);
        let name = headroom.limit.field();
        writer.text("\"").text(name).text("\";r=").number(headroom.remaining);
        fields.insert(&RATE_LIMIT, writer.text(";t=").unsigned(seconds).value());
        writer.text("\"").text(name).text("\";q=").number(headroom.value);
        fields.insert(&RATE_LIMIT_POLICY, writer.value());
    }
}

/// Writes header values into one shared buffer, so that a response needs one allocation for all.
struct HeaderWriter(BytesMut);

impl Default for HeaderWriter {
    fn default() -> Self {
        Self(BytesMut::with_capacity(384))
    }
}

impl HeaderWriter {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: i64) -> &mut Self {
        if number < 0 {
            self.text("-");
        }
        self.unsigned(number.unsigned_abs())
    }

    fn unsigned(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut rest = number;
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    /// Writes an instant as RFC 3339.
    fn instant(&mut self, at: UnixMs) -> &mut Self {
        // Writing to memory does not fail.
        let _ = write!(self.0, "{at}");
        self
    }

    /// Returns the text written since the previous call.
    fn value(&mut self) -> HeaderValue {
        let bytes = self.0.split().freeze();
        HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(""))
    }
}

/// The unused part of a limit, in millionths.
fn remaining_millionths(headroom: &Headroom) -> i128 {
    i128::from(headroom.remaining) * 1_000_000 / i128::from(headroom.value.max(1))
}

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Names of the headers for limit, remaining and reset of one measure.
struct LimitHeaders {
    /// Sent in every dialect.
    openai: [HeaderName; 3],
    /// Sent in addition in the Anthropic dialect.
    anthropic: [HeaderName; 3],
}

static REQUEST_HEADERS: LimitHeaders = LimitHeaders {
    openai: [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    anthropic: [
        HeaderName::from_static("anthropic-ratelimit-requests-limit"),
        HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
        HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    ],
};

static TOKEN_HEADERS: LimitHeaders = LimitHeaders {
    openai: [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
    anthropic: [
        HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::Limit;

    fn names(mut headers: HeaderMap, convert: impl Fn(&mut HeaderMap)) -> Vec<String> {
        convert(&mut headers);
        let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(pair).collect()
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        let mut writer = HeaderWriter::default();
        for number in [0, 7, 10, -3, i64::MAX, i64::MIN] {
            assert_eq!(writer.number(number).value(), number.to_string());
        }
    }

    #[test]
    fn credentials_and_hop_by_hop_headers_are_stripped() {
        let client = headers(&[
            ("authorization", "Bearer x"),
            ("x-api-key", "x"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("anthropic-beta", "b"),
            ("anthropic-of-tomorrow", "b"),
            ("content-type", "application/json"),
            ("x-stainless-retry-count", "1"),
            ("x-goog-api-client", "c"),
            ("x-goog-user-project", "p"),
            ("x-goog-fieldmask", "candidates"),
            ("x-http-method-override", "GET"),
            ("x-method-override", "GET"),
            ("x-http-method", "GET"),
            ("traceparent", "t"),
            ("idempotency-key", "k"),
            ("referer", "http://x/?k=sk-mtr-0000000000000000000000000000000000000000000000000"),
        ]);
        let passed = [
            "accept-encoding",
            "anthropic-beta",
            "anthropic-of-tomorrow",
            "content-type",
            "traceparent",
            "x-goog-api-client",
            "x-stainless-retry-count",
        ];
        assert_eq!(names(client, for_upstream), passed);
        let upstream = headers(&[
            ("request-id", "theirs"),
            ("set-cookie", "c"),
            ("location", "http://h/?key=k"),
            ("content-location", "/?key=k"),
            ("refresh", "0; url=/?key=k"),
            ("x-ratelimit-limit-requests", "1"),
            ("anthropic-ratelimit-input-tokens-limit", "1"),
            ("retry-after", "5"),
        ]);
        let passed = ["retry-after", "x-upstream-request-id"];
        assert_eq!(names(upstream.clone(), |headers| for_client(headers, false)), passed);
        let passed = [
            "anthropic-ratelimit-input-tokens-limit",
            "retry-after",
            "x-ratelimit-limit-requests",
            "x-upstream-request-id",
        ];
        assert_eq!(names(upstream, |headers| for_client(headers, true)), passed);
    }

    #[test]
    fn rate_limits_use_the_header_names_of_the_dialect() {
        let now = UnixMs(1_705_314_600_000);
        let headroom =
            |limit| Headroom { limit, value: 9, remaining: 4, reset_at: now.minute().end() };
        let limits = [Some(headroom(Limit::RequestsPerMinute)), Some(headroom(Limit::DailyTokens))];
        for dialect in Dialect::ALL {
            let mut fields = HeaderMap::new();
            add_rate_limits(&mut fields, &limits, dialect, now);
            assert_eq!(fields["x-ratelimit-remaining-tokens"], "4");
            assert_eq!(fields["x-ratelimit-reset-requests"], "60s");
            assert_eq!(fields["ratelimit"], "\"requestsPerMinuteLimit\";r=4;t=60");
            let reset = fields.get("anthropic-ratelimit-requests-reset");
            let expected = (dialect == Dialect::Anthropic).then_some("2024-01-15T10:31:00.000Z");
            assert_eq!(reset.map(HeaderValue::as_bytes), expected.map(str::as_bytes));
            add_id(&mut fields, RequestLogId(1), dialect);
            assert_eq!(fields.contains_key("request-id"), expected.is_some());
            fields.insert(ERROR_SOURCE, HeaderValue::from_static("upstream"));
            assert!(fields.len() <= gateway_headers_max(dialect), "{fields:?}");
        }
    }
}
