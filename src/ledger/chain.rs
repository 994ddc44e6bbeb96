//! Verifies one organization's chain of wallet records: each record continues the previous one, and
//! the wallet has the balance of the last.
//!
//! Read from its first record, the chain also proves the sums: recharges and refunds less consumes
//! are the balance, and the consumes of each project and key are its usage.

use std::collections::HashMap;

use foldhash::fast::RandomState as FastHash;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::record::RecordKind;
use crate::ledger::violation::{Findings, Violation, money};
use crate::store::columns::Subject;

/// The columns of a wallet record that the checks need.
#[derive(Debug, Clone)]
pub struct ChainRecord {
    organization: OrganizationId,
    seq: i64,
    /// The kind, or the text in the column if it is no kind.
    kind: Result<RecordKind, String>,
    amount: i64,
    previous: i64,
    current: i64,
    call: Option<u128>,
    project: Option<Subject>,
    key: Option<Subject>,
    /// The amount charged beyond the hold. Only such amounts may make a balance negative.
    overage: i64,
}

macro_rules! chain_records {
    ($condition:literal) => {
        concat!(
            "SELECT r.organization_id, r.seq, r.kind, r.amount_nano, r.previous_balance_nano,
                r.current_balance_nano, r.request_log_id, r.project_id, r.api_key_id,
                CASE WHEN r.kind <> 'Consume' THEN 0
                    WHEN r.late THEN r.amount_nano
                    WHEN r.overage THEN max(0, r.amount_nano - coalesce((
                        SELECT l.detail ->> '$.holdAmountNano' FROM request_logs l
                        WHERE l.project_id = r.project_id AND l.id = r.request_log_id
                            AND json_valid(l.detail)), 0))
                    ELSE 0 END
             FROM wallet_records r ",
            $condition
        )
    };
}

/// The records of all organizations, chain by chain.
pub const ALL_RECORDS: &str = chain_records!("ORDER BY r.organization_id, r.seq");

/// At most `$3` records of organization `$1` after seq `$2`.
pub const RECORDS_AFTER: &str =
    chain_records!("WHERE r.organization_id = $1 AND $2 < r.seq ORDER BY r.seq LIMIT $3");

impl ChainRecord {
    /// Reads a row of either query.
    pub fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let id = |column| row.try_get::<Option<Uuid>, _>(column);
        let kind: &str = row.try_get(2)?;
        Ok(Self {
            organization: OrganizationId(row.try_get::<Uuid, _>(0)?.as_u128()),
            seq: row.try_get(1)?,
            kind: RecordKind::parse(kind).ok_or_else(|| kind.to_owned()),
            amount: row.try_get(3)?,
            previous: row.try_get(4)?,
            current: row.try_get(5)?,
            call: id(6)?.map(|id| id.as_u128()),
            project: id(7)?.map(|id| id.as_u128()),
            key: id(8)?.map(|id| id.as_u128()),
            overage: row.try_get(9)?,
        })
    }

    pub const fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Returns the call that a Refund refers to.
    pub fn refunded_call(&self) -> Option<u128> {
        self.call.filter(|_| self.kind == Ok(RecordKind::Refund))
    }

    /// Returns the subjects whose usage includes the record.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> {
        let organization = (self.kind == Ok(RecordKind::Consume)).then_some(self.organization.0);
        organization.into_iter().flat_map(|id| [Some(id), self.project, self.key]).flatten()
    }

    /// Returns the change of the balance.
    fn delta(&self) -> i128 {
        let amount = i128::from(self.amount);
        if self.kind == Ok(RecordKind::Consume) { -amount } else { amount }
    }
}

/// The state of one chain after the records verified so far.
#[derive(Debug, Clone)]
pub struct Chain {
    organization: OrganizationId,
    seq: i64,
    balance: i64,
    /// Recharges and refunds less consumes.
    sum: i128,
    /// Everything charged beyond holds.
    overage_total: i128,
    consumed: HashMap<Subject, (ConsumerKind, i128), FastHash>,
}

#[derive(Debug, Clone, Copy)]
enum ConsumerKind {
    Organization,
    Project,
    Key,
}

impl Chain {
    /// Creates a chain without records.
    pub fn new(organization: OrganizationId) -> Self {
        let consumed = HashMap::default();
        Self { organization, seq: 0, balance: 0, sum: 0, overage_total: 0, consumed }
    }

    pub const fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Returns the seq of the last verified record; 0 before the first.
    pub const fn seq(&self) -> i64 {
        self.seq
    }

    /// Returns true if a wallet with these values is the end of the chain.
    pub const fn ends_at(&self, last_seq: i64, balance: i64) -> bool {
        self.seq == last_seq && self.balance == balance
    }

    /// Verifies the next record. Each violation is reported once, because the following record is
    /// compared with the stored values.
    pub fn verify_next(&mut self, record: &ChainRecord, findings: &mut Findings) {
        let mut report = |found: String, expected: String| {
            findings.add(Violation {
                table: "wallet_records",
                organization: Some(self.organization),
                row: format!("seq {}", record.seq),
                found,
                expected,
            });
        };
        let is_next = record.seq.checked_sub(1) == Some(self.seq);
        if !is_next {
            report(format!("follows seq {}", self.seq), "the next seq, without a gap".into());
        } else if record.previous != self.balance {
            let expected =
                format!("{}, the balance after the previous record", money(self.balance.into()));
            report(format!("previous balance {}", money(record.previous.into())), expected);
        }
        if let Err(kind) = &record.kind {
            report(format!("kind {kind:?}"), "Recharge, Consume or Refund".into());
        }
        if record.amount < 0 {
            report(format!("amount {}", money(record.amount.into())), "at least 0".into());
        }
        let continues = |from: i64| i128::from(from) + record.delta() == record.current.into();
        let is_consistent = continues(record.previous) || (is_next && continues(self.balance));
        if !is_consistent {
            let expected = i128::from(record.previous) + record.delta();
            let expected = format!("{}, according to its amount", money(expected));
            report(format!("current balance {}", money(record.current.into())), expected);
        }
        self.overage_total += i128::from(record.overage);
        if i128::from(record.current) < -self.overage_total {
            let expected = format!(
                "at least {}, according to all overages so far",
                money(-self.overage_total)
            );
            report(format!("balance {}", money(record.current.into())), expected);
        }
        if record.kind == Ok(RecordKind::Consume) {
            self.add_consumed(record);
        }
        self.sum += record.delta();
        (self.seq, self.balance) = (record.seq, record.current);
    }

    fn add_consumed(&mut self, record: &ChainRecord) {
        let organization = (ConsumerKind::Organization, Some(self.organization.0));
        for (kind, subject) in
            [organization, (ConsumerKind::Project, record.project), (ConsumerKind::Key, record.key)]
        {
            if let Some(subject) = subject {
                self.consumed.entry(subject).or_insert((kind, 0)).1 += i128::from(record.amount);
            }
        }
    }

    /// Compares the end of the chain with its wallet.
    pub fn compare_wallet(&self, last_seq: i64, balance: i64, findings: &mut Findings) {
        let mut report = |found: String, expected: String| {
            findings.add(Violation {
                table: "wallets",
                organization: Some(self.organization),
                row: "wallet".into(),
                found,
                expected,
            });
        };
        if last_seq != self.seq {
            let expected = format!("{}, the seq of the last record", self.seq);
            report(format!("last seq {last_seq}"), expected);
        }
        if balance != self.balance || i128::from(balance) != self.sum {
            let (last, sum) = (money(self.balance.into()), money(self.sum));
            let expected =
                format!("{last} according to the last record, {sum} according to the sum of all");
            report(format!("balance {}", money(balance.into())), expected);
        }
    }

    /// Returns the subjects that consumed anything.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> {
        self.consumed.keys().copied()
    }

    /// Compares the consumes of a subject with the sum of its usage.
    pub fn compare_usage(&self, subject: Subject, spend: i64, findings: &mut Findings) {
        let Some((kind, consumed)) = self.consumed.get(&subject) else { return };
        if i128::from(spend) == *consumed {
            return;
        }
        let row = match kind {
            ConsumerKind::Organization => "organization".to_owned(),
            ConsumerKind::Project => ProjectId(subject).to_string(),
            ConsumerKind::Key => ApiKeyId(subject).to_string(),
        };
        findings.add(Violation {
            table: "usage_days",
            organization: Some(self.organization),
            row,
            found: format!("spend {} over all days", money(spend.into())),
            expected: format!("{}, the sum of its Consumes", money(*consumed)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANIZATION: OrganizationId = OrganizationId(1);

    fn record(seq: i64, kind: RecordKind, amount: i64, previous: i64) -> ChainRecord {
        let current = previous + if kind == RecordKind::Consume { -amount } else { amount };
        let (call, project, key) = (Some(7), Some(2), Some(3));
        let organization = ORGANIZATION;
        let kind = Ok(kind);
        ChainRecord {
            organization,
            seq,
            kind,
            amount,
            previous,
            current,
            call,
            project,
            key,
            overage: 0,
        }
    }

    fn sound() -> Vec<ChainRecord> {
        vec![
            record(1, RecordKind::Recharge, 100, 0),
            record(2, RecordKind::Consume, 30, 100),
            record(3, RecordKind::Refund, 10, 70),
            record(4, RecordKind::Consume, 0, 80),
        ]
    }

    /// The violations found after a change to a sound chain that ends at 80.
    fn violations_after(change: impl FnOnce(&mut Vec<ChainRecord>)) -> Vec<String> {
        let mut links = sound();
        change(&mut links);
        let (mut chain, mut findings) = (Chain::new(ORGANIZATION), Findings::default());
        for link in &links {
            chain.verify_next(link, &mut findings);
        }
        chain.compare_wallet(4, 80, &mut findings);
        for subject in [1, 2, 3] {
            chain.compare_usage(subject, 30, &mut findings);
        }
        let own = format!(" {ORGANIZATION}");
        findings
            .violations
            .iter()
            .map(|violation| violation.to_string().replacen(&own, "", 1))
            .collect()
    }

    #[test]
    fn a_sound_chain_has_no_violations() {
        assert!(violations_after(|_| {}).is_empty());
    }

    #[test]
    fn each_violation_is_reported_once_with_its_row() {
        let gap = violations_after(|links| links[3].seq = 5);
        assert_eq!(
            gap[0],
            "wallet_records seq 5: follows seq 3; expected the next seq, without a gap"
        );
        let previous = violations_after(|links| links[2].previous += 1);
        assert_eq!(previous.len(), 1, "{previous:?}");
        assert!(previous[0].contains("seq 3: previous balance 0.000000071; expected 0.00000007,"));
        let amount = violations_after(|links| links[1].amount += 1);
        assert!(amount[0].contains("seq 2: current balance 0.00000007; expected 0.000000069"));
        assert!(amount[1].starts_with("wallets wallet: balance 0.00000008; expected"));
        assert_eq!(amount.len(), 2 + 3, "the usage of three: {amount:?}");
        let kind = violations_after(|links| links[3].kind = Err("Gift".into()));
        assert_eq!(
            kind,
            ["wallet_records seq 4: kind \"Gift\"; expected Recharge, Consume or Refund"]
        );
    }

    #[test]
    fn a_negative_balance_must_be_covered_by_overages() {
        let mut debit = record(2, RecordKind::Consume, 150, 100);
        let debts = |debit: &ChainRecord| {
            let (mut chain, mut findings) = (Chain::new(ORGANIZATION), Findings::default());
            chain.verify_next(&sound()[0], &mut findings);
            chain.verify_next(debit, &mut findings);
            findings.count
        };
        assert_eq!(debts(&debit), 1);
        debit.overage = 49;
        assert_eq!(debts(&debit), 1);
        debit.overage = 50;
        assert_eq!(debts(&debit), 0);
    }

    #[test]
    fn a_consume_counts_for_three_subjects_and_a_refund_refers_to_a_call() {
        for (kind, call, subjects) in [
            (RecordKind::Recharge, None, &[][..]),
            (RecordKind::Consume, None, &[1, 2, 3]),
            (RecordKind::Refund, Some(7), &[]),
        ] {
            let link = record(1, kind, 5, 0);
            assert_eq!(
                (link.refunded_call(), &*link.subjects().collect::<Vec<_>>()),
                (call, subjects)
            );
        }
    }

    #[test]
    fn a_chain_ends_at_its_last_record_and_balance() {
        let (mut chain, mut findings) = (Chain::new(ORGANIZATION), Findings::default());
        chain.verify_next(&sound()[0], &mut findings);
        assert!(chain.ends_at(1, 100));
        assert!(!chain.ends_at(2, 100) && !chain.ends_at(1, 99) && !chain.ends_at(2, 99));
    }
}
