//! `request-logs`: one entry a call, refused ones too.

use std::collections::BTreeMap;

use axum::http::Method;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::kind::{Amount, Flag, Moment, Named, Parsed, Text, Whole};
use crate::admin::operation::{Doc, Operations};
use crate::admin::query::Query;
use crate::admin::scalar::{At, Money};
use crate::domain::ids::{ApiKeyId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::organization::request_logs;
use crate::organization::rights::Right;
use crate::organization::wallet::COUNTED_MAX;
use crate::store::request_logs::{Filter, RequestLog, Stretch};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RequestLog)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct LogShape {
    request_log_id: String,
    created_at: At,
    organization_id: String,
    project_id: String,
    #[schema(required)]
    project_name: Option<String>,
    api_key_id: String,
    #[schema(required)]
    api_key_name: Option<String>,
    #[schema(required)]
    user_id: Option<String>,
    #[schema(required)]
    endpoint: Option<String>,
    #[schema(required)]
    dialect: Option<String>,
    #[schema(required)]
    model: Option<String>,
    #[schema(required)]
    upstream: Option<String>,
    #[schema(required)]
    upstream_model: Option<String>,
    stream: bool,
    outcome: String,
    status: i64,
    #[schema(required)]
    refusal: Option<String>,
    /// Counts by unit; a unit that was not used is absent.
    usage: BTreeMap<String, u64>,
    cost: Money,
    currency: String,
    #[schema(required)]
    price_version: Option<String>,
    #[schema(required)]
    service_tier: Option<String>,
    #[schema(required)]
    settled_by: Option<String>,
    late: bool,
    overage: bool,
    attempts: u64,
    output_clamped: bool,
    #[schema(required)]
    duration_ms: Option<u64>,
    #[schema(required)]
    time_to_first_byte_ms: Option<u64>,
    #[schema(required)]
    client_address: Option<String>,
    #[schema(required)]
    hold_amount: Option<Money>,
    #[schema(required)]
    wallet_record_id: Option<String>,
    #[schema(required)]
    finish_reason: Option<String>,
    count: u64,
    #[schema(required)]
    node: Option<String>,
    /// For a refusal by a limit: which, and where it stood.
    #[schema(required, value_type = Option<Object>)]
    limit: Option<Box<serde_json::value::RawValue>>,
}

/// What the projector writes beside the columns.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Detail {
    endpoint: Option<String>,
    dialect: Option<String>,
    upstream_model: Option<String>,
    usage: BTreeMap<String, u64>,
    price_version: Option<String>,
    service_tier: Option<String>,
    settled_by: Option<String>,
    late: bool,
    overage: bool,
    attempts: u64,
    output_clamped: bool,
    duration_ms: Option<u64>,
    time_to_first_byte_ms: Option<u64>,
    client_address: Option<String>,
    hold_amount_nano: Option<i64>,
    finish_reason: Option<String>,
    count: Option<u64>,
    node: Option<String>,
    limit: Option<Box<serde_json::value::RawValue>>,
}

const OUTCOMES: &[&str] = &["Completed", "Refused", "Failed", "Cancelled"];
const FILTERS: &[(&str, &str)] = &[
    ("from", "From this instant on."),
    ("to", "Before this instant."),
    ("status", "With this status."),
    ("outcome", "Completed, Refused, Failed or Cancelled."),
    ("refusal", "With this code of a refusal."),
    ("model", "Of this model."),
    ("apiKeyId", "Of this key."),
    ("upstream", "Of this upstream."),
    ("stream", "true or false."),
    ("minCost", "That cost at least so much."),
    ("requestLogId", "That call only."),
    ("page", "From 1; far down the list use `cursor`."),
    ("size", "Rows a page: 1 to 100, 20 by default."),
    ("cursor", "The `nextCursor` of an answer: no row twice, none skipped."),
];

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let list_doc = Doc::of(Right::ViewRequestLogs, "Lists a project's calls, newest first.");
    let view_doc = Doc::of(Right::ViewRequestLogs, "Shows one call.");
    let (all, one) =
        ("/api/projects/{id}/request-logs", "/api/projects/{id}/request-logs/{requestLogId}");
    operations.add(&Method::GET, all, list, list_doc.query(FILTERS).list::<LogShape>()).add(
        &Method::GET,
        one,
        view,
        view_doc.one::<LogShape>(),
    )
}

async fn list(asked: Asked) -> Reply {
    let project = asked.visit.id("id", ProjectId::parse)?;
    let seat = asked.seat().await?;
    let mut query = asked.visit.query();
    let filter = filter(&mut query);
    let endless = query.endless(|text| RequestLogId::parse(text).ok());
    query.finish()?;
    let platform = &asked.visit.state.platform;
    let as_of = platform.fresh().await;
    let stretch =
        Stretch { before: endless.after, offset: endless.offset(), limit: endless.limit() };
    let (mut rows, total) = request_logs::list(platform, &seat, project, &filter, stretch).await?;
    let most = if filter.is_empty() { i64::MAX } else { COUNTED_MAX };
    let listed = endless.cut(&mut rows, (total, most), as_of, |last| last.id.to_string());
    let currency = &platform.settings.currency;
    let rows: Vec<LogShape> = rows.into_iter().map(|row| shape(row, currency)).collect();
    Ok(Answer::list(&rows, listed))
}

async fn view(asked: Asked) -> Reply {
    let project = asked.visit.id("id", ProjectId::parse)?;
    let call = asked.visit.id("requestLogId", RequestLogId::parse)?;
    let seat = asked.seat().await?;
    let platform = &asked.visit.state.platform;
    let as_of: Option<UnixMs> = platform.fresh().await;
    let entry = request_logs::view(platform, &seat, project, call).await?;
    Ok(Answer::one_as_of(&shape(entry, &platform.settings.currency), as_of))
}

fn filter(query: &mut Query) -> Filter {
    let key = Parsed("an id of a key", |text| ApiKeyId::parse(text).ok());
    let call = Parsed("an id of a call", |text| RequestLogId::parse(text).ok());
    let outcome = Named(OUTCOMES, |word| OUTCOMES.iter().copied().find(|known| *known == word));
    Filter {
        from: query.get("from", &Moment::Any),
        to: query.get("to", &Moment::Any),
        status: query.get("status", &Whole(100, 599)),
        outcome: query.get("outcome", &outcome),
        refusal: query.get("refusal", &Text(1, 100)),
        model: query.get("model", &Text(1, 200)),
        key: query.get("apiKeyId", &key),
        upstream: query.get("upstream", &Text(1, 200)),
        stream: query.get("stream", &Flag),
        min_cost: query.get("minCost", &Amount::Any),
        call: query.get("requestLogId", &call),
    }
}

fn shape(row: RequestLog, currency: &str) -> LogShape {
    let detail: Detail = serde_json::from_str(&row.detail).unwrap_or_default();
    LogShape {
        request_log_id: row.id.to_string(),
        created_at: At(row.created_at),
        organization_id: row.organization.to_string(),
        project_id: row.project.to_string(),
        project_name: row.project_name,
        api_key_id: row.key.to_string(),
        api_key_name: row.key_name,
        user_id: row.owner.map(|id| id.to_string()),
        endpoint: detail.endpoint,
        dialect: detail.dialect,
        model: row.model,
        upstream: row.upstream,
        upstream_model: detail.upstream_model,
        stream: row.stream,
        outcome: row.outcome,
        status: row.status,
        refusal: row.refusal,
        usage: detail.usage,
        cost: Money(row.cost),
        currency: currency.to_owned(),
        price_version: detail.price_version,
        service_tier: detail.service_tier,
        settled_by: detail.settled_by,
        late: detail.late,
        overage: detail.overage,
        attempts: detail.attempts,
        output_clamped: detail.output_clamped,
        duration_ms: detail.duration_ms,
        time_to_first_byte_ms: detail.time_to_first_byte_ms,
        client_address: detail.client_address,
        hold_amount: detail.hold_amount_nano.map(Nano).map(Money),
        wallet_record_id: row.record.map(|id| id.to_string()),
        finish_reason: detail.finish_reason,
        count: detail.count.unwrap_or(1),
        node: detail.node,
        limit: detail.limit,
    }
}
