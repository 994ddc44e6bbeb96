//! The request log: one entry for each call, including refused ones. The projector writes it.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor};

use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RecordId, RequestLogId, UserId};
use crate::domain::money::Nano;
use crate::domain::status::Outcome;
use crate::domain::time::UnixMs;
use crate::store::columns::{at, id, id_or_null, named, uuid};
use crate::store::database::DatabaseError;

/// An entry, with the current names of the project and the key.
#[derive(Debug, Clone)]
pub struct RequestLog {
    pub id: RequestLogId,
    /// When the call arrived.
    pub created_at: UnixMs,
    pub organization: OrganizationId,
    pub project: ProjectId,
    pub project_name: Option<String>,
    pub key: ApiKeyId,
    pub key_name: Option<String>,
    /// The owner of the key.
    pub owner: Option<UserId>,
    pub outcome: Outcome,
    /// The HTTP status of the response.
    pub status: i64,
    /// The code of the refusal.
    pub refusal: Option<String>,
    pub model: Option<String>,
    /// The upstream of the last attempt.
    pub upstream: Option<String>,
    /// Whether the response was streamed.
    pub stream: bool,
    pub cost: Nano,
    /// The wallet record of its charge.
    pub record: Option<RecordId>,
    /// The fields that cannot be filtered by, as a JSON object.
    pub detail: String,
}

/// Conditions that entries must meet; `None` is no condition.
#[derive(Debug, Clone, Default)]
pub struct RequestLogFilter {
    /// Created at this instant or later.
    pub from: Option<UnixMs>,
    /// Created before this instant.
    pub to: Option<UnixMs>,
    pub status: Option<i64>,
    pub outcome: Option<Outcome>,
    pub refusal: Option<String>,
    pub model: Option<String>,
    pub key: Option<ApiKeyId>,
    pub upstream: Option<String>,
    pub stream: Option<bool>,
    /// Cost this amount or more.
    pub min_cost: Option<Nano>,
    pub call: Option<RequestLogId>,
}

impl RequestLogFilter {
    /// True if all entries match.
    pub fn is_empty(&self) -> bool {
        let Self { from, to, status, outcome, refusal, model, key, upstream, stream, .. } = self;
        from.is_none()
            && to.is_none()
            && status.is_none()
            && outcome.is_none()
            && refusal.is_none()
            && model.is_none()
            && key.is_none()
            && upstream.is_none()
            && stream.is_none()
            && self.min_cost.is_none()
            && self.call.is_none()
    }
}

/// Which entries of a project a principal may see.
#[derive(Debug, Clone, Copy)]
pub struct RequestLogVisibility {
    pub project: ProjectId,
    /// If set, only calls with keys of this owner.
    pub owner: Option<UserId>,
}

/// A range of entries, newest first.
#[derive(Debug, Clone, Copy)]
pub struct RequestLogRange {
    /// Only entries older than this call.
    pub before: Option<RequestLogId>,
    /// How many entries to skip.
    pub offset: i64,
    /// The maximum number of entries.
    pub limit: i64,
}

const COLUMNS: &str = "SELECT l.*, p.name AS project_name, k.name AS key_name,
    k.owner_user_id, (SELECT r.id FROM wallet_records r
        WHERE r.request_log_id = l.id AND r.kind = 'Consume') AS record_id
    FROM request_logs l
    LEFT JOIN projects p ON p.id = l.project_id
    LEFT JOIN api_keys k ON k.id = l.api_key_id";

const FILTER_SQL: &str = "l.project_id = $1
    AND ($2 IS NULL OR l.api_key_id IN (SELECT o.id FROM api_keys o
        WHERE o.project_id = $1 AND o.owner_user_id = $2))
    AND ($3 IS NULL OR $3 <= l.created_at) AND ($4 IS NULL OR l.created_at < $4)
    AND ($5 IS NULL OR l.status = $5) AND ($6 IS NULL OR l.outcome = $6)
    AND ($7 IS NULL OR l.refusal = $7) AND ($8 IS NULL OR l.model = $8)
    AND ($9 IS NULL OR l.api_key_id = $9) AND ($10 IS NULL OR l.upstream = $10)
    AND ($11 IS NULL OR l.stream = $11) AND ($12 IS NULL OR $12 <= l.cost_nano)
    AND ($13 IS NULL OR l.id = $13)";

macro_rules! bound {
    ($query:expr, $visible:expr, $filter:expr) => {
        sqlx::query(sqlx::AssertSqlSafe($query))
            .bind(uuid($visible.project.0))
            .bind($visible.owner.map(|id| uuid(id.0)))
            .bind($filter.from.map(|at| at.0))
            .bind($filter.to.map(|at| at.0))
            .bind($filter.status)
            .bind($filter.outcome.map(Outcome::name))
            .bind($filter.refusal.clone())
            .bind($filter.model.clone())
            .bind($filter.key.map(|id| uuid(id.0)))
            .bind($filter.upstream.clone())
            .bind($filter.stream)
            .bind($filter.min_cost.map(|nano| nano.0))
            .bind($filter.call.map(|id| uuid(id.0)))
    };
}

/// Returns a range of the entries, newest first.
pub async fn list(
    connection: &mut SqliteConnection,
    visible: RequestLogVisibility,
    filter: &RequestLogFilter,
    range: RequestLogRange,
) -> Result<Vec<RequestLog>, DatabaseError> {
    let query = format!(
        "{COLUMNS} WHERE {FILTER_SQL} AND ($14 IS NULL OR l.id < $14)
         ORDER BY l.id DESC LIMIT $15 OFFSET $16"
    );
    let rows = bound!(query, visible, filter)
        .bind(range.before.map(|id| uuid(id.0)))
        .bind(range.limit)
        .bind(range.offset)
        .fetch_all(&mut *connection)
        .await?;
    Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
}

/// Counts the entries that match, up to `count_max`.
pub async fn count(
    connection: &mut SqliteConnection,
    visible: RequestLogVisibility,
    filter: &RequestLogFilter,
    count_max: i64,
) -> Result<i64, DatabaseError> {
    let query =
        format!("SELECT count(*) FROM (SELECT 1 FROM request_logs l WHERE {FILTER_SQL} LIMIT $14)");
    Ok(bound!(query, visible, filter)
        .bind(count_max)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?)
}

/// Returns one entry, if it belongs to the project.
pub async fn by_id(
    executor: impl SqliteExecutor<'_>,
    project: ProjectId,
    call: RequestLogId,
) -> Result<Option<RequestLog>, DatabaseError> {
    let query = format!("{COLUMNS} WHERE l.project_id = $1 AND l.id = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(uuid(project.0))
        .bind(uuid(call.0))
        .fetch_optional(executor)
        .await?;
    Ok(row.as_ref().map(entry).transpose()?)
}

fn entry(row: &SqliteRow) -> Result<RequestLog, sqlx::Error> {
    Ok(RequestLog {
        id: RequestLogId(id(row, "id")?),
        created_at: at(row, "created_at")?,
        organization: OrganizationId(id(row, "organization_id")?),
        project: ProjectId(id(row, "project_id")?),
        project_name: row.try_get("project_name")?,
        key: ApiKeyId(id(row, "api_key_id")?),
        key_name: row.try_get("key_name")?,
        owner: id_or_null(row, "owner_user_id")?.map(UserId),
        outcome: named(row, "request_logs.outcome", Outcome::parse)?,
        status: row.try_get("status")?,
        refusal: row.try_get("refusal")?,
        model: row.try_get("model")?,
        upstream: row.try_get("upstream")?,
        stream: row.try_get("stream")?,
        cost: Nano(row.try_get("cost_nano")?),
        record: id_or_null(row, "record_id")?.map(RecordId),
        detail: row.try_get("detail")?,
    })
}
