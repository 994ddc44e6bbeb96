//! Quotas: all limits of a project, replaced whole; its usage is kept.

use serde_json::{Value, json};

use crate::domain::ids::ProjectId;
use crate::domain::limit::{Limit, Limits};
use crate::domain::quota::Quota;
use crate::organization::access::Seat;
use crate::organization::denied::{Denied, Fault};
use crate::organization::platform::Platform;
use crate::organization::projects;
use crate::organization::rights::Right;
use crate::organization::work::{Change, Effect, Work};
use crate::store::quotas::{self, StoredQuota};

/// The quota of a project.
pub async fn view(platform: &Platform, seat: &Seat, id: ProjectId) -> Result<StoredQuota, Denied> {
    projects::open(platform, seat, id, Right::ViewQuota).await?;
    Ok(quotas::read(platform.database.reader(), id.0).await?)
}

/// Puts a quota in the place of the one there is. Open calls are honoured.
pub async fn replace(
    work: &mut Work,
    seat: &Seat,
    id: ProjectId,
    quota: Quota,
) -> Result<StoredQuota, Denied> {
    let (project, _) = projects::open_to_change(work, seat, id, Right::SetQuota).await?;
    within(&quota.limits, project.ceiling.as_ref())?;
    let before = quotas::read(work.connection(), id.0).await?;
    work.expects(before.version)?;
    let now = work.now();
    quotas::replace(work.connection(), id.0, &quota, now).await?;
    work.then(Effect::Project(id));
    let after = quotas::read(work.connection(), id.0).await?;
    let change = Change {
        organization: Some(seat.organization.id),
        action: "quota.replace".into(),
        target: ("project", id.to_string(), project.name),
        before: Some(picture(&before.quota)),
        after: Some(picture(&quota)),
    };
    work.audit(&seat.principal.actor(), change).await?;
    Ok(after)
}

/// Every limit that the ceiling names must be set, and not above it.
fn within(limits: &Limits, ceiling: Option<&Limits>) -> Result<(), Denied> {
    let Some(ceiling) = ceiling else { return Ok(()) };
    let above = |(limit, most): (Limit, i64)| {
        let fits = limits.get(limit).is_some_and(|value| value <= most);
        let message = format!("{} is above the project's ceiling", limit.field());
        (!fits).then(|| Fault::new(format!("/{}", limit.field()), "above_ceiling", message))
    };
    let faults: Vec<Fault> = ceiling.set().filter_map(above).collect();
    if faults.is_empty() { Ok(()) } else { Err(Denied::Invalid(faults)) }
}

fn picture(quota: &Quota) -> Value {
    json!({
        "limitsNano": quotas::json_of(&quota.limits),
        "enforceQuota": quota.enforce,
        "customResetDay": quota.reset_day.get(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_bounds_every_limit_that_it_names() {
        let ceiling = Limits::default().with(Limit::DailyRequests, Some(10));
        let limits = |value| Limits::default().with(Limit::DailyRequests, value);
        assert!(within(&limits(Some(10)), Some(&ceiling)).is_ok());
        assert!(within(&limits(Some(11)), Some(&ceiling)).is_err());
        assert!(within(&limits(None), Some(&ceiling)).is_err(), "no limit is above any");
        assert!(within(&limits(None), None).is_ok());
    }
}
