//! Removes the query-string secret of an upstream from its responses.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use memchr::memmem;

use crate::proxy::refusal::error_spec::Refusal;
use crate::proxy::upstreams::upstream::Upstream;

/// Maximum size of an error body that is searched. A larger body is not forwarded.
const ERROR_BYTES_MAX: usize = 64 << 10;
const REDACTED: &[u8] = b"***";

/// Removes the secret from the headers and, because an error body may echo the request target, from
/// the body of an error, which is read completely and returned. Does nothing and returns `None` for
/// upstreams whose secret is not in the query string.
///
/// # Errors
/// `UpstreamFailed` if an error body cannot be read or searched.
pub async fn redact_secret(
    upstream: &Upstream,
    parts: &mut Parts,
    body: &mut Incoming,
) -> Result<Option<Bytes>, Refusal> {
    let Some(secret) = upstream.query_secret() else { return Ok(None) };
    redact_headers(secret, &mut parts.headers);
    if parts.status.is_success() {
        return Ok(None);
    }
    let encoding = parts.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let is_plain = encoding.is_none_or(|encoding| encoding.eq_ignore_ascii_case(b"identity"));
    let reading = Limited::new(body, ERROR_BYTES_MAX).collect();
    match tokio::time::timeout(upstream.settings.idle_timeout, reading).await {
        Ok(Ok(body)) if is_plain => {
            parts.headers.remove(CONTENT_LENGTH);
            Ok(Some(redact(secret, &body.to_bytes())))
        }
        _ => {
            tracing::warn!(
                upstream = %upstream.name(),
                status = parts.status.as_u16(),
                "error response not forwarded: it may echo the secret and cannot be searched"
            );
            Err(Refusal::UpstreamFailed)
        }
    }
}

fn redact_headers(secret: &str, headers: &mut HeaderMap) {
    let matching = headers.iter().filter(|(_, value)| contains(value.as_bytes(), secret));
    let names: Vec<HeaderName> = matching.map(|(name, _)| name.clone()).collect();
    for name in names {
        headers.remove(name);
    }
}

fn contains(bytes: &[u8], secret: &str) -> bool {
    memmem::find(bytes, secret.as_bytes()).is_some()
}

fn redact(secret: &str, body: &Bytes) -> Bytes {
    if !contains(body, secret) {
        return body.clone();
    }
    let mut redacted = BytesMut::with_capacity(body.len());
    let mut from = 0;
    for at in memmem::find_iter(body, secret) {
        redacted.extend_from_slice(&body[from..at]);
        redacted.extend_from_slice(REDACTED);
        from = at + secret.len();
    }
    redacted.extend_from_slice(&body[from..]);
    redacted.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occurrence_is_redacted_and_nothing_else() {
        for (body, redacted) in [
            ("", ""),
            ("no such thing", "no such thing"),
            ("s3cret", "***"),
            ("/x?key=s3cret&a=s3crets3cret s3cre", "/x?key=***&a=****** s3cre"),
        ] {
            assert_eq!(redact("s3cret", &Bytes::from(body)), redacted);
        }
    }
}
