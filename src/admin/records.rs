//! `wallet/records`: the records of the ledger.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::admin::field_type::{EnumOf, ParsedString, Timestamp};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::query::{Query, Total};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::{Money, Rfc3339};
use crate::domain::ids::{ApiKeyId, ProjectId, RequestLogId};
use crate::domain::record::RecordKind;
use crate::ledger::records::{Record, RecordFilter, RecordRange};
use crate::organization::rights::Action;
use crate::organization::wallet::{self, COUNTED_MAX};

/// A record of the ledger.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationWalletRecord)]
pub struct RecordView {
    id: String,
    seq: i64,
    #[serde(rename = "type")]
    kind: &'static str,
    amount: Money,
    previous_balance: Money,
    current_balance: Money,
    currency: String,
    #[schema(required)]
    request_log_id: Option<String>,
    #[schema(required)]
    project_id: Option<String>,
    #[schema(required)]
    api_key_id: Option<String>,
    #[schema(required)]
    model: Option<String>,
    description: String,
    #[schema(required)]
    reference: Option<String>,
    #[schema(required, value_type = Option<ActorView>)]
    actor: Option<Box<RawValue>>,
    #[schema(required)]
    settled_by: Option<String>,
    overage: bool,
    late: bool,
    #[schema(required)]
    price_version: Option<String>,
    #[schema(required)]
    refunded_amount: Option<Money>,
    created_at: Rfc3339,
}

/// Who caused the record.
#[derive(ToSchema)]
#[schema(as = Actor)]
#[expect(dead_code, reason = "describes stored JSON in the OpenAPI document")]
struct ActorView {
    kind: String,
    id: String,
    name: String,
}

/// Query parameters of the record list and of its export.
pub const FILTERS: &[(&str, &str)] = &[
    ("type", "`Recharge`, `Consume` or `Refund`."),
    ("from", "At or after this time."),
    ("to", "Before this time."),
    ("projectId", "Only records of this project."),
    ("apiKeyId", "Only records of this API key."),
    ("requestLogId", "Only records of this call."),
    ("page", "Page number, from 1. Use `cursor` for offsets above 10,000."),
    ("size", "Rows per page, 1 to 100. Default: 20."),
    ("cursor", "The `nextCursor` of the previous page. Never repeats or skips a row."),
];

const KINDS: &[&str] =
    &[RecordKind::Recharge.name(), RecordKind::Consume.name(), RecordKind::Refund.name()];

pub fn routes(routes: Routes) -> Routes {
    let spec = OperationSpec::in_organization(
        Action::ViewRecords,
        "Lists the wallet's records, newest first.",
    );
    let spec = spec.query_params(FILTERS).list_response::<RecordView>();
    routes.get("/api/organization/wallet/records", list, spec)
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let org = request.org_context().await?;
    let mut query = request.query();
    let filter = read_filter(&mut query);
    let endless = query.cursor_page(|text| text.parse::<i64>().ok().filter(|seq| 0 < *seq));
    query.finish()?;
    let services = &request.state.services;
    let as_of = services.wait_caught_up().await;
    let range =
        RecordRange { before: endless.after, offset: endless.offset(), limit: endless.limit() };
    let (mut rows, total) = wallet::records(services, &org, &filter, range).await?;
    let counted_max = if filter == RecordFilter::default() { i64::MAX } else { COUNTED_MAX };
    let total = Total { count: total, counted_max };
    let listed = endless.trim_rows(&mut rows, total, as_of, |last| last.seq.to_string());
    let currency = &services.settings.currency;
    let rows: Vec<RecordView> = rows.iter().map(|row| to_view(row, currency)).collect();
    Ok(AdminResponse::list(&rows, listed))
}

/// Reads the record filters of a query.
pub fn read_filter(query: &mut Query) -> RecordFilter {
    let project =
        ParsedString { expected: "a project id", parse: |text| ProjectId::parse(text).ok() };
    let key = ParsedString { expected: "an API key id", parse: |text| ApiKeyId::parse(text).ok() };
    let call = ParsedString { expected: "a call id", parse: |text| RequestLogId::parse(text).ok() };
    RecordFilter {
        kind: query.get("type", &EnumOf { names: KINDS, parse: RecordKind::parse }),
        from: query.get("from", &Timestamp::Any),
        to: query.get("to", &Timestamp::Any),
        project: query.get("projectId", &project),
        key: query.get("apiKeyId", &key),
        call: query.get("requestLogId", &call),
    }
}

pub fn to_view(record: &Record, currency: &str) -> RecordView {
    let description = record.description.clone();
    RecordView {
        id: record.id.to_string(),
        seq: record.seq,
        kind: record.kind.name(),
        amount: Money(record.amount),
        previous_balance: Money(record.previous),
        current_balance: Money(record.current),
        currency: currency.to_owned(),
        request_log_id: record.call.map(|id| id.to_string()),
        project_id: record.project.map(|id| id.to_string()),
        api_key_id: record.key.map(|id| id.to_string()),
        model: record.model.clone(),
        description: description.unwrap_or_else(|| record.kind.description().to_owned()),
        reference: record.reference.clone(),
        actor: record.actor.clone().and_then(|actor| RawValue::from_string(actor).ok()),
        settled_by: record.settled_by.clone(),
        overage: record.overage,
        late: record.late,
        price_version: record.price_version.clone(),
        refunded_amount: record.refunded.map(Money),
        created_at: Rfc3339(record.created_at),
    }
}
