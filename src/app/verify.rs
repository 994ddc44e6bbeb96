//! `meteor verify-ledger`: verifies the ledger, whether or not the gateway is running.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::config::check;
use crate::ledger::verify::{Verified, verify};
use crate::ledger::violation::{Violation, money};
use crate::store::read_only::ReadOnlyDatabase;

/// Command line options of `meteor verify-ledger`.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyOptions {
    /// Configuration file of the gateway [default: built-in defaults].
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// Data folder, instead of the one in the configuration.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// How often verification is attempted if a gateway starts or removes a segment at the same time.
const ATTEMPTS_MAX: usize = 5;

/// Verifies the ledger and prints violations and a summary. Returns true if there are no
/// violations.
pub async fn verify_ledger(options: VerifyOptions) -> Result<bool> {
    let (data, database) = match options.data {
        Some(data) => {
            let database = data.join("meteor.db");
            (data, database)
        }
        None => {
            let settings = check::load(options.config.as_deref())
                .map_err(|report| anyhow::anyhow!("{report}"))?;
            (settings.data, settings.database)
        }
    };
    for attempt in 1..=ATTEMPTS_MAX {
        let mut database_file = ReadOnlyDatabase::open(&database).await?;
        let mut snapshot = database_file.begin_snapshot().await?;
        let verified = verify(&mut snapshot, &data.join("journal")).await;
        snapshot.rollback().await.context("database")?;
        if !database_file.is_unchanged() {
            continue;
        }
        let verified = verified?;
        if !verified.is_stale || attempt == ATTEMPTS_MAX {
            print(&verified, options.json)?;
            return Ok(verified.findings.count == 0);
        }
    }
    bail!("the store {} changed while it was read; try again", data.display())
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Line<'a> {
    Violation {
        table: &'a str,
        organization: Option<String>,
        row: &'a str,
        found: &'a str,
        expected: &'a str,
    },
    #[serde(rename_all = "camelCase")]
    Summary {
        organizations: usize,
        records: u64,
        calls: u64,
        open_holds: usize,
        frozen: String,
        unprojected_entries: Option<u64>,
        violations: u64,
    },
}

fn print(verified: &Verified, json: bool) -> Result<()> {
    let Verified { organizations, records, calls, open_holds, findings, .. } = verified;
    let (frozen, unprojected_entries) = (money(verified.frozen), verified.unprojected);
    for violation in &findings.violations {
        if json {
            println!("{}", serde_json::to_string(&line(violation))?);
        } else {
            println!("{violation}");
        }
    }
    let omitted = findings.count - findings.violations.len() as u64;
    if omitted > 0 {
        eprintln!("meteor: {omitted} more violations are not shown");
    }
    let (organizations, records) = (*organizations, *records);
    let (calls, open_holds, violations) = (*calls, *open_holds, findings.count);
    if json {
        let summary = Line::Summary {
            organizations,
            records,
            calls,
            open_holds,
            frozen,
            unprojected_entries,
            violations,
        };
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        let journal = unprojected_entries.map_or_else(
            || "no journal".to_owned(),
            |count| format!("{count} unprojected entries"),
        );
        println!(
            "{organizations} organizations, {records} records, {calls} calls, {open_holds} open \
             holds, {frozen} frozen, {journal}, {violations} violations"
        );
    }
    Ok(())
}

fn line(violation: &Violation) -> Line<'_> {
    let Violation { table, organization, row, found, expected } = violation;
    Line::Violation {
        table,
        organization: organization.map(|id| id.to_string()),
        row,
        found,
        expected,
    }
}
