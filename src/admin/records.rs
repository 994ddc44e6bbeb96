//! `wallet/records`: the lines of the ledger.

use axum::http::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::kind::{Moment, Named, Parsed};
use crate::admin::operation::{Doc, Operations};
use crate::admin::query::Query;
use crate::admin::scalar::{At, Money};
use crate::domain::ids::{ApiKeyId, ProjectId, RequestLogId};
use crate::domain::record::RecordKind;
use crate::ledger::records::{Filter, Record, Stretch};
use crate::organization::rights::Right;
use crate::organization::wallet::{self, COUNTED_MAX};

/// A line of the ledger.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationWalletRecord)]
pub struct RecordShape {
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
    #[schema(required, value_type = Option<ActorShape>)]
    actor: Option<Box<RawValue>>,
    #[schema(required)]
    settled_by: Option<String>,
    overage: bool,
    late: bool,
    #[schema(required)]
    price_version: Option<String>,
    #[schema(required)]
    refunded_amount: Option<Money>,
    created_at: At,
}

/// Who did it.
#[derive(ToSchema)]
#[schema(as = Actor)]
#[expect(dead_code, reason = "the shape of what is stored as JSON, for the document")]
struct ActorShape {
    kind: String,
    id: String,
    name: String,
}

/// The query of records and of their export.
pub const FILTERS: &[(&str, &str)] = &[
    ("type", "Recharge, Consume or Refund."),
    ("from", "From this instant on."),
    ("to", "Before this instant."),
    ("projectId", "Of this project."),
    ("apiKeyId", "Of this key."),
    ("requestLogId", "Of this call."),
    ("page", "From 1; far down the list use `cursor`."),
    ("size", "Rows a page: 1 to 100, 20 by default."),
    ("cursor", "The `nextCursor` of an answer: no row twice, none skipped."),
];

const KINDS: &[&str] =
    &[RecordKind::Recharge.name(), RecordKind::Consume.name(), RecordKind::Refund.name()];

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let doc = Doc::of(Right::ViewRecords, "Lists the wallet's records, newest first.");
    let doc = doc.query(FILTERS).list::<RecordShape>();
    operations.add(&Method::GET, "/api/organization/wallet/records", list, doc)
}

async fn list(asked: Asked) -> Reply {
    let seat = asked.seat().await?;
    let mut query = asked.visit.query();
    let filter = filter(&mut query);
    let endless = query.endless(|text| text.parse::<i64>().ok().filter(|seq| 0 < *seq));
    query.finish()?;
    let platform = &asked.visit.state.platform;
    let as_of = platform.fresh().await;
    let stretch =
        Stretch { before: endless.after, offset: endless.offset(), limit: endless.limit() };
    let (mut rows, total) = wallet::records(platform, &seat, &filter, stretch).await?;
    let most = if filter == Filter::default() { i64::MAX } else { COUNTED_MAX };
    let listed = endless.cut(&mut rows, (total, most), as_of, |last| last.seq.to_string());
    let currency = &platform.settings.currency;
    let rows: Vec<RecordShape> = rows.iter().map(|row| shape(row, currency)).collect();
    Ok(Answer::list(&rows, listed))
}

/// The filters of records, as a query names them.
pub fn filter(query: &mut Query) -> Filter {
    let project = Parsed("an id of a project", |text| ProjectId::parse(text).ok());
    let key = Parsed("an id of a key", |text| ApiKeyId::parse(text).ok());
    let call = Parsed("an id of a call", |text| RequestLogId::parse(text).ok());
    Filter {
        kind: query.get("type", &Named(KINDS, RecordKind::parse)),
        from: query.get("from", &Moment::Any),
        to: query.get("to", &Moment::Any),
        project: query.get("projectId", &project),
        key: query.get("apiKeyId", &key),
        call: query.get("requestLogId", &call),
    }
}

/// On the wire.
pub fn shape(record: &Record, currency: &str) -> RecordShape {
    let description = record.description.clone();
    RecordShape {
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
        created_at: At(record.created_at),
    }
}
