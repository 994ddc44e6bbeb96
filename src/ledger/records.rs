//! Records: the lines of a wallet's ledger, as they are read.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RecordId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::record::RecordKind;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, id, id_or_null, uuid};
use crate::store::database::DatabaseError;

/// A line of the ledger.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which.
    pub id: RecordId,
    /// Its place in the chain, from 1.
    pub seq: i64,
    /// What it does to the balance.
    pub kind: RecordKind,
    /// Never negative: the direction is in the kind.
    pub amount: Nano,
    /// The balance before.
    pub previous: Nano,
    /// The balance after.
    pub current: Nano,
    /// The call it is about.
    pub call: Option<RequestLogId>,
    /// The project of that call.
    pub project: Option<ProjectId>,
    /// The key of that call.
    pub key: Option<ApiKeyId>,
    /// The model of that call.
    pub model: Option<String>,
    /// What was written beside it; `None`: the default of its kind.
    pub description: Option<String>,
    /// A payment's own number.
    pub reference: Option<String>,
    /// Who made it, as a JSON object; `None`: a call.
    pub actor: Option<String>,
    /// By which rule the call was settled.
    pub settled_by: Option<String>,
    /// Whether the call used more than it held.
    pub overage: bool,
    /// Whether it was settled after its hold had ended.
    pub late: bool,
    /// By which prices.
    pub price_version: Option<String>,
    /// How much of a Consume was given back.
    pub refunded: Option<Nano>,
    /// When it was written.
    pub created_at: UnixMs,
}

/// Which records are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// Of that kind.
    pub kind: Option<RecordKind>,
    /// From that instant on.
    pub from: Option<UnixMs>,
    /// Before that instant.
    pub to: Option<UnixMs>,
    /// Of that project.
    pub project: Option<ProjectId>,
    /// Of that key.
    pub key: Option<ApiKeyId>,
    /// Of that call.
    pub call: Option<RequestLogId>,
}

/// Which stretch of the list: newest first, below `before`.
#[derive(Debug, Clone, Copy)]
pub struct RecordRange {
    /// Older than this place in the chain.
    pub before: Option<i64>,
    /// Skipped, newest first.
    pub offset: i64,
    /// The most records.
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

macro_rules! bound {
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

/// A stretch of an organization's records, newest first.
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
    let rows = bound!(query, organization, filter)
        .bind(stretch.before)
        .bind(stretch.limit)
        .bind(stretch.offset)
        .fetch_all(&mut *connection)
        .await?;
    Ok(rows.iter().map(record).collect::<Result<_, _>>()?)
}

/// How many of an organization's records there are, counted up to `most`.
///
/// Without a filter the chain itself knows: its last place is its length.
pub async fn count(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    filter: &RecordFilter,
    most: i64,
) -> Result<i64, DatabaseError> {
    if *filter == RecordFilter::default() {
        let query = "SELECT last_seq FROM wallets WHERE organization_id = $1";
        let row = sqlx::query(query).bind(uuid(organization.0)).fetch_one(&mut *connection).await?;
        return Ok(row.try_get(0)?);
    }
    let query = format!(
        "SELECT count(*) FROM (SELECT 1 FROM wallet_records r WHERE {FILTER_SQL} LIMIT $8)"
    );
    Ok(bound!(query, organization, filter)
        .bind(most)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?)
}

/// The record at that place in the chain.
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

/// The Consume of that call, if that organization paid it.
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
        .ok_or_else(|| sqlx::Error::Decode("an unknown kind of record".into()))?;
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
