//! Authenticate: from a credential to the caller. A look into memory, never into a database.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use sha2::{Digest, Sha256};

use crate::accounting::directory::{Caller, Directory, SecretHash};
use crate::domain::time::UnixMs;
use crate::proxy::arrival::Arrival;
use crate::proxy::refuse::Refusal;

/// The shape of every key: prefix, 43 digits of randomness, 6 of checksum.
const KEY_PREFIX: &str = "sk-mtr-";
const KEY_BYTES: usize = KEY_PREFIX.len() + 49;

/// Somebody who is known, and the key that says so.
#[derive(Debug, Clone)]
pub struct Known {
    /// Who calls.
    pub caller: Arc<Caller>,
    secret: SecretHash,
}

/// Finds who calls, by the key in any of the places where clients put it.
pub fn authenticate(
    directory: &Directory,
    parts: &Parts,
    arrival: &Arrival,
) -> Result<Known, Refusal> {
    let key = credential(parts).ok_or(Refusal::Unauthenticated)?;
    if key.len() != KEY_BYTES || !key.starts_with(KEY_PREFIX) {
        return Err(Refusal::Unauthenticated);
    }
    look_up(directory, Sha256::digest(key.as_bytes()).into(), arrival.at, arrival.address)
}

/// The same once more: reading a body takes as long as its sender likes, and the key may have been
/// revoked meanwhile.
pub fn again(
    directory: &Directory,
    known: &Known,
    now: UnixMs,
    address: IpAddr,
) -> Result<Known, Refusal> {
    look_up(directory, known.secret, now, address)
}

fn look_up(
    directory: &Directory,
    secret: SecretHash,
    now: UnixMs,
    address: IpAddr,
) -> Result<Known, Refusal> {
    let keys = directory.keys();
    let caller = keys.find(&secret).ok_or(Refusal::Unauthenticated)?;
    allow(caller, now, address)?;
    Ok(Known { caller: Arc::clone(caller), secret })
}

/// Whether the key is good, here and now.
fn allow(caller: &Caller, now: UnixMs, address: IpAddr) -> Result<(), Refusal> {
    if !caller.enabled || caller.expires_at.is_some_and(|ends| ends <= now) {
        return Err(Refusal::Unauthenticated);
    }
    if !caller.organization_active {
        return Err(Refusal::Forbidden("the organization is not active"));
    }
    if !caller.project_active {
        return Err(Refusal::Forbidden("the project is archived"));
    }
    if !caller.may_call_from(address) {
        return Err(Refusal::Forbidden("this key may not be used from this address"));
    }
    Ok(())
}

/// The one credential of a request; `None` when there is none, or two that differ.
fn credential(parts: &Parts) -> Option<&str> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = header("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let query = parts.uri.query().unwrap_or_default();
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("key="));
    let places =
        [bearer, header("x-api-key"), header("x-goog-api-key"), header("api-key"), in_query];
    let mut given = places.into_iter().flatten();
    let first = given.next()?;
    given.all(|other| other == first).then_some(first)
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
        credential(&parts).map(ToOwned::to_owned)
    }

    #[test]
    fn a_key_is_taken_from_any_place_and_two_must_agree() {
        assert_eq!(found("/", &[("authorization", "bearer  k")]).as_deref(), Some("k"));
        for name in ["x-api-key", "x-goog-api-key", "api-key"] {
            assert_eq!(found("/", &[(name, "k")]).as_deref(), Some("k"));
        }
        assert_eq!(found("/?a=1&key=k", &[("x-api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(found("/", &[("authorization", "Bearer a"), ("api-key", "b")]), None);
        assert_eq!(found("/?monkey=k", &[("authorization", "Basic k")]), None);
    }
}
