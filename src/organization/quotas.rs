//! Quotas of projects and organizations. A quota is replaced as a whole; usage is kept.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::quota::Quota;
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Effect, UnitOfWork};
use crate::organization::{organizations, projects};
use crate::store::columns::Subject;
use crate::store::quotas::{self, StoredQuota};

/// The project or organization to which a quota applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaSubject {
    /// The organization of the context: all its projects together.
    Organization,
    /// One project.
    Project(ProjectId),
}

impl QuotaSubject {
    /// Returns the id under which the quota and its usage are stored.
    pub const fn id(self, org: &OrgContext) -> Subject {
        match self {
            Self::Organization => org.organization.id.0,
            Self::Project(id) => id.0,
        }
    }
}

/// Returns the quota.
pub async fn view(
    services: &Services,
    org: &OrgContext,
    subject: QuotaSubject,
) -> Result<StoredQuota, UseCaseError> {
    match subject {
        QuotaSubject::Organization => org.require(Action::ViewOrganization)?,
        QuotaSubject::Project(id) => {
            projects::find_for(services, org, id, Action::ViewQuota).await?;
        }
    }
    Ok(quotas::read(services.database.reader(), subject.id(org)).await?)
}

/// Replaces the quota. Open calls are not affected.
pub async fn replace(
    work: &mut UnitOfWork,
    org: &OrgContext,
    subject: QuotaSubject,
    quota: Quota,
) -> Result<StoredQuota, UseCaseError> {
    let (effect, target) = match subject {
        QuotaSubject::Organization => {
            org.require(Action::SetOrganizationQuota)?;
            let organization = &org.organization;
            (Effect::Organization(organization.id), organizations::audit_target(organization))
        }
        QuotaSubject::Project(id) => {
            let (project, _) = projects::find_for_update(work, org, id, Action::SetQuota).await?;
            if let Some(ceiling) = &project.ceiling {
                projects::check_ceiling(&quota, ceiling, |limit| {
                    let field = limit.map_or("enforceQuota", |limit| limit.field());
                    let message = match limit {
                        Some(_) => format!("{field} must not be above the ceiling of the project"),
                        None => format!("{field} must be true, as the project has a ceiling"),
                    };
                    (format!("/{field}"), message)
                })?;
            }
            let target = AuditTarget { kind: "project", id: id.to_string(), name: project.name };
            (Effect::Project(id), target)
        }
    };
    let id = subject.id(org);
    let before = quotas::read(work.connection(), id).await?;
    work.check_version(before.version)?;
    let now = work.now();
    quotas::replace(work.connection(), id, &quota, now).await?;
    work.after_commit(effect);
    let after = quotas::read(work.connection(), id).await?;
    let change = AuditChange {
        organization: Some(org.organization.id),
        action: "quota.replace".into(),
        target,
        before: Some(audit_json(&before.quota)),
        after: Some(audit_json(&quota)),
    };
    work.audit(&org.principal.actor(), change).await?;
    Ok(after)
}

fn audit_json(quota: &Quota) -> Value {
    json!({
        "limitsNano": quotas::limits_json(&quota.limits),
        "enforceQuota": quota.enforce,
        "customResetDay": quota.reset_day.get(),
    })
}
