//! `upstreams`: the configured upstreams and their health.

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
    /// Attempts within the circuit breaker's window.
    attempts: u32,
    /// Failed attempts within the window.
    failures: u32,
    #[schema(required)]
    last_error: Option<&'static str>,
    #[schema(required)]
    last_ok_at: Option<Rfc3339>,
}

pub fn routes(routes: Routes) -> Routes {
    let spec = "Lists the upstreams and their health on this node.";
    let spec = OperationSpec::platform(Action::ViewPlatform, spec)
        .query_params(LIST_PARAMS)
        .list_response::<UpstreamView>();
    routes.get("/api/platform/upstreams", list, spec)
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let mut query = request.query();
    let page = query.page();
    query.finish()?;
    let upstreams = catalog::upstreams(&request.state.services, &request.principal)?;
    let total = i64::try_from(upstreams.len()).unwrap_or(i64::MAX);
    let rows: Vec<UpstreamView> = page.cut(upstreams).map(to_view).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

fn to_view(state: UpstreamState) -> UpstreamView {
    let UpstreamState { name, dialects, base_url, .. } = state;
    let health = UpstreamHealthView {
        circuit: state.circuit.name(),
        attempts: state.attempts,
        failures: state.failures,
        last_error: state.last_error,
        last_ok_at: state.last_ok_at.map(Rfc3339),
    };
    UpstreamView { name, dialects, base_url, health, source: "File" }
}
