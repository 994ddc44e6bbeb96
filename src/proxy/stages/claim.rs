//! Claims the idempotency key of a call, from the header `Idempotency-Key`.

use http::header::HeaderName;
use sha2::{Digest as _, Sha256};

use crate::accounting::idempotency::IdempotencyClaim;
use crate::accounting::key_directory::Caller;
use crate::domain::idempotency::{Digest, IdempotencyKey};
use crate::domain::ids::ApiKeyId;
use crate::proxy::query_string;
use crate::proxy::refusal::error_spec::{InvalidRequest, Refusal};
use crate::proxy::request_context::RequestContext;
use crate::proxy::server::worker::Worker;
use crate::proxy::stages::receive::ReceivedCall;
use crate::tasks;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum length of the header value.
const KEY_BYTES_MAX: usize = 255;

/// Claims the idempotency key of the call, if the request has one.
pub async fn claim_idempotency_key(
    worker: &Worker,
    ctx: &RequestContext,
    caller: &Caller,
    call: &ReceivedCall,
) -> Result<Option<IdempotencyClaim>, Refusal> {
    let mut values = call.parts.headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next() else { return Ok(None) };
    let key = key.as_bytes();
    let is_valid = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if !is_valid || values.next().is_some() {
        return Err(Refusal::Invalid(InvalidRequest::IdempotencyKey));
    }
    let idempotency_key = key_for(caller.key, call, key).await;
    let claim =
        worker.shared.idempotency_keys.claim(idempotency_key, ctx.id, ctx.received_at).await;
    claim.map(Some).map_err(Refusal::IdempotencyConflict)
}

/// What such a call is known by. Its target counts but for a caller's own key in it, which may be
/// rotated between two attempts.
async fn key_for(api_key: ApiKeyId, call: &ReceivedCall, key: &[u8]) -> IdempotencyKey {
    let uri = &call.parts.uri;
    let params = query_string::params(uri.query().unwrap_or_default())
        .filter(|param| query_string::value_of(param, query_string::KEY).is_none());
    let (query, body) = (params.collect::<Vec<&str>>().join("&"), call.body.clone());
    IdempotencyKey {
        key_digest: digest(&[&api_key.0.to_le_bytes(), uri.path().as_bytes(), key]),
        body_digest: tasks::run_offloaded(body.len(), move || digest(&[query.as_bytes(), &body]))
            .await,
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
