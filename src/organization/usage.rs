//! Usage of a quota: what is settled and held in each window, and what remains.

use crate::clock;
use crate::domain::counter::WindowUsage;
use crate::domain::limit::{Amounts, Limit, Window};
use crate::domain::quota::Quota;
use crate::domain::time::{Day, Minute, Month, UnixMs};
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::projects;
use crate::organization::quotas::QuotaSubject;
use crate::organization::rights::Action;
use crate::organization::services::Services;
use crate::store::columns::Subject;
use crate::store::{quotas, usage};

/// The usage of a project or an organization in all windows at one instant.
#[derive(Debug, Clone, Copy)]
pub struct QuotaUsage {
    /// That instant.
    pub as_of: UnixMs,
    pub quota: Quota,
    pub minute: WindowUsage,
    /// When the next minute begins.
    pub minute_reset_at: UnixMs,
    pub day: WindowUsage,
    /// The date of `day`.
    pub date: Day,
    /// The usage of the month up to and including `date`.
    pub month: WindowUsage,
    /// The first day of the month, and the first day after it.
    pub month_window: Month,
    /// The number of open calls.
    pub open_calls: i64,
}

impl QuotaUsage {
    /// Returns the headroom under `limit`; `None` if the limit is not set.
    pub fn remaining(&self, limit: Limit) -> Option<i64> {
        let usage = match limit.window() {
            Window::Minute => self.minute,
            Window::Day => self.day,
            Window::Month => self.month,
            Window::Concurrent => WindowUsage {
                used: Amounts { requests: self.open_calls, ..Amounts::default() },
                held: Amounts::default(),
            },
        };
        let consumed = usage.used.get(limit.measure()) + usage.held.get(limit.measure());
        self.quota.limits.get(limit).map(|value| (value - consumed).max(0))
    }
}

/// Returns the usage now, or at the end of `date`.
pub async fn view(
    services: &Services,
    org: &OrgContext,
    subject: QuotaSubject,
    date: Option<Day>,
) -> Result<QuotaUsage, UseCaseError> {
    match subject {
        QuotaSubject::Organization => org.require(Action::ViewOrganizationUsage)?,
        QuotaSubject::Project(id) => {
            projects::find_for(services, org, id, Action::ViewQuota).await?;
        }
    }
    load(services, org, subject, date).await
}

/// Like [`view`], without an access check: the caller has made it.
pub async fn load(
    services: &Services,
    org: &OrgContext,
    subject: QuotaSubject,
    date: Option<Day>,
) -> Result<QuotaUsage, UseCaseError> {
    let (now, live) = (clock::wall_now(), services.directory.live_state());
    let snapshot = match subject {
        QuotaSubject::Organization => {
            live.organization(org.organization.id).map(|state| state.usage_snapshot(now))
        }
        QuotaSubject::Project(id) => live.project(id).map(|state| state.usage_snapshot(now)),
    };
    match (date, snapshot) {
        (None, Some(snapshot)) => Ok(QuotaUsage {
            as_of: now,
            quota: snapshot.quota,
            minute: snapshot.minute,
            minute_reset_at: now.minute().end(),
            day: snapshot.day,
            date: now.day(),
            month: snapshot.month,
            month_window: snapshot.month_window,
            open_calls: snapshot.open_calls,
        }),
        (date, _) => load_settled(services, subject.id(org), date.unwrap_or(now.day()), now).await,
    }
}

/// Sums the daily rows in the database: settled usage only, without holds.
async fn load_settled(
    services: &Services,
    subject: Subject,
    date: Day,
    now: UnixMs,
) -> Result<QuotaUsage, UseCaseError> {
    let reader = services.database.reader();
    let quota = quotas::read(reader, subject).await?.quota;
    let month_window = quota.reset_day.month_of(date);
    let settled = |used| WindowUsage { used, held: Amounts::default() };
    Ok(QuotaUsage {
        as_of: now,
        quota,
        minute: WindowUsage::default(),
        minute_reset_at: Minute(date.next().start().minute().0 - 1).end(),
        day: settled(usage::sum(reader, subject, date, date.next()).await?),
        date,
        month: settled(usage::sum(reader, subject, month_window.first, date.next()).await?),
        month_window,
        open_calls: 0,
    })
}
