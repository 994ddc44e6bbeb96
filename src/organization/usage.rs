//! Quota usage: what is settled and held in each window, and what remains.

use crate::clock;
use crate::domain::counter::Tally;
use crate::domain::limit::{Amounts, Limit, Window};
use crate::domain::quota::Quota;
use crate::domain::time::{Day, Minute, Month, UnixMs};
use crate::organization::access::Seat;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::projects;
use crate::organization::quotas::Whose;
use crate::organization::rights::Right;
use crate::store::columns::Subject;
use crate::store::{quotas, usage};

/// Where a project or an organization stands, all windows at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// That moment.
    pub as_of: UnixMs,
    /// The limits in force.
    pub quota: Quota,
    /// The minute.
    pub minute: Tally,
    /// When the next one begins.
    pub minute_reset_at: UnixMs,
    /// The day.
    pub day: Tally,
    /// Which day that is.
    pub date: Day,
    /// The month that holds it, the day included.
    pub month: Tally,
    /// Which month that is.
    pub month_window: Month,
    /// Calls open now.
    pub open_calls: i64,
}

impl Usage {
    /// What remains under a limit; `None` without one.
    pub fn remaining(&self, limit: Limit) -> Option<i64> {
        let tally = match limit.window() {
            Window::Minute => self.minute,
            Window::Day => self.day,
            Window::Month => self.month,
            Window::Now => Tally {
                used: Amounts { requests: self.open_calls, ..Amounts::default() },
                held: Amounts::default(),
            },
        };
        let taken = tally.used.of(limit.measure()) + tally.held.of(limit.measure());
        self.quota.limits.get(limit).map(|value| (value - taken).max(0))
    }
}

/// Where it stands now, or stood at the end of that date.
pub async fn view(
    platform: &Platform,
    seat: &Seat,
    whose: Whose,
    date: Option<Day>,
) -> Result<Usage, Denied> {
    match whose {
        Whose::Organization => seat.may(Right::ViewOrganizationUsage)?,
        Whose::Project(id) => {
            projects::open(platform, seat, id, Right::ViewQuota).await?;
        }
    }
    read(platform, seat, whose, date).await
}

/// Where it stands, for whoever was let in.
pub async fn read(
    platform: &Platform,
    seat: &Seat,
    whose: Whose,
    date: Option<Day>,
) -> Result<Usage, Denied> {
    let (now, books) = (clock::now(), platform.directory.books());
    let standing = match whose {
        Whose::Organization => {
            books.organization(seat.organization.id).map(|book| book.standing(now))
        }
        Whose::Project(id) => books.project(id).map(|book| book.standing(now)),
    };
    match (date, standing) {
        (None, Some(standing)) => Ok(Usage {
            as_of: now,
            quota: standing.quota,
            minute: standing.minute,
            minute_reset_at: now.minute().end(),
            day: standing.day,
            date: now.day(),
            month: standing.month,
            month_window: standing.month_window,
            open_calls: standing.open_calls,
        }),
        (date, _) => durable(platform, whose.subject(seat), date.unwrap_or(now.day()), now).await,
    }
}

/// From the rows of each day: what is settled, with nothing held.
async fn durable(
    platform: &Platform,
    subject: Subject,
    date: Day,
    now: UnixMs,
) -> Result<Usage, Denied> {
    let reader = platform.database.reader();
    let quota = quotas::read(reader, subject).await?.quota;
    let month_window = quota.reset_day.month_of(date);
    let settled = |used| Tally { used, held: Amounts::default() };
    Ok(Usage {
        as_of: now,
        quota,
        minute: Tally::default(),
        minute_reset_at: Minute(date.next().start().minute().0 - 1).end(),
        day: settled(usage::sum(reader, subject, date, date.next()).await?),
        date,
        month: settled(usage::sum(reader, subject, month_window.first, date.next()).await?),
        month_window,
        open_calls: 0,
    })
}
