//! Which headers pass, which stay, and which become others.

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::accounting::books::Rooms;
use crate::domain::counter::Room;
use crate::domain::ids::RequestLogId;
use crate::domain::time::UnixMs;

/// How many headers of its own the gateway adds to an answer, at most.
pub const OWN_MAX: usize = 10;
/// The upstream's own id of the call, beside ours.
pub const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");
/// Our id of the call.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Whose fault an error is: `gateway` or `upstream`.
pub const ERROR_SOURCE: HeaderName = HeaderName::from_static("x-meteor-error-source");

/// Whether a request header is not for the upstream: hop by hop, a credential, something that
/// moves the bill, something about the client's way here, or something the gateway sets itself.
fn stays_down(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "host"
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
            | "cookie"
            | "forwarded"
            | "x-request-id"
            | "idempotency-key"
    ) || name.starts_with("x-forwarded-")
}

/// Whether a response header is not for the client: hop by hop, or about the shared credential.
fn stays_up(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "set-cookie"
            | "alt-svc"
            | "openai-organization"
            | "openai-project"
            | "anthropic-organization-id"
            | "ratelimit"
            | "ratelimit-policy"
    ) || name.starts_with("x-ratelimit-")
        || name.starts_with("anthropic-ratelimit-")
}

/// Turns a client's headers into those for the upstream.
pub fn for_upstream(headers: &mut HeaderMap) {
    remove(headers, stays_down);
    headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Turns an upstream's headers into those for the client.
pub fn for_client(headers: &mut HeaderMap) {
    remove(headers, stays_up);
    for name in [REQUEST_ID, HeaderName::from_static("request-id")] {
        if let Some(id) = headers.remove(name) {
            headers.insert(UPSTREAM_REQUEST_ID, id);
        }
    }
}

/// Removes what `stays` names, and what the `connection` header itself names.
fn remove(headers: &mut HeaderMap, stays: fn(&str) -> bool) {
    let lines = headers.get_all(http::header::CONNECTION).iter();
    let mut removed: Vec<HeaderName> = lines
        .filter_map(|value| value.to_str().ok())
        .filter(|value| !value.eq_ignore_ascii_case("keep-alive"))
        .flat_map(|value| value.split(',').filter_map(|name| name.trim().parse().ok()))
        .collect();
    removed.extend(headers.keys().filter(|name| stays(name.as_str())).cloned());
    for name in removed {
        headers.remove(name);
    }
}

/// The value of [`REQUEST_ID`].
pub fn request_id(id: RequestLogId) -> HeaderValue {
    HeaderValue::from_bytes(&id.hyphenated()).unwrap_or(HeaderValue::from_static(""))
}

/// A header value of digits.
pub fn number(value: i64) -> HeaderValue {
    HeaderValue::from(value)
}

/// Tells what is left of the tightest limits.
pub fn add_rooms(fields: &mut HeaderMap, rooms: &Rooms, now: UnixMs) {
    let [requests, tokens] = rooms;
    let mut pen = Pen::default();
    for (room, [limit, remaining, reset]) in
        [(requests, &REQUEST_HEADERS), (tokens, &TOKEN_HEADERS)]
    {
        let Some(room) = room else { continue };
        fields.insert(limit, pen.number(room.value).value());
        fields.insert(remaining, pen.number(room.remaining).value());
        // Seconds as OpenAI writes them: `34s`.
        fields.insert(reset, pen.number(seconds_until(room.reset_at, now)).text("s").value());
    }
    let tightest = [requests, tokens].into_iter().flatten().min_by_key(|room| share(room));
    if let Some(room) = tightest {
        let seconds = seconds_until(room.reset_at, now);
        let name = room.limit.field();
        pen.text("\"").text(name).text("\";r=").number(room.remaining);
        fields.insert(&RATE_LIMIT, pen.text(";t=").number(seconds).value());
        pen.text("\"").text(name).text("\";q=").number(room.value);
        fields.insert(&RATE_LIMIT_POLICY, pen.value());
    }
}

/// Writes header values, all into one buffer: every answer carries a few.
struct Pen(BytesMut);

impl Default for Pen {
    fn default() -> Self {
        Self(BytesMut::with_capacity(256))
    }
}

impl Pen {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: i64) -> &mut Self {
        let mut digits = [0; 20];
        let mut rest = number.unsigned_abs();
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            self.text("-");
        }
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    /// The value written since the last one.
    fn value(&mut self) -> HeaderValue {
        let bytes = self.0.split().freeze();
        HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(""))
    }
}

/// How much of a limit is left, in millionths.
fn share(room: &Room) -> i128 {
    i128::from(room.remaining) * 1_000_000 / i128::from(room.value.max(1))
}

/// Whole seconds until then, begun ones counted.
fn seconds_until(reset_at: UnixMs, now: UnixMs) -> i64 {
    ((reset_at.0 - now.0).max(0) + 999) / 1_000
}

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

static REQUEST_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];

static TOKEN_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut headers: HeaderMap, turn: fn(&mut HeaderMap)) -> Vec<String> {
        turn(&mut headers);
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
    fn numbers_are_written_as_they_are() {
        let mut pen = Pen::default();
        for number in [0, 7, 10, -3, i64::MAX, i64::MIN] {
            assert_eq!(pen.number(number).value(), number.to_string());
        }
    }

    #[test]
    fn credentials_and_hops_stay_and_the_rest_passes() {
        let client = headers(&[
            ("authorization", "Bearer x"),
            ("x-api-key", "x"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("anthropic-beta", "b"),
            ("content-type", "application/json"),
            ("x-demo", "1"),
        ]);
        assert_eq!(
            names(client, for_upstream),
            ["accept-encoding", "anthropic-beta", "content-type", "x-demo"]
        );
        let upstream = headers(&[
            ("x-request-id", "theirs"),
            ("set-cookie", "c"),
            ("x-ratelimit-limit-requests", "1"),
            ("openai-processing-ms", "5"),
        ]);
        assert_eq!(names(upstream, for_client), ["openai-processing-ms", "x-upstream-request-id"]);
    }
}
