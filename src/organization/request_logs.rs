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
    services: &Services,
    org: &OrgContext,
    project: ProjectId,
    filter: &RequestLogFilter,
    range: RequestLogRange,
) -> Result<(Vec<RequestLog>, i64), UseCaseError> {
    let (_, level) = projects::find_for(services, org, project, Action::ViewRequestLogs).await?;
    let owner = (level == AccessLevel::Own).then_some(org.principal.user.id);
    let (mut snapshot, visible) =
        (services.database.begin_snapshot().await?, RequestLogVisibility { project, owner });
    let rows = request_logs::list(&mut snapshot, visible, filter, range).await?;
    let count_max = if filter.is_empty() { i64::MAX } else { COUNTED_MAX + 1 };
    let total = request_logs::count(&mut snapshot, visible, filter, count_max).await?;
    Ok((rows, total))
}

/// Returns one entry.
pub async fn view(
    services: &Services,
    org: &OrgContext,
    project: ProjectId,
    call: RequestLogId,
) -> Result<RequestLog, UseCaseError> {
    let (_, level) = projects::find_for(services, org, project, Action::ViewRequestLogs).await?;
    let found = request_logs::by_id(services.database.reader(), project, call).await?;
    let user = Some(org.principal.user.id);
    found
        .filter(|entry| level == AccessLevel::All || entry.owner == user)
        .ok_or(UseCaseError::NotFound)
}
