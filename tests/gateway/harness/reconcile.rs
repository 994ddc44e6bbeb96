//! Reconciliation: the upstream's log, the clients' observations and the ledger describe the same
//! calls independently and must agree.

use std::collections::{HashMap, HashSet};

use crate::harness::deployment::{Deployment, LimitedBy, limit_step};
use crate::harness::ledger_snapshot::{
    LedgerSnapshot, LoggedCall, UsageTotals, WalletRecord, hex_digits,
};
use crate::harness::openai::Usage;
use crate::harness::random_callers::{ClientView, PIECE_BYTES};

/// The state of a call in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallState {
    /// Not recorded and not counted.
    Absent,
    /// Not charged, but counted as a request.
    Void,
    Estimate,
    Usage,
}

/// The three sources side by side, read while no call is open.
pub struct Reconciliation<'a> {
    deployment: &'a Deployment,
    pub ledger: LedgerSnapshot,
    client_views: HashMap<u32, &'a ClientView>,
    forwarded: HashSet<u32>,
    logs: HashMap<u32, LoggedCall>,
    debits: HashMap<String, WalletRecord>,
}

/// Progress is checkpointed every 1,000 tokens, so a client that has received this much has passed
/// a checkpoint.
const CHECKPOINTED_BYTES: usize = 8 * PIECE_BYTES;

impl<'a> Reconciliation<'a> {
    /// Reads all sources; fails if one of them contradicts itself.
    pub async fn load(deployment: &'a Deployment) -> Self {
        // A response of the admin API reflects the whole journal, so afterwards the database does
        // too.
        deployment.limited_tenants[0].tenant.wallet().await;
        let ledger = LedgerSnapshot::read(&deployment.database()).await;
        let view: HashMap<u32, &ClientView> =
            deployment.client_views.iter().map(|view| (view.call.marker, view)).collect();
        assert_eq!(view.len(), deployment.client_views.len(), "each call has a unique marker");
        let mut provided = HashSet::new();
        for marker in deployment.forwarded_markers() {
            assert!(
                provided.insert(marker),
                "the upstream received a call twice: {:?}",
                view[&marker]
            );
        }
        let mut logs = HashMap::new();
        for log in &ledger.logs {
            let other = logs.insert(log.marker, log.clone());
            assert!(other.is_none(), "a call is logged twice: {log:?} {other:?}");
        }
        let mut consumes = HashMap::new();
        for record in ledger.records.values().flatten().filter(|record| record.kind == "Consume") {
            let call =
                record.call.clone().unwrap_or_else(|| panic!("a debit without a call: {record:?}"));
            let other = consumes.insert(call, record.clone());
            assert!(other.is_none(), "I4, a call is debited twice: {record:?} {other:?}");
        }
        Self { deployment, ledger, client_views: view, forwarded: provided, logs, debits: consumes }
    }

    /// Checks every invariant.
    pub async fn reconcile(&self) {
        self.check_calls();
        self.check_clients();
        self.check_chains();
        self.check_payments();
        self.check_limits();
        self.check_admin_api().await;
    }

    pub fn state(&self, marker: u32) -> CallState {
        let Some(log) = self.logs.get(&marker) else { return CallState::Absent };
        match self.debits.get(&log.id).and_then(|record| record.settled_by.as_deref()) {
            None => CallState::Void,
            Some("usage") => CallState::Usage,
            Some(_) => CallState::Estimate,
        }
    }

    pub fn was_forwarded(&self, marker: u32) -> bool {
        self.forwarded.contains(&marker)
    }

    /// The usage of the project of this tenant.
    pub fn usage(&self, tenant: usize) -> UsageTotals {
        let project = hex_digits(&self.deployment.limited_tenants[tenant].tenant.project);
        self.ledger.usage.get(project).copied().unwrap_or_default()
    }

    /// The wallet records of one payment.
    pub fn records_named(&self, name: &str) -> Vec<&WalletRecord> {
        let named = |record: &&WalletRecord| record.name.as_deref() == Some(name);
        self.ledger.records.values().flatten().filter(named).collect()
    }

    /// Every forwarded call is logged, and every charged call was forwarded.
    fn check_calls(&self) {
        for marker in &self.forwarded {
            let view = self.client_views[marker];
            assert!(self.logs.contains_key(marker), "forwarded and forgotten: {view:?}");
        }
        let by_id: HashMap<&str, &LoggedCall> =
            self.ledger.logs.iter().map(|log| (log.id.as_str(), log)).collect();
        for (id, record) in &self.debits {
            let log = by_id.get(id.as_str());
            let log =
                log.unwrap_or_else(|| panic!("a debit of a call that is not logged: {record:?}"));
            assert!(
                self.forwarded.contains(&log.marker),
                "I5, never forwarded: {record:?} {log:?}"
            );
            assert_eq!(log.cost, record.amount, "log and ledger: {record:?} {log:?}");
            assert_eq!(Some(log.settled_by.as_str()), record.settled_by.as_deref(), "{record:?}");
        }
        for log in &self.ledger.logs {
            let view = self.client_views.get(&log.marker);
            let view = view.unwrap_or_else(|| panic!("a logged call that was not made: {log:?}"));
            let project =
                hex_digits(&self.deployment.limited_tenants[view.call.tenant].tenant.project);
            assert_eq!(log.project, project, "{log:?} {view:?}");
            let is_charged = self.debits.contains_key(&log.id);
            assert_eq!(is_charged, log.settled_by != "none", "charged and debited: {log:?}");
        }
        assert!(
            self.ledger.open_holds.is_empty(),
            "holds outlive their calls: {:?}",
            self.ledger.open_holds
        );
    }

    /// A client that saw the end was charged exactly the reported usage; a refused client nothing.
    fn check_clients(&self) {
        for view in &self.deployment.client_views {
            let (marker, call) = (view.call.marker, &view.call);
            let Some((status, id)) = &view.head else { continue };
            let log = self.logs.get(&marker);
            if *status != 200
                && call.plan != crate::harness::random_callers::CallPlan::UpstreamError
            {
                assert!(!self.forwarded.contains(&marker), "refused and forwarded: {view:?}");
                assert!(log.is_none(), "refused and logged as a call: {view:?} {log:?}");
                continue;
            }
            if *status != 200 {
                continue;
            }
            let log = log.unwrap_or_else(|| panic!("served and forgotten: {view:?}"));
            assert_eq!(&log.id, id, "one call, one id: {view:?}");
            let record = self.debits.get(id);
            if view.ended {
                let record =
                    record.unwrap_or_else(|| panic!("I3, an end without a debit: {view:?}"));
                assert_eq!(i128::from(record.amount), call.cost(), "I3: {view:?} {record:?}");
                assert_eq!(record.settled_by.as_deref(), Some("usage"), "I3: {view:?} {record:?}");
            } else if call.is_long() && CHECKPOINTED_BYTES <= view.bytes {
                let record = record.unwrap_or_else(|| {
                    panic!("checkpointed progress is not charged: {view:?} {log:?}")
                });
                let cost_min = call.price().cost(Usage::of(0, 1_000));
                assert!(cost_min <= i128::from(record.amount), "{view:?} {record:?}");
            }
        }
    }

    /// I6: the records have no gap, and each starts at the balance of the one before.
    fn check_chains(&self) {
        for (organization, (balance, last)) in &self.ledger.wallets {
            let records =
                self.ledger.records.get(organization).map(Vec::as_slice).unwrap_or_default();
            let (mut at, mut seq) = (0, 0);
            for record in records {
                seq += 1;
                assert_eq!(record.seq, seq, "I6, a gap: {record:?}");
                assert_eq!(record.previous, at, "I6, the chain: {record:?}");
                at += if record.kind == "Consume" { -record.amount } else { record.amount };
                assert_eq!(record.current, at, "I6, the chain: {record:?}");
                assert!(!record.overage, "no call exceeded its hold: {record:?}");
                assert!(0 <= at, "I2, the balance is negative: {record:?}");
            }
            assert_eq!((*balance, *last), (at, seq), "I7, the balance");
        }
    }

    /// I7: every confirmed payment is recorded a single time, and nothing else is.
    fn check_payments(&self) {
        let mut refunds: HashMap<&str, i64> = HashMap::new();
        for record in
            self.ledger.records.values().flatten().filter(|record| record.kind == "Refund")
        {
            *refunds.entry(record.call.as_deref().unwrap_or_default()).or_default() +=
                record.amount;
        }
        for (call, amount) in refunds {
            let consume = self.debits.get(call).map_or(0, |record| record.amount);
            assert!(amount <= consume, "P4, {call} got {amount} back of {consume}");
        }
        for payment in &self.deployment.payments {
            let records = self.records_named(&payment.name);
            match payment.status {
                Some(200) => {
                    assert_eq!(records.len(), 1, "recorded one time: {payment:?} {records:?}");
                }
                Some(_) => {
                    assert!(records.is_empty(), "refused and recorded: {payment:?} {records:?}");
                }
                None => assert!(records.len() <= 1, "done twice: {payment:?} {records:?}"),
            }
        }
        for tenant in self.deployment.limited_tenants.iter().filter(|tenant| 0 < tenant.limit) {
            let records = &self.ledger.records[hex_digits(&tenant.tenant.organization)];
            let unnamed =
                records.iter().filter(|record| record.kind == "Recharge" && record.name.is_none());
            let at_first = if tenant.limited_by == LimitedBy::Wallet {
                LimitedBy::Wallet
            } else {
                LimitedBy::Nothing
            };
            let amounts: Vec<i128> = unnamed.map(|record| record.amount.into()).collect();
            assert_eq!(amounts, [limit_step(at_first)], "no other payments");
        }
    }

    /// I1: forwarded calls are counted, and the counts are within the limit in force.
    fn check_limits(&self) {
        for (at, tenant) in self.deployment.limited_tenants.iter().enumerate() {
            let used = self.usage(at);
            let is_of_tenant = |marker: &&u32| self.client_views[*marker].call.tenant == at;
            let forwarded = self.forwarded.iter().filter(is_of_tenant).count() as u64;
            let project = hex_digits(&tenant.tenant.project);
            let logs: Vec<&LoggedCall> =
                self.ledger.logs.iter().filter(|log| log.project == project).collect();
            let cost: i64 = logs.iter().map(|log| log.cost).sum();
            assert!(forwarded <= used.requests, "I1, {forwarded} forwarded, and only {used:?}");
            assert!(used.requests <= logs.len() as u64, "{used:?} of {} calls", logs.len());
            assert_eq!(used.spend, cost, "counted and charged: {used:?}");
            let limit = tenant.limit * i128::from(used.days.max(1));
            let counted = match tenant.limited_by {
                LimitedBy::Nothing | LimitedBy::Wallet => continue,
                LimitedBy::Requests => i128::from(used.requests),
                LimitedBy::Tokens => used.tokens.into(),
                LimitedBy::Spend => used.spend.into(),
            };
            assert!(counted <= limit, "I1, {used:?} beyond {limit} {:?}", tenant.limited_by);
        }
    }

    /// While no call is open, the admin API reports what the ledger contains, and nothing is held.
    async fn check_admin_api(&self) {
        for (at, tenant) in self.deployment.limited_tenants.iter().enumerate() {
            let wallet = tenant.tenant.wallet().await;
            let (balance, _) = self.ledger.wallets[hex_digits(&tenant.tenant.organization)];
            assert_eq!(wallet.at("frozenAmount").nano(), 0, "I7, frozen at rest: {wallet}");
            assert_eq!(wallet.at("availableAmount").nano(), i128::from(balance), "{wallet}");
            let usage = tenant.tenant.usage().await.at("dailyUsage");
            let used = self.usage(at);
            assert_eq!(usage.at("heldRequests").count(), 0, "{usage}");
            assert_eq!(usage.at("heldTokens").count(), 0, "{usage}");
            if used.days <= 1 {
                let requests = usage.at("requestCount").count();
                assert_eq!(requests, used.requests, "{usage} {used:?}");
                assert_eq!(usage.at("spend").nano(), i128::from(used.spend), "{usage} {used:?}");
            }
        }
    }
}
