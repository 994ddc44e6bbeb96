//! Queries for wallet records.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RecordId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, id, id_or_null, uuid};
use crate::store::database::DatabaseError;

/// A wallet record.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: RecordId,
    /// The position in the chain, from 1.
    pub seq: i64,
    pub kind: RecordKind,
    /// Never negative; the kind determines the sign.
    pub amount: Nano,
    /// The balance before.
    pub previous: Nano,
    /// The balance after.
    pub current: Nano,
    pub call: Option<RequestLogId>,
    pub project: Option<ProjectId>,
    pub key: Option<ApiKeyId>,
    pub model: Option<String>,
    /// The description given by the caller; `None`: the default of the kind.
    pub description: Option<String>,
    /// An external reference, such as the number of a payment.
    pub reference: Option<String>,
    /// Who created the record, as a JSON object; `None` for a call.
    pub actor: Option<String>,
    /// The rule by which the call was settled.
    pub settled_by: Option<String>,
    /// Whether the call used more than its hold.
    pub overage: bool,
    /// Whether the call was settled without its hold.
    pub late: bool,
    /// The version of the prices that were charged.
    pub price_version: Option<String>,
    /// For a Consume: the sum of its Refunds.
    pub refunded: Option<Nano>,
    pub created_at: UnixMs,
}

/// Filters a list of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordFilter {
    pub kind: Option<RecordKind>,
    /// Inclusive.
    pub from: Option<UnixMs>,
    /// Exclusive.
    pub to: Option<UnixMs>,
    pub project: Option<ProjectId>,
    pub key: Option<ApiKeyId>,
    pub call: Option<RequestLogId>,
}

/// A range of a list, newest first.
#[derive(Debug, Clone, Copy)]
pub struct RecordRange {
    /// Only records with a smaller seq.
    pub before: Option<i64>,
    /// How many records to skip.
    pub offset: i64,
    pub limit: i64,
}

const COLUMNS: &str = "SELECT r.*, CASE r.kind WHEN 'Consume' THEN (
        SELECT coalesce(sum(f.amount_nano), 0) FROM wallet_records f
        WHERE f.request_log_id = r.request_log_id AND f.kind = 'Refund') END AS refunded_nano
    FROM wallet_records r";

const FILTER_SQL: &str = "r.organization_id = $1
    AND ($2 IS NULL OR r.kind = $2)
    AND ($3 IS NULL OR $3 <= r.created_at) AND ($4 IS NULL OR r.created_at < $4)
    AND ($5 IS NULL OR r.project_id = $5) AND ($6 IS NULL OR r.api_key_id = $6)
    AND ($7 IS NULL OR r.request_log_id = $7)";

macro_rules! bind_filter {
    ($query:expr, $organization:expr, $filter:expr) => {
        sqlx::query(sqlx::AssertSqlSafe($query))
            .bind(uuid($organization.0))
            .bind($filter.kind.map(RecordKind::name))
            .bind($filter.from.map(|at| at.0))
            .bind($filter.to.map(|at| at.0))
            .bind($filter.project.map(|id| uuid(id.0)))
            .bind($filter.key.map(|id| uuid(id.0)))
            .bind($filter.call.map(|id| uuid(id.0)))
    };
}

/// Lists records of an organization, newest first.
pub async fn list(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    filter: &RecordFilter,
    stretch: RecordRange,
) -> Result<Vec<Record>, DatabaseError> {
    let query = format!(
        "{COLUMNS} WHERE {FILTER_SQL} AND ($8 IS NULL OR r.seq < $8)
         ORDER BY r.seq DESC LIMIT $9 OFFSET $10"
    );
    let rows = bind_filter!(query, organization, filter)
        .bind(stretch.before)
        .bind(stretch.limit)
        .bind(stretch.offset)
        .fetch_all(&mut *connection)
        .await?;
    Ok(rows.iter().map(record).collect::<Result<_, _>>()?)
}

/// Counts the records of an organization, up to `count_max`.
///
/// Without a filter the count is the last seq, so no rows are read.
pub async fn count(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    filter: &RecordFilter,
    count_max: i64,
) -> Result<i64, DatabaseError> {
    if *filter == RecordFilter::default() {
        let query = "SELECT last_seq FROM wallets WHERE organization_id = $1";
        let row = sqlx::query(query).bind(uuid(organization.0)).fetch_one(&mut *connection).await?;
        return Ok(row.try_get(0)?);
    }
    let query = format!(
        "SELECT count(*) FROM (SELECT 1 FROM wallet_records r WHERE {FILTER_SQL} LIMIT $8)"
    );
    Ok(bind_filter!(query, organization, filter)
        .bind(count_max)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?)
}

/// Returns the record with that seq.
pub async fn at_seq(
    executor: impl SqliteExecutor<'_>,
    organization: OrganizationId,
    seq: i64,
) -> Result<Option<Record>, DatabaseError> {
    let query = format!("{COLUMNS} WHERE r.organization_id = $1 AND r.seq = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(uuid(organization.0))
        .bind(seq)
        .fetch_optional(executor)
        .await?;
    Ok(row.as_ref().map(record).transpose()?)
}

/// Returns the Consume of a call, if the organization paid for the call.
pub async fn consume(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    call: RequestLogId,
) -> Result<Option<Record>, DatabaseError> {
    let query = format!(
        "{COLUMNS} WHERE r.request_log_id = $2 AND r.kind = 'Consume' AND r.organization_id = $1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(uuid(organization.0))
        .bind(uuid(call.0))
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(record).transpose()?)
}

fn record(row: &SqliteRow) -> Result<Record, sqlx::Error> {
    let kind = RecordKind::parse(row.try_get("kind")?)
        .ok_or_else(|| sqlx::Error::Decode("unknown record kind".into()))?;
    Ok(Record {
        id: RecordId(id(row, "id")?),
        seq: row.try_get("seq")?,
        kind,
        amount: Nano(row.try_get("amount_nano")?),
        previous: Nano(row.try_get("previous_balance_nano")?),
        current: Nano(row.try_get("current_balance_nano")?),
        call: id_or_null(row, "request_log_id")?.map(RequestLogId),
        project: id_or_null(row, "project_id")?.map(ProjectId),
        key: id_or_null(row, "api_key_id")?.map(ApiKeyId),
        model: row.try_get("model")?,
        description: row.try_get("description")?,
        reference: row.try_get("reference")?,
        actor: row.try_get("actor")?,
        settled_by: row.try_get("settled_by")?,
        overage: row.try_get("overage")?,
        late: row.try_get("late")?,
        price_version: row.try_get("price_version")?,
        refunded: row.try_get::<Option<i64>, _>("refunded_nano")?.map(Nano),
        created_at: at(row, "created_at")?,
    })
}
