//! `Idempotency-Key`: a request that is sent again is done once, and answered the same.

use sha2::{Digest, Sha256};

use crate::admin::answer::{Answer, Reply, Stop};
use crate::admin::asked::Asked;
use crate::admin::failure::Failure;
use crate::admin::state::Running;
use crate::domain::ids::OrganizationId;
use crate::organization::access::Seat;
use crate::organization::denied::{Denied, Fault};
use crate::organization::work::{Change, Work};
use crate::store::idempotency::{self, Kept};

/// A change that has begun, and the key that it runs under.
#[derive(Debug)]
pub struct Begun {
    /// The unit of change.
    pub work: Work,
    organization: Option<OrganizationId>,
    claim: Option<Claim>,
}

#[derive(Debug)]
struct Claim {
    scope: [u8; 32],
    fingerprint: [u8; 32],
    /// Held until the answer is kept.
    _running: Running,
}

impl Asked {
    /// Begins a change, or ends with the answer that this request was given before.
    pub async fn begin(&self, seat: Option<&Seat>) -> Result<Begun, Stop> {
        let organization = seat.map(|seat| seat.organization.id);
        let claim = self.claim(organization)?;
        let mut work = Work::begin(&self.visit.state.platform, self.visit.origin()).await?;
        if let Some(claim) = &claim {
            let now = work.now();
            let kept = idempotency::find(work.connection(), &claim.scope, now).await;
            match kept.map_err(Denied::from)? {
                Some(kept) if kept.fingerprint != claim.fingerprint => {
                    return Err(Failure::mismatch().into());
                }
                Some(kept) => {
                    let status = u16::try_from(kept.status).unwrap_or(500);
                    return Err(Stop::Replayed(Box::new(Answer::kept(status, kept.answer))));
                }
                None => {}
            }
        }
        Ok(Begun { work, organization, claim })
    }

    /// Commits what was done together with its answer, or undoes it and keeps the no.
    pub async fn finish(&self, begun: Begun, done: Result<Answer, Denied>) -> Reply {
        let Begun { mut work, organization, claim } = begun;
        match done {
            Ok(answer) => {
                if let Some(claim) = &claim {
                    claim.keep(&mut work, 200, answer.json_to_keep()).await?;
                }
                work.commit().await?;
                Ok(answer)
            }
            Err(denied) => {
                drop(work);
                let forbidden = matches!(denied, Denied::Forbidden(_) | Denied::CannotGrant(_));
                let failure = Failure::from(denied);
                self.note_no(organization, claim, &failure, forbidden).await?;
                Err(failure.into())
            }
        }
    }

    /// Writes a no where it must be found again: for its key, and in the audit log.
    async fn note_no(
        &self,
        organization: Option<OrganizationId>,
        claim: Option<Claim>,
        failure: &Failure,
        forbidden: bool,
    ) -> Result<(), Denied> {
        let claim = claim.filter(|_| failure.is_final());
        if claim.is_none() && !forbidden {
            return Ok(());
        }
        let origin = self.visit.origin();
        let mut work = Work::begin(&self.visit.state.platform, origin).await?;
        if forbidden {
            let path = self.visit.uri.path().to_owned();
            let change = Change {
                organization,
                action: format!("{} {path}", self.visit.method).into(),
                target: ("path", path, String::new()),
                before: None,
                after: None,
            };
            work.audit_denied(&self.principal.actor(), change).await?;
        }
        if let Some(claim) = &claim {
            claim.keep(&mut work, failure.status.as_u16(), failure.json()).await?;
        }
        work.commit().await
    }

    fn claim(&self, organization: Option<OrganizationId>) -> Result<Option<Claim>, Stop> {
        let Some(value) = self.visit.headers.get("idempotency-key") else { return Ok(None) };
        if self.visit.method != axum::http::Method::POST {
            return Ok(None);
        }
        let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
        let Some(key) = key else {
            let message = "give 1 to 255 printable characters";
            let fault = Fault::new("Idempotency-Key", "malformed", message);
            return Err(Failure::invalid(vec![fault]).into());
        };
        let organization = organization.map(|id| id.to_string()).unwrap_or_default();
        let actor = self.principal.actor().id;
        let path = self.visit.uri.path();
        let scope = digest(&[&organization, &actor, self.visit.method.as_str(), path, key]);
        let query = self.visit.uri.query().unwrap_or_default();
        let fingerprint = digest(&[query.as_bytes(), &self.visit.bytes]);
        let running = self.visit.state.enter(scope).ok_or_else(|| {
            let message = "a request with this Idempotency-Key is still running";
            Denied::conflict("still_running", message)
        })?;
        Ok(Some(Claim { scope, fingerprint, _running: running }))
    }
}

impl Claim {
    async fn keep(&self, work: &mut Work, status: u16, answer: String) -> Result<(), Denied> {
        let now = work.now();
        let fingerprint = self.fingerprint.to_vec();
        let kept = Kept { fingerprint, status: i64::from(status), answer };
        Ok(idempotency::keep(work.connection(), &self.scope, &kept, now).await?)
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
