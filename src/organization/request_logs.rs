//! The request log of a project: all of it, or that of one's own keys.

use crate::domain::ids::{ProjectId, RequestLogId};
use crate::organization::access::Seat;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::projects;
use crate::organization::rights::{Reach, Right};
use crate::organization::wallet::COUNTED_MAX;
use crate::store::request_logs::{self, Filter, RequestLog, Stretch, Visible};

/// A stretch of the entries, newest first, and how many match.
pub async fn list(
    platform: &Platform,
    seat: &Seat,
    project: ProjectId,
    filter: &Filter,
    stretch: Stretch,
) -> Result<(Vec<RequestLog>, i64), Denied> {
    let (_, reach) = projects::open(platform, seat, project, Right::ViewRequestLogs).await?;
    let owner = (reach == Reach::Own).then_some(seat.principal.user.id);
    let (mut picture, visible) = (platform.database.picture().await?, Visible { project, owner });
    let rows = request_logs::list(&mut picture, visible, filter, stretch).await?;
    let most = if filter.is_empty() { i64::MAX } else { COUNTED_MAX + 1 };
    let total = request_logs::count(&mut picture, visible, filter, most).await?;
    Ok((rows, total))
}

/// One entry.
pub async fn view(
    platform: &Platform,
    seat: &Seat,
    project: ProjectId,
    call: RequestLogId,
) -> Result<RequestLog, Denied> {
    let (_, reach) = projects::open(platform, seat, project, Right::ViewRequestLogs).await?;
    let found = request_logs::by_id(platform.database.reader(), project, call).await?;
    let own = Some(seat.principal.user.id);
    found.filter(|entry| reach == Reach::All || entry.owner == own).ok_or(Denied::NotFound)
}
