//! `Idempotency-Key`: a request that is sent again is done once, and answered the same.

use sha2::{Digest, Sha256};

use crate::admin::api_error::ApiError;
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult, Interrupt};
use crate::admin::state::IdempotencyGuard;
use crate::domain::ids::OrganizationId;
use crate::organization::access::OrgContext;
use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::unit_of_work::{AuditChange, UnitOfWork};
use crate::store::admin_idempotency;
use crate::store::admin_idempotency::StoredResponse;

/// A change that has begun, and the key that it runs under.
#[derive(Debug)]
pub struct MutationContext {
    /// The unit of change.
    pub work: UnitOfWork,
    organization: Option<OrganizationId>,
    claim: Option<MutationClaim>,
}

#[derive(Debug)]
struct MutationClaim {
    scope: [u8; 32],
    fingerprint: [u8; 32],
    /// Held until the answer is kept.
    _guard: IdempotencyGuard,
}

impl AuthenticatedRequest {
    /// Begins a change, or ends with the answer that this request was given before.
    pub async fn begin_mutation(
        &self,
        seat: Option<&OrgContext>,
    ) -> Result<MutationContext, Interrupt> {
        let organization = seat.map(|seat| seat.organization.id);
        let claim = self.claim_key(organization)?;
        let mut work =
            UnitOfWork::begin(&self.request.state.services, self.request.origin()).await?;
        if let Some(claim) = &claim {
            let now = work.now();
            let kept = admin_idempotency::find(work.connection(), &claim.scope, now).await;
            match kept.map_err(UseCaseError::from)? {
                Some(kept) if kept.fingerprint != claim.fingerprint => {
                    return Err(ApiError::idempotency_mismatch().into());
                }
                Some(kept) => {
                    let status = u16::try_from(kept.status).unwrap_or(500);
                    return Err(Interrupt::Replay(Box::new(AdminResponse::replay(
                        status, kept.body,
                    ))));
                }
                None => {}
            }
        }
        Ok(MutationContext { work, organization, claim })
    }

    /// Commits what was done together with its answer, or undoes it and keeps the no.
    pub async fn finish_mutation(
        &self,
        begun: MutationContext,
        done: Result<AdminResponse, UseCaseError>,
    ) -> HandlerResult {
        let MutationContext { mut work, organization, claim } = begun;
        match done {
            Ok(answer) => {
                if let Some(claim) = &claim {
                    claim.store_response(&mut work, 200, answer.json_without_secret()).await?;
                }
                work.commit().await?;
                Ok(answer)
            }
            Err(denied) => {
                drop(work);
                let forbidden =
                    matches!(denied, UseCaseError::Forbidden(_) | UseCaseError::CannotGrant(_));
                let failure = ApiError::from(denied);
                self.record_failure(organization, claim, &failure, forbidden).await?;
                Err(failure.into())
            }
        }
    }

    /// Writes a no where it must be found again: for its key, and in the audit log.
    async fn record_failure(
        &self,
        organization: Option<OrganizationId>,
        claim: Option<MutationClaim>,
        failure: &ApiError,
        forbidden: bool,
    ) -> Result<(), UseCaseError> {
        let claim = claim.filter(|_| failure.is_replayable());
        if claim.is_none() && !forbidden {
            return Ok(());
        }
        let origin = self.request.origin();
        let mut work = UnitOfWork::begin(&self.request.state.services, origin).await?;
        if forbidden {
            let path = self.request.uri.path().to_owned();
            let change = AuditChange {
                organization,
                action: format!("{} {path}", self.request.method).into(),
                target: ("path", path, String::new()),
                before: None,
                after: None,
            };
            work.audit_denied(&self.principal.actor(), change).await?;
        }
        if let Some(claim) = &claim {
            claim.store_response(&mut work, failure.status.as_u16(), failure.to_json()).await?;
        }
        work.commit().await
    }

    fn claim_key(
        &self,
        organization: Option<OrganizationId>,
    ) -> Result<Option<MutationClaim>, Interrupt> {
        let Some(value) = self.request.headers.get("idempotency-key") else { return Ok(None) };
        if self.request.method != axum::http::Method::POST {
            return Ok(None);
        }
        let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
        let Some(key) = key else {
            let message = "give 1 to 255 printable characters";
            let fault = FieldError::new("Idempotency-Key", "malformed", message);
            return Err(ApiError::invalid(vec![fault]).into());
        };
        let organization = organization.map(|id| id.to_string()).unwrap_or_default();
        let actor = self.principal.actor().id;
        let path = self.request.uri.path();
        let scope = digest(&[&organization, &actor, self.request.method.as_str(), path, key]);
        let query = self.request.uri.query().unwrap_or_default();
        let fingerprint = digest(&[query.as_bytes(), &self.request.bytes]);
        let running = self.request.state.lock_key(scope).ok_or_else(|| {
            let message = "a request with this Idempotency-Key is still running";
            UseCaseError::conflict("still_running", message)
        })?;
        Ok(Some(MutationClaim { scope, fingerprint, _guard: running }))
    }
}

impl MutationClaim {
    async fn store_response(
        &self,
        work: &mut UnitOfWork,
        status: u16,
        answer: String,
    ) -> Result<(), UseCaseError> {
        let now = work.now();
        let fingerprint = self.fingerprint.to_vec();
        let kept = StoredResponse { fingerprint, status: i64::from(status), body: answer };
        Ok(admin_idempotency::insert(work.connection(), &self.scope, &kept, now).await?)
    }
}

/// SHA-256 of the parts, each with its length, so that none runs into the next.
fn digest<T: AsRef<[u8]>>(parts: &[T]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
