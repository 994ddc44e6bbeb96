//! Cross-checks between tables: facts stored in two places must agree.
//!
//! The queries return mismatches only.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::domain::ids::{OrganizationId, RequestLogId};
use crate::ledger::violation::{Findings, Violation, money};
use crate::store::columns::uuid;
use crate::store::row_stream::for_each_row;

macro_rules! refunds {
    ($condition:literal) => {
        concat!(
            "SELECT r.organization_id, max(r.seq), r.request_log_id, sum(r.amount_nano) AS refunded,
                (SELECT max(c.amount_nano) FROM wallet_records c
                 WHERE c.kind = 'Consume' AND c.request_log_id = r.request_log_id
                    AND c.organization_id = r.organization_id) AS consumed
             FROM wallet_records r WHERE r.kind = 'Refund' ",
            $condition,
            " GROUP BY r.organization_id, r.request_log_id
             HAVING consumed IS NULL OR consumed < refunded"
        )
    };
}

const EXCESS_REFUNDS: &str = refunds!("");
const EXCESS_REFUNDS_OF_CALL: &str =
    refunds!("AND r.organization_id = $1 AND r.request_log_id = $2");

const DUPLICATE_CONSUMES: &str = "SELECT organization_id, max(seq), request_log_id, count(*)
    FROM wallet_records WHERE kind = 'Consume' AND request_log_id IS NOT NULL
    GROUP BY request_log_id HAVING 1 < count(*)";

const MISMATCHED_CONSUMES: &str =
    "SELECT r.organization_id, r.seq, r.request_log_id, r.amount_nano,
        l.cost_nano, l.organization_id = r.organization_id AND l.api_key_id IS r.api_key_id
    FROM wallet_records r
    LEFT JOIN request_logs l ON l.project_id = r.project_id AND l.id = r.request_log_id
    WHERE r.kind = 'Consume' AND (l.id IS NULL OR l.cost_nano <> r.amount_nano
            OR l.organization_id <> r.organization_id OR l.api_key_id IS NOT r.api_key_id)";

const LOGS_WITHOUT_CONSUME: &str = "SELECT l.organization_id, l.id, l.cost_nano
    FROM request_logs l
    LEFT JOIN wallet_records r ON r.kind = 'Consume' AND r.request_log_id = l.id
        AND r.organization_id = l.organization_id
    WHERE l.cost_nano <> 0 AND r.seq IS NULL";

/// The usage of an organization on a day minus the usage of its projects.
const MISMATCHED_DAYS: &str = "SELECT organization_id, day, sum(requests), sum(input_tokens),
        sum(output_tokens), sum(spend_nano)
    FROM (
        SELECT o.id AS organization_id, day, requests, input_tokens, output_tokens, spend_nano
        FROM usage_days u JOIN organizations o ON o.id = u.subject_id
        UNION ALL
        SELECT p.organization_id, day, -requests, -input_tokens, -output_tokens, -spend_nano
        FROM usage_days u JOIN projects p ON p.id = u.subject_id
    )
    GROUP BY organization_id, day
    HAVING sum(requests) <> 0 OR sum(input_tokens) <> 0 OR sum(output_tokens) <> 0
        OR sum(spend_nano) <> 0";

/// Turns a row of a query into a violation.
type ToViolation = fn(&SqliteRow) -> Result<Violation, sqlx::Error>;

/// Compares all Consumes, Refunds, request logs and daily usage with each other.
pub async fn compare_all(
    connection: &mut SqliteConnection,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let checks: [(&'static str, ToViolation); 5] = [
        (DUPLICATE_CONSUMES, duplicate_consume),
        (EXCESS_REFUNDS, excess_refund),
        (MISMATCHED_CONSUMES, mismatched_consume),
        (LOGS_WITHOUT_CONSUME, log_without_consume),
        (MISMATCHED_DAYS, mismatched_day),
    ];
    for (query, violation) in checks {
        for_each_row(connection, query, |row| {
            findings.add(violation(row)?);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Compares the Refunds of one call with its Consume.
pub async fn compare_refunds(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    call: u128,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(EXCESS_REFUNDS_OF_CALL).bind(uuid(organization.0)).bind(uuid(call));
    for row in query.fetch_all(connection).await? {
        findings.add(excess_refund(&row)?);
    }
    Ok(())
}

fn organization(row: &SqliteRow) -> Result<Option<OrganizationId>, sqlx::Error> {
    Ok(Some(OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128())))
}

fn call(row: &SqliteRow, column: usize) -> Result<String, sqlx::Error> {
    let id = row.try_get::<Option<Uuid>, _>(column)?;
    Ok(id.map_or_else(|| "no call".into(), |id| format!("call {}", RequestLogId(id.as_u128()))))
}

fn nano(row: &SqliteRow, column: usize) -> Result<String, sqlx::Error> {
    Ok(money(row.try_get::<i64, _>(column)?.into()))
}

fn record(row: &SqliteRow, found: String, expected: String) -> Result<Violation, sqlx::Error> {
    let seq = row.try_get::<i64, _>(1)?;
    let row_name = format!("seq {seq}, {}", call(row, 2)?);
    let organization = organization(row)?;
    Ok(Violation { table: "wallet_records", organization, row: row_name, found, expected })
}

fn duplicate_consume(row: &SqliteRow) -> Result<Violation, sqlx::Error> {
    let times = row.try_get::<i64, _>(3)?;
    record(row, format!("{times} Consumes of one call"), "at most one".into())
}

fn excess_refund(row: &SqliteRow) -> Result<Violation, sqlx::Error> {
    let found = format!("refunds of {}", nano(row, 3)?);
    let expected = match row.try_get::<Option<i64>, _>(4)? {
        Some(consumed) => format!("at most {}, the amount of its Consume", money(consumed.into())),
        None => "none, because the organization has no Consume of this call".into(),
    };
    record(row, found, expected)
}

fn mismatched_consume(row: &SqliteRow) -> Result<Violation, sqlx::Error> {
    let consumed = nano(row, 3)?;
    match row.try_get::<Option<i64>, _>(4)? {
        None => record(row, "a Consume without a request log".into(), "a request log".into()),
        Some(_) if !row.try_get::<bool, _>(5)? => {
            let expected = "those of the request log".into();
            record(row, "organization or key differs from the request log".into(), expected)
        }
        Some(cost) => {
            let expected = format!("{}, the cost in its request log", money(cost.into()));
            record(row, format!("amount {consumed}"), expected)
        }
    }
}

fn log_without_consume(row: &SqliteRow) -> Result<Violation, sqlx::Error> {
    Ok(Violation {
        table: "request_logs",
        organization: organization(row)?,
        row: call(row, 1)?,
        found: format!("cost {} without a Consume", nano(row, 2)?),
        expected: "a Consume of that amount".into(),
    })
}

fn mismatched_day(row: &SqliteRow) -> Result<Violation, sqlx::Error> {
    let number = |column| row.try_get::<i64, _>(column);
    Ok(Violation {
        table: "usage_days",
        organization: organization(row)?,
        row: format!("day {}", number(1)?),
        found: format!(
            "exceeds its projects by {} requests, {} input tokens, {} output tokens, spend {}",
            number(2)?,
            number(3)?,
            number(4)?,
            nano(row, 5)?
        ),
        expected: "the sum of its projects".into(),
    })
}
