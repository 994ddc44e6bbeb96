//! The request log of a project: of all keys, or of the principal's own keys.

use crate::domain::ids::{ProjectId, RequestLogId};
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::projects;
use crate::organization::rights::{AccessLevel, Action};
use crate::organization::services::Services;
use crate::organization::wallet::COUNTED_MAX;
use crate::store::request_logs::{
    self, RequestLog, RequestLogFilter, RequestLogRange, RequestLogVisibility,
};

/// Returns a range of the entries, newest first, and the number of matches.
pub async fn list(
    platform: &Services,
    seat: &OrgContext,
    project: ProjectId,
    filter: &RequestLogFilter,
    stretch: RequestLogRange,
) -> Result<(Vec<RequestLog>, i64), UseCaseError> {
    let (_, reach) = projects::find_for(platform, seat, project, Action::ViewRequestLogs).await?;
    let owner = (reach == AccessLevel::Own).then_some(seat.principal.user.id);
    let (mut picture, visible) =
        (platform.database.begin_snapshot().await?, RequestLogVisibility { project, owner });
    let rows = request_logs::list(&mut picture, visible, filter, stretch).await?;
    let most = if filter.is_empty() { i64::MAX } else { COUNTED_MAX + 1 };
    let total = request_logs::count(&mut picture, visible, filter, most).await?;
    Ok((rows, total))
}

/// Returns one entry.
pub async fn view(
    platform: &Services,
    seat: &OrgContext,
    project: ProjectId,
    call: RequestLogId,
) -> Result<RequestLog, UseCaseError> {
    let (_, reach) = projects::find_for(platform, seat, project, Action::ViewRequestLogs).await?;
    let found = request_logs::by_id(platform.database.reader(), project, call).await?;
    let own = Some(seat.principal.user.id);
    found
        .filter(|entry| reach == AccessLevel::All || entry.owner == own)
        .ok_or(UseCaseError::NotFound)
}
