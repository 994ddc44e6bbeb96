//! Once: from the header `Idempotency-Key` to the call's right to run.

use http::header::HeaderName;
use sha2::{Digest as _, Sha256};

use crate::accounting::directory::Caller;
use crate::accounting::once::Claim;
use crate::domain::ids::ApiKeyId;
use crate::domain::once::{Digest, Once};
use crate::proxy::arrival::Arrival;
use crate::proxy::query;
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::worker::Worker;
use crate::tasks;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest value of the header.
const KEY_BYTES_MAX: usize = 255;

/// Takes the key that the call carries, if it carries one.
pub async fn claim(
    worker: &Worker,
    arrival: &Arrival,
    caller: &Caller,
    call: &Call,
) -> Result<Option<Claim>, Refusal> {
    let mut given = call.parts.headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let key = key.as_bytes();
    let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if !is_key || given.next().is_some() {
        return Err(Refusal::Malformed {
            param: Some("Idempotency-Key"),
            message: "the header `Idempotency-Key` must be 1 to 255 visible ASCII characters, and \
                      be sent once"
                .to_owned(),
        });
    }
    let once = known_by(caller.key, call, key).await;
    let claim = worker.shared.once_keys.claim(once, arrival.id, arrival.at).await;
    claim.map(Some).map_err(Refusal::Taken)
}

/// What such a call is known by. Its target counts but for a caller's own key in it, which may be
/// rotated between two attempts.
async fn known_by(caller: ApiKeyId, call: &Call, key: &[u8]) -> Once {
    let uri = &call.parts.uri;
    let asks = query::parts(uri.query().unwrap_or_default())
        .filter(|part| query::value_of(part, query::KEY).is_none());
    let (asks, body) = (asks.collect::<Vec<&str>>().join("&"), call.body.clone());
    Once {
        key: digest(&[&caller.0.to_le_bytes(), uri.path().as_bytes(), key]),
        body: tasks::aside(body.len(), move || digest(&[asks.as_bytes(), &body])).await,
    }
}

/// SHA-256 of the parts, each with its length, so that none runs into the next.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut half = Digest::default();
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}
