//! Upstreams: where calls go, and how that has been lately.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::operation::{LIST_PARAMS, OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::organization::catalog;
use crate::organization::rights::Action;
use crate::organization::services::UpstreamState;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Upstream)]
struct UpstreamView {
    name: String,
    dialects: Vec<&'static str>,
    base_url: String,
    health: UpstreamHealthView,
    source: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UpstreamHealth)]
struct UpstreamHealthView {
    /// `Closed`, `HalfOpen` or `Open`, on this node.
    circuit: &'static str,
    /// Tries in the window until now, and how many of them failed.
    tries: u32,
    failures: u32,
    #[schema(required)]
    last_error: Option<&'static str>,
    #[schema(required)]
    last_ok_at: Option<Rfc3339>,
}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let doc = "Lists the upstreams, and how they have been lately on this node.";
    let doc = OperationSpec::platform(Action::ViewPlatform, doc)
        .query_params(LIST_PARAMS)
        .list_response::<UpstreamView>();
    operations.add(&Method::GET, "/api/platform/upstreams", list, doc)
}

async fn list(asked: AuthenticatedRequest) -> HandlerResult {
    let mut query = asked.request.query();
    let page = query.page();
    query.finish()?;
    let upstreams = catalog::upstreams(&asked.request.state.services, &asked.principal)?;
    let total = i64::try_from(upstreams.len()).unwrap_or(i64::MAX);
    let rows: Vec<UpstreamView> = page.cut(upstreams).map(to_view).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

fn to_view(state: UpstreamState) -> UpstreamView {
    let UpstreamState { name, dialects, base_url, circuit, window, last_error, last_ok_at } = state;
    let (tries, failures) = window;
    let last_ok_at = last_ok_at.map(Rfc3339);
    let health = UpstreamHealthView { circuit, tries, failures, last_error, last_ok_at };
    UpstreamView { name, dialects, base_url, health, source: "File" }
}
