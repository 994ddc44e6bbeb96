//! Quotas: all limits of a project, or of an organization's projects together, replaced whole.
//! Usage is kept.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::quota::Quota;
use crate::organization::access::Seat;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::projects;
use crate::organization::rights::Right;
use crate::organization::work::{Change, Effect, Work};
use crate::store::columns::Subject;
use crate::store::quotas::{self, StoredQuota};

/// Whose quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of the organization in which they sit: all its projects together.
    Organization,
    /// A project's.
    Project(ProjectId),
}

impl Whose {
    /// By which id quota and usage are kept.
    pub const fn subject(self, seat: &Seat) -> Subject {
        match self {
            Self::Organization => seat.organization.id.0,
            Self::Project(id) => id.0,
        }
    }
}

/// The quota.
pub async fn view(platform: &Platform, seat: &Seat, whose: Whose) -> Result<StoredQuota, Denied> {
    match whose {
        Whose::Organization => seat.may(Right::ViewOrganization)?,
        Whose::Project(id) => {
            projects::open(platform, seat, id, Right::ViewQuota).await?;
        }
    }
    Ok(quotas::read(platform.database.reader(), whose.subject(seat)).await?)
}

/// Puts a quota in the place of the one there is. Open calls are honoured.
pub async fn replace(
    work: &mut Work,
    seat: &Seat,
    whose: Whose,
    quota: Quota,
) -> Result<StoredQuota, Denied> {
    let (effect, target) = match whose {
        Whose::Organization => {
            seat.may(Right::SetOrganizationQuota)?;
            let organization = &seat.organization;
            let target = ("organization", organization.id.to_string(), organization.name.clone());
            (Effect::Organization(organization.id), target)
        }
        Whose::Project(id) => {
            let (project, _) = projects::open_to_change(work, seat, id, Right::SetQuota).await?;
            if let Some(ceiling) = &project.ceiling {
                projects::refuse_above(&quota, ceiling, |limit| {
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
    let subject = whose.subject(seat);
    let before = quotas::read(work.connection(), subject).await?;
    work.expects(before.version)?;
    let now = work.now();
    quotas::replace(work.connection(), subject, &quota, now).await?;
    work.then(effect);
    let after = quotas::read(work.connection(), subject).await?;
    let change = Change {
        organization: Some(seat.organization.id),
        action: "quota.replace".into(),
        target,
        before: Some(picture(&before.quota)),
        after: Some(picture(&quota)),
    };
    work.audit(&seat.principal.actor(), change).await?;
    Ok(after)
}

fn picture(quota: &Quota) -> Value {
    json!({
        "limitsNano": quotas::json_of(&quota.limits),
        "enforceQuota": quota.enforce,
        "customResetDay": quota.reset_day.get(),
    })
}
