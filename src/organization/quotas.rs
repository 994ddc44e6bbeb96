//! Quotas of projects and organizations. A quota is replaced as a whole; usage is kept.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::quota::Quota;
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::projects;
use crate::organization::rights::Action;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, Effect, UnitOfWork};
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
    pub const fn id(self, seat: &OrgContext) -> Subject {
        match self {
            Self::Organization => seat.organization.id.0,
            Self::Project(id) => id.0,
        }
    }
}

/// Returns the quota.
pub async fn view(
    platform: &Services,
    seat: &OrgContext,
    whose: QuotaSubject,
) -> Result<StoredQuota, UseCaseError> {
    match whose {
        QuotaSubject::Organization => seat.require(Action::ViewOrganization)?,
        QuotaSubject::Project(id) => {
            projects::find_for(platform, seat, id, Action::ViewQuota).await?;
        }
    }
    Ok(quotas::read(platform.database.reader(), whose.id(seat)).await?)
}

/// Replaces the quota. Open calls are not affected.
pub async fn replace(
    work: &mut UnitOfWork,
    seat: &OrgContext,
    whose: QuotaSubject,
    quota: Quota,
) -> Result<StoredQuota, UseCaseError> {
    let (effect, target) = match whose {
        QuotaSubject::Organization => {
            seat.require(Action::SetOrganizationQuota)?;
            let organization = &seat.organization;
            let target = ("organization", organization.id.to_string(), organization.name.clone());
            (Effect::Organization(organization.id), target)
        }
        QuotaSubject::Project(id) => {
            let (project, _) = projects::find_for_update(work, seat, id, Action::SetQuota).await?;
            if let Some(ceiling) = &project.ceiling {
                projects::check_ceiling(&quota, ceiling, |limit| {
                    let field = limit.map_or("enforceQuota", |limit| limit.field());
                    let message = match limit {
                        Some(_) => format!("{field} is above the project's ceiling"),
                        None => format!("{field} must be true: the project has a ceiling"),
                    };
                    (format!("/{field}"), message)
                })?;
            }
            (Effect::Project(id), ("project", id.to_string(), project.name))
        }
    };
    let subject = whose.id(seat);
    let before = quotas::read(work.connection(), subject).await?;
    work.check_version(before.version)?;
    let now = work.now();
    quotas::replace(work.connection(), subject, &quota, now).await?;
    work.after_commit(effect);
    let after = quotas::read(work.connection(), subject).await?;
    let change = AuditChange {
        organization: Some(seat.organization.id),
        action: "quota.replace".into(),
        target,
        before: Some(audit_json(&before.quota)),
        after: Some(audit_json(&quota)),
    };
    work.audit(&seat.principal.actor(), change).await?;
    Ok(after)
}

fn audit_json(quota: &Quota) -> Value {
    json!({
        "limitsNano": quotas::limits_json(&quota.limits),
        "enforceQuota": quota.enforce,
        "customResetDay": quota.reset_day.get(),
    })
}
