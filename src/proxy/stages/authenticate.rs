//! Authenticates the caller of a request by its API key. Uses the key snapshot in memory only.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::request::Parts;
use sha2::{Digest, Sha256};

use crate::accounting::key_directory::{Caller, Directory, KEY_BYTES, KEY_PREFIX, SecretHash};
use crate::domain::time::UnixMs;
use crate::proxy::query_string;
use crate::proxy::refusal::error_spec::{ForbiddenReason, Refusal};
use crate::proxy::request_context::RequestContext;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Authenticated {
    pub caller: Arc<Caller>,
    secret_hash: SecretHash,
}

/// Authenticates a request by the API key in any of the headers or query parameters that clients use.
pub fn authenticate(
    directory: &Directory,
    parts: &Parts,
    ctx: &RequestContext,
) -> Result<Authenticated, Refusal> {
    let key = credential(parts).ok_or(Refusal::Unauthenticated)?;
    if key.len() != KEY_BYTES || !key.starts_with(KEY_PREFIX) {
        return Err(Refusal::Unauthenticated);
    }
    lookup(directory, Sha256::digest(key.as_bytes()).into(), ctx.received_at, ctx.address)
}

/// Authenticates again with the current snapshot. The key may have been revoked while the body was
/// read or the call waited.
pub fn reauthenticate(
    directory: &Directory,
    authenticated: &Authenticated,
    now: UnixMs,
    address: IpAddr,
) -> Result<Authenticated, Refusal> {
    lookup(directory, authenticated.secret_hash, now, address)
}

fn lookup(
    directory: &Directory,
    secret_hash: SecretHash,
    now: UnixMs,
    address: IpAddr,
) -> Result<Authenticated, Refusal> {
    let keys = directory.keys();
    let caller = keys.find(&secret_hash).ok_or(Refusal::Unauthenticated)?;
    check_key(caller, now, address)?;
    Ok(Authenticated { caller: Arc::clone(caller), secret_hash })
}

/// Whether the key is good, here and now.
fn check_key(caller: &Caller, now: UnixMs, address: IpAddr) -> Result<(), Refusal> {
    if !caller.enabled || caller.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(Refusal::Unauthenticated);
    }
    if !caller.organization_active {
        return Err(Refusal::Forbidden(ForbiddenReason::OrganizationInactive));
    }
    if !caller.project_active {
        return Err(Refusal::Forbidden(ForbiddenReason::ProjectArchived));
    }
    if !caller.may_call_from(address) {
        return Err(Refusal::Forbidden(ForbiddenReason::Address));
    }
    Ok(())
}

/// The headers that hold a key and nothing else.
static KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("api-key"),
];

/// The one credential of a request; `None` when there is none, or two that differ. An empty one is
/// none: some clients send one in every place they know.
fn credential(parts: &Parts) -> Option<Cow<'_, str>> {
    let bearers = parts.headers.get_all(AUTHORIZATION).into_iter().filter_map(bearer);
    let key_headers = KEY_HEADERS
        .iter()
        .flat_map(|name| parts.headers.get_all(name))
        .filter_map(|value| value.to_str().ok());
    let in_query = query_string::params(parts.uri.query().unwrap_or_default())
        .filter_map(|part| query_string::decoded(query_string::value_of(part, query_string::KEY)?));
    let in_headers = bearers.chain(key_headers).map(Cow::Borrowed);
    let mut keys = in_headers.chain(in_query).filter(|key| !key.is_empty());
    let first = keys.next()?;
    keys.all(|other| other == first).then_some(first)
}

/// The key of an `authorization` header, if it holds one.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        credential(&parts).map(Cow::into_owned)
    }

    #[test]
    fn a_key_is_read_from_every_header_and_two_must_agree() {
        assert_eq!(found("/", &[("authorization", "bearer  k")]).as_deref(), Some("k"));
        for name in ["x-api-key", "x-goog-api-key", "api-key"] {
            assert_eq!(found("/", &[(name, "k")]).as_deref(), Some("k"));
        }
        assert_eq!(found("/?a=1&key=k", &[("x-api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(found("/", &[("authorization", "Bearer a"), ("api-key", "b")]), None);
        assert_eq!(found("/", &[("api-key", "a"), ("api-key", "b")]), None);
        assert_eq!(found("/?key=a&key=b", &[]), None);
        assert_eq!(found("/?monkey=k", &[("authorization", "Basic k")]), None);
        assert_eq!(found("/?k%65y=%6B", &[("x-api-key", "")]).as_deref(), Some("k"));
    }
}
