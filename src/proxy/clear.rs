//! Clear: an answer of an upstream without the secret that stood in the target it was asked by.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use memchr::memmem;

use crate::proxy::refuse::Refusal;
use crate::proxy::upstream::Upstream;

/// The longest error that is searched, in bytes. A longer one does not reach the client.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// What stands in the place of the secret.
const CLEARED: &[u8] = b"***";

/// Takes the secret out of an answer's head, and out of the body of an error, which may echo the
/// target: that body is read whole and returned. All of this is for upstreams whose secret stands
/// in the target; the answers of others are `None` and not touched.
///
/// # Errors
/// `UpstreamFailed` if the error cannot be read, or cannot be searched.
pub async fn clear(
    upstream: &Upstream,
    parts: &mut Parts,
    body: &mut Incoming,
) -> Result<Option<Bytes>, Refusal> {
    let Some(secret) = upstream.secret_in_target() else { return Ok(None) };
    clear_head(secret, &mut parts.headers);
    if parts.status.is_success() {
        return Ok(None);
    }
    let coding = parts.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let is_plain = coding.is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"));
    let whole = Limited::new(body, ERROR_BYTES_MAX).collect();
    match tokio::time::timeout(upstream.settings.idle_timeout, whole).await {
        Ok(Ok(whole)) if is_plain => {
            parts.headers.remove(CONTENT_LENGTH);
            Ok(Some(without(secret, &whole.to_bytes())))
        }
        _ => {
            tracing::warn!(
                upstream = %upstream.name(),
                status = parts.status.as_u16(),
                "an error that may echo the secret is too long, encoded or broken, and stays here"
            );
            Err(Refusal::UpstreamFailed)
        }
    }
}

fn clear_head(secret: &str, headers: &mut HeaderMap) {
    let echoes = headers.iter().filter(|(_, value)| holds(value.as_bytes(), secret));
    let names: Vec<HeaderName> = echoes.map(|(name, _)| name.clone()).collect();
    for name in names {
        headers.remove(name);
    }
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    memmem::find(bytes, secret.as_bytes()).is_some()
}

fn without(secret: &str, body: &Bytes) -> Bytes {
    if !holds(body, secret) {
        return body.clone();
    }
    let mut cleared = BytesMut::with_capacity(body.len());
    let mut from = 0;
    for at in memmem::find_iter(body, secret) {
        cleared.extend_from_slice(&body[from..at]);
        cleared.extend_from_slice(CLEARED);
        from = at + secret.len();
    }
    cleared.extend_from_slice(&body[from..]);
    cleared.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_echo_is_taken_out_and_the_rest_stays() {
        for (body, cleared) in [
            ("", ""),
            ("no such thing", "no such thing"),
            ("s3cret", "***"),
            ("/x?key=s3cret&a=s3crets3cret s3cre", "/x?key=***&a=****** s3cre"),
        ] {
            assert_eq!(without("s3cret", &Bytes::from(body)), cleared);
        }
    }
}
