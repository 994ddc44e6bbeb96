//! Upstreams: where calls go, and how that has been lately.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::operation::{Doc, Operations, PAGED};
use crate::admin::scalar::At;
use crate::organization::catalog;
use crate::organization::platform::UpstreamState;
use crate::organization::rights::Right;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Upstream)]
struct UpstreamShape {
    name: String,
    dialects: Vec<&'static str>,
    base_url: String,
    health: HealthShape,
    source: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UpstreamHealth)]
struct HealthShape {
    /// `Closed`, `HalfOpen` or `Open`, on this node.
    circuit: &'static str,
    /// Tries in the window until now, and how many of them failed.
    tries: u32,
    failures: u32,
    #[schema(required)]
    last_error: Option<&'static str>,
    #[schema(required)]
    last_ok_at: Option<At>,
}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let doc = "Lists the upstreams, and how they have been lately on this node.";
    let doc = Doc::platform(Right::ViewPlatform, doc).query(PAGED).list::<UpstreamShape>();
    operations.add(&Method::GET, "/api/platform/upstreams", list, doc)
}

async fn list(asked: Asked) -> Reply {
    let mut query = asked.visit.query();
    let page = query.page();
    query.finish()?;
    let upstreams = catalog::upstreams(&asked.visit.state.platform, &asked.principal)?;
    let total = i64::try_from(upstreams.len()).unwrap_or(i64::MAX);
    let rows: Vec<UpstreamShape> = page.cut(upstreams).map(shape).collect();
    Ok(Answer::page(&rows, total, page))
}

fn shape(state: UpstreamState) -> UpstreamShape {
    let UpstreamState { name, dialects, base_url, circuit, window, last_error, last_ok_at } = state;
    let (tries, failures) = window;
    let last_ok_at = last_ok_at.map(At);
    let health = HealthShape { circuit, tries, failures, last_error, last_ok_at };
    UpstreamShape { name, dialects, base_url, health, source: "File" }
}
