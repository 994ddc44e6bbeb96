//! The ledger as stored in the database, read independently of the gateway.

use std::collections::HashMap;
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{FromRow, Row};

use crate::harness::random_callers::marker_of;

/// A row of the request log: an admitted call, however it ended.
#[derive(Clone, Debug)]
pub struct LoggedCall {
    /// In hex, like every id in this file.
    pub id: String,
    pub project: String,
    pub marker: u32,
    pub cost: i64,
    pub settled_by: String,
    pub refusal: Option<String>,
}

/// A wallet record.
#[derive(Clone, Debug)]
pub struct WalletRecord {
    pub seq: i64,
    pub kind: String,
    pub amount: i64,
    pub previous: i64,
    pub current: i64,
    pub call: Option<String>,
    pub settled_by: Option<String>,
    pub overage: bool,
    /// The reference of a recharge or the description of a refund.
    pub name: Option<String>,
}

/// The usage of a project, summed over all days.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct UsageTotals {
    pub requests: u64,
    pub tokens: i64,
    pub spend: i64,
    pub days: i64,
}

/// All tables that hold money, usage or open holds.
#[derive(Debug)]
pub struct LedgerSnapshot {
    pub logs: Vec<LoggedCall>,
    /// By organization, in the order of `seq`.
    pub records: HashMap<String, Vec<WalletRecord>>,
    /// By organization: balance and last `seq`.
    pub wallets: HashMap<String, (i64, i64)>,
    /// By subject: project, key or organization.
    pub usage: HashMap<String, UsageTotals>,
    pub open_holds: Vec<String>,
}

impl LoggedCall {
    /// True if a restart settled the call.
    pub fn is_orphan(&self) -> bool {
        self.refusal.as_deref() == Some("gateway_restarted")
    }
}

/// The request log without refusals.
const LOGS: &str = "SELECT lower(hex(id)) AS id, lower(hex(project_id)) AS project, refusal,
    cost_nano, json_extract(detail, '$.clientAddress') AS address,
    coalesce(json_extract(detail, '$.settledBy'), '') AS settled_by
    FROM request_logs WHERE outcome <> 'Refused'";

const RECORDS: &str = "SELECT lower(hex(organization_id)) AS organization, seq, kind, amount_nano,
    previous_balance_nano, current_balance_nano, lower(hex(request_log_id)) AS call, settled_by,
    overage, coalesce(reference, description) AS name
    FROM wallet_records ORDER BY organization_id, seq";

const WALLETS: &str =
    "SELECT lower(hex(organization_id)) AS organization, balance_nano, last_seq FROM wallets";

const USAGE: &str = "SELECT lower(hex(subject_id)) AS subject, sum(requests) AS requests,
    sum(input_tokens + output_tokens) AS tokens, sum(spend_nano) AS spend, count(*) AS days
    FROM usage_days GROUP BY subject_id";

const OPEN_HOLDS: &str = "SELECT lower(hex(request_log_id)) AS id FROM open_holds";

impl FromRow<'_, SqliteRow> for LoggedCall {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            project: row.try_get("project")?,
            marker: marker_of(row.try_get("address")?),
            cost: row.try_get("cost_nano")?,
            settled_by: row.try_get("settled_by")?,
            refusal: row.try_get("refusal")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for WalletRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            seq: row.try_get("seq")?,
            kind: row.try_get("kind")?,
            amount: row.try_get("amount_nano")?,
            previous: row.try_get("previous_balance_nano")?,
            current: row.try_get("current_balance_nano")?,
            call: row.try_get::<Option<String>, _>("call")?.filter(|call| !call.is_empty()),
            settled_by: row.try_get("settled_by")?,
            overage: row.try_get("overage")?,
            name: row.try_get("name")?,
        })
    }
}

async fn rows(pool: &SqlitePool, query: &'static str) -> Vec<SqliteRow> {
    sqlx::query(query).fetch_all(pool).await.unwrap_or_else(|error| panic!("{query}: {error}"))
}

impl LedgerSnapshot {
    /// Reads the current state.
    pub async fn read(file: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.expect("the database can be read");
        let logs = rows(&pool, LOGS).await;
        let logs = logs.iter().map(LoggedCall::from_row).collect::<sqlx::Result<_>>();
        let mut lines: HashMap<String, Vec<WalletRecord>> = HashMap::new();
        for row in &rows(&pool, RECORDS).await {
            let record = WalletRecord::from_row(row).expect("a wallet record");
            lines.entry(row.get("organization")).or_default().push(record);
        }
        let wallet = |row: &SqliteRow| (row.get("organization"), (row.get(1), row.get(2)));
        let wallets = rows(&pool, WALLETS).await.iter().map(wallet).collect();
        let usage = |row: &SqliteRow| {
            let usage = UsageTotals {
                requests: row.get::<i64, _>("requests").try_into().expect("a count"),
                tokens: row.get("tokens"),
                spend: row.get("spend"),
                days: row.get("days"),
            };
            (row.get("subject"), usage)
        };
        let usage = rows(&pool, USAGE).await.iter().map(usage).collect();
        let open = rows(&pool, OPEN_HOLDS).await.iter().map(|row| row.get("id")).collect();
        pool.close().await;
        Self {
            logs: logs.expect("rows of the request log"),
            records: lines,
            wallets,
            usage,
            open_holds: open,
        }
    }
}

/// The hex digits of an id of the admin API.
pub fn hex_digits(id: &str) -> &str {
    id.rsplit_once('_').map_or(id, |(_, digits)| digits)
}
