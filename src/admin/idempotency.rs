//! `Idempotency-Key`: executes a repeated request once and replays its response.

use sha2::{Digest, Sha256};

use crate::admin::api_error::ApiError;
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult, Interrupt};
use crate::admin::state::IdempotencyGuard;
use crate::domain::ids::OrganizationId;
use crate::organization::access::OrgContext;
use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::unit_of_work::{AuditChange, AuditTarget, UnitOfWork};
use crate::store::admin_idempotency::{self, StoredResponse};

/// A mutation in progress: its unit of work and its claimed idempotency key.
#[derive(Debug)]
pub struct MutationContext {
    pub work: UnitOfWork,
    organization: Option<OrganizationId>,
    claim: Option<MutationClaim>,
}

#[derive(Debug)]
struct MutationClaim {
    scope: [u8; 32],
    fingerprint: [u8; 32],
    /// Held until the response is stored.
    _guard: IdempotencyGuard,
}

impl AuthenticatedRequest {
    /// Claims the idempotency key and begins a unit of work. Returns the stored response if the
    /// request was completed before.
    pub async fn begin_mutation(
        &self,
        org: Option<&OrgContext>,
    ) -> Result<MutationContext, Interrupt> {
        let organization = org.map(|org| org.organization.id);
        let claim = self.claim_key(organization)?;
        let mut work = UnitOfWork::begin(&self.state.services, self.origin()).await?;
        if let Some(claim) = &claim {
            let now = work.now();
            let stored = admin_idempotency::find(work.connection(), &claim.scope, now).await;
            match stored.map_err(UseCaseError::from)? {
                Some(stored) if stored.fingerprint != claim.fingerprint => {
                    return Err(ApiError::idempotency_mismatch().into());
                }
                Some(stored) => {
                    let status = u16::try_from(stored.status).unwrap_or(500);
                    return Err(Interrupt::Replay(Box::new(AdminResponse::replay(
                        status,
                        stored.body,
                    ))));
                }
                None => {}
            }
        }
        Ok(MutationContext { work, organization, claim })
    }

    /// Commits the unit of work together with the stored response. On an error, rolls back and
    /// stores the error response if it is replayable.
    pub async fn finish_mutation(
        &self,
        mutation: MutationContext,
        result: Result<AdminResponse, UseCaseError>,
    ) -> HandlerResult {
        let MutationContext { mut work, organization, claim } = mutation;
        match result {
            Ok(response) => {
                if let Some(claim) = &claim {
                    claim.store_response(&mut work, 200, response.json_without_secret()).await?;
                }
                work.commit().await?;
                Ok(response)
            }
            Err(error) => {
                drop(work);
                let forbidden =
                    matches!(error, UseCaseError::Forbidden(_) | UseCaseError::CannotGrant(_));
                let error = ApiError::from(error);
                self.record_failure(organization, claim, &error, forbidden).await?;
                Err(error.into())
            }
        }
    }

    /// Stores the error response under its key and writes an audit entry if the action was
    /// forbidden.
    async fn record_failure(
        &self,
        organization: Option<OrganizationId>,
        claim: Option<MutationClaim>,
        error: &ApiError,
        forbidden: bool,
    ) -> Result<(), UseCaseError> {
        let claim = claim.filter(|_| error.is_replayable());
        if claim.is_none() && !forbidden {
            return Ok(());
        }
        let origin = self.origin();
        let mut work = UnitOfWork::begin(&self.state.services, origin).await?;
        if forbidden {
            let path = self.uri.path().to_owned();
            let change = AuditChange {
                organization,
                action: format!("{} {path}", self.method).into(),
                target: AuditTarget { kind: "path", id: path, name: String::new() },
                before: None,
                after: None,
            };
            work.audit_denied(&self.principal.actor(), change).await?;
        }
        if let Some(claim) = &claim {
            claim.store_response(&mut work, error.status.as_u16(), error.to_json()).await?;
        }
        work.commit().await
    }

    fn claim_key(
        &self,
        organization: Option<OrganizationId>,
    ) -> Result<Option<MutationClaim>, Interrupt> {
        let Some(value) = self.headers.get("idempotency-key") else { return Ok(None) };
        if self.method != axum::http::Method::POST {
            return Ok(None);
        }
        let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
        let Some(key) = key else {
            let message = "Idempotency-Key: expected 1 to 255 printable characters";
            let error = FieldError::new("Idempotency-Key", "malformed", message);
            return Err(ApiError::invalid(vec![error]).into());
        };
        let organization = organization.map(|id| id.to_string()).unwrap_or_default();
        let actor = self.principal.actor().id;
        let path = self.uri.path();
        let scope = digest(&[&organization, &actor, self.method.as_str(), path, key]);
        let query = self.uri.query().unwrap_or_default();
        let fingerprint = digest(&[query.as_bytes(), &self.bytes]);
        let running = self.state.lock_key(scope).ok_or_else(|| {
            let message = "a request with this Idempotency-Key is in progress; retry later";
            UseCaseError::conflict("request_in_progress", message)
        })?;
        Ok(Some(MutationClaim { scope, fingerprint, _guard: running }))
    }
}

impl MutationClaim {
    async fn store_response(
        &self,
        work: &mut UnitOfWork,
        status: u16,
        response: String,
    ) -> Result<(), UseCaseError> {
        let now = work.now();
        let fingerprint = self.fingerprint.to_vec();
        let stored = StoredResponse { fingerprint, status: i64::from(status), body: response };
        Ok(admin_idempotency::insert(work.connection(), &self.scope, &stored, now).await?)
    }
}

/// Returns the SHA-256 of the parts. Each part is prefixed with its length, so that different
/// splits never hash alike.
fn digest<T: AsRef<[u8]>>(parts: &[T]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
