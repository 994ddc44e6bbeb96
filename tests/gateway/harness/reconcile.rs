//! Reconciliation: what the provider has seen, what clients have seen and what the ledger says are
//! three accounts of the same calls, kept apart, and must agree.

use std::collections::{HashMap, HashSet};

use crate::harness::deployment::{Deployment, LimitedBy, limit_step};
use crate::harness::ledger_snapshot::{
    LedgerSnapshot, LoggedCall, UsageTotals, WalletRecord, hex_digits,
};
use crate::harness::openai::Usage;
use crate::harness::random_callers::{ClientView, PIECE_BYTES};

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallState {
    /// It stands nowhere, and counts as nothing.
    Absent,
    /// Nothing was charged; it counts as a request.
    Void,
    Estimate,
    Usage,
}

/// The three accounts, side by side, while no call is open.
pub struct Reconciliation<'a> {
    deployment: &'a Deployment,
    pub ledger: LedgerSnapshot,
    client_views: HashMap<u32, &'a ClientView>,
    forwarded: HashSet<u32>,
    logs: HashMap<u32, LoggedCall>,
    debits: HashMap<String, WalletRecord>,
}

/// Progress is written every 1,000 tokens: a client that has seen three times that has seen one.
const CHECKPOINTED_BYTES: usize = 8 * PIECE_BYTES;

impl<'a> Reconciliation<'a> {
    /// Reads them, and fails where one of them contradicts itself.
    pub async fn load(site: &'a Deployment) -> Self {
        // An answer of the admin API is as fresh as the journal: so is the database then.
        site.limited_tenants[0].tenant.wallet().await;
        let books = LedgerSnapshot::read(&site.database()).await;
        let heard: HashMap<u32, &ClientView> =
            site.client_views.iter().map(|heard| (heard.call.marker, heard)).collect();
        assert_eq!(heard.len(), site.client_views.len(), "each call has a marker of its own");
        let mut provided = HashSet::new();
        for marker in site.forwarded_markers() {
            assert!(provided.insert(marker), "the provider got a call twice: {:?}", heard[&marker]);
        }
        let mut logs = HashMap::new();
        for log in &books.logs {
            let other = logs.insert(log.marker, log.clone());
            assert!(other.is_none(), "a call is logged twice: {log:?} {other:?}");
        }
        let mut consumes = HashMap::new();
        for line in books.records.values().flatten().filter(|line| line.kind == "Consume") {
            let call = line.call.clone().unwrap_or_else(|| panic!("whose debit is it? {line:?}"));
            let other = consumes.insert(call, line.clone());
            assert!(other.is_none(), "I4, a call is debited twice: {line:?} {other:?}");
        }
        Self {
            deployment: site,
            ledger: books,
            client_views: heard,
            forwarded: provided,
            logs,
            debits: consumes,
        }
    }

    /// Checks every promise.
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
        match self.debits.get(&log.id).and_then(|line| line.settled_by.as_deref()) {
            None => CallState::Void,
            Some("usage") => CallState::Usage,
            Some(_) => CallState::Estimate,
        }
    }

    pub fn was_forwarded(&self, marker: u32) -> bool {
        self.forwarded.contains(&marker)
    }

    /// What was used of the project of that place.
    pub fn usage(&self, place: usize) -> UsageTotals {
        let project = hex_digits(&self.deployment.limited_tenants[place].tenant.project);
        self.ledger.usage.get(project).copied().unwrap_or_default()
    }

    /// Lines of the ledger of that name: of one payment.
    pub fn records_named(&self, name: &str) -> Vec<&WalletRecord> {
        let named = |line: &&WalletRecord| line.name.as_deref() == Some(name);
        self.ledger.records.values().flatten().filter(named).collect()
    }

    /// Whatever reached the provider is logged, and whatever was charged has reached it.
    fn check_calls(&self) {
        for marker in &self.forwarded {
            let heard = self.client_views[marker];
            assert!(self.logs.contains_key(marker), "forwarded and forgotten: {heard:?}");
        }
        let by_id: HashMap<&str, &LoggedCall> =
            self.ledger.logs.iter().map(|log| (log.id.as_str(), log)).collect();
        for (id, line) in &self.debits {
            let log = by_id.get(id.as_str());
            let log =
                log.unwrap_or_else(|| panic!("a debit of a call that nobody logged: {line:?}"));
            assert!(self.forwarded.contains(&log.marker), "I5, never forwarded: {line:?} {log:?}");
            assert_eq!(log.cost, line.amount, "log and ledger: {line:?} {log:?}");
            assert_eq!(Some(log.settled_by.as_str()), line.settled_by.as_deref(), "{line:?}");
        }
        for log in &self.ledger.logs {
            let heard = self.client_views.get(&log.marker);
            let heard = heard.unwrap_or_else(|| panic!("a call that nobody made: {log:?}"));
            let project =
                hex_digits(&self.deployment.limited_tenants[heard.call.tenant].tenant.project);
            assert_eq!(log.project, project, "{log:?} {heard:?}");
            let is_charged = self.debits.contains_key(&log.id);
            assert_eq!(is_charged, log.settled_by != "none", "charged and debited: {log:?}");
        }
        assert!(
            self.ledger.open_holds.is_empty(),
            "holds outlive their calls: {:?}",
            self.ledger.open_holds
        );
    }

    /// Who saw the end has paid for exactly what it was told; who was refused, for nothing.
    fn check_clients(&self) {
        for heard in &self.deployment.client_views {
            let (marker, ask) = (heard.call.marker, &heard.call);
            let Some((status, id)) = &heard.head else { continue };
            let log = self.logs.get(&marker);
            if *status != 200 && ask.plan != crate::harness::random_callers::CallPlan::UpstreamError
            {
                assert!(!self.forwarded.contains(&marker), "refused and forwarded: {heard:?}");
                assert!(log.is_none(), "refused and logged as a call: {heard:?} {log:?}");
                continue;
            }
            if *status != 200 {
                continue;
            }
            let log = log.unwrap_or_else(|| panic!("served and forgotten: {heard:?}"));
            assert_eq!(&log.id, id, "one call, one id: {heard:?}");
            let line = self.debits.get(id);
            if heard.ended {
                let line = line.unwrap_or_else(|| panic!("I3, an end without a debit: {heard:?}"));
                assert_eq!(i128::from(line.amount), ask.cost(), "I3: {heard:?} {line:?}");
                assert_eq!(line.settled_by.as_deref(), Some("usage"), "I3: {heard:?} {line:?}");
            } else if ask.is_long() && CHECKPOINTED_BYTES <= heard.bytes {
                let line =
                    line.unwrap_or_else(|| panic!("its progress is free: {heard:?} {log:?}"));
                let least = ask.price().cost(Usage::of(0, 1_000));
                assert!(least <= i128::from(line.amount), "{heard:?} {line:?}");
            }
        }
    }

    /// I6: no gap, and each line begins where the last one ended.
    fn check_chains(&self) {
        for (organization, (balance, last)) in &self.ledger.wallets {
            let lines =
                self.ledger.records.get(organization).map(Vec::as_slice).unwrap_or_default();
            let (mut at, mut seq) = (0, 0);
            for line in lines {
                seq += 1;
                assert_eq!(line.seq, seq, "I6, a gap: {line:?}");
                assert_eq!(line.previous, at, "I6, the chain: {line:?}");
                at += if line.kind == "Consume" { -line.amount } else { line.amount };
                assert_eq!(line.current, at, "I6, the chain: {line:?}");
                assert!(!line.overage, "no call passed its hold: {line:?}");
                assert!(0 <= at, "I2, spent what was not there: {line:?}");
            }
            assert_eq!((*balance, *last), (at, seq), "I7, the balance");
        }
    }

    /// I7: what was paid in and given back is there once, and nothing else is.
    fn check_payments(&self) {
        let mut refunds: HashMap<&str, i64> = HashMap::new();
        for line in self.ledger.records.values().flatten().filter(|line| line.kind == "Refund") {
            *refunds.entry(line.call.as_deref().unwrap_or_default()).or_default() += line.amount;
        }
        for (call, amount) in refunds {
            let consume = self.debits.get(call).map_or(0, |line| line.amount);
            assert!(amount <= consume, "P4, {call} got {amount} back of {consume}");
        }
        for paid in &self.deployment.payments {
            let lines = self.records_named(&paid.name);
            match paid.status {
                Some(200) => assert_eq!(lines.len(), 1, "paid once: {paid:?} {lines:?}"),
                Some(_) => assert!(lines.is_empty(), "a no that was done: {paid:?} {lines:?}"),
                None => assert!(lines.len() <= 1, "done twice: {paid:?} {lines:?}"),
            }
        }
        for place in self.deployment.limited_tenants.iter().filter(|place| 0 < place.limit) {
            let lines = &self.ledger.records[hex_digits(&place.tenant.organization)];
            let unnamed =
                lines.iter().filter(|line| line.kind == "Recharge" && line.name.is_none());
            let at_first = if place.limited_by == LimitedBy::Wallet {
                LimitedBy::Wallet
            } else {
                LimitedBy::Nothing
            };
            let amounts: Vec<i128> = unnamed.map(|line| line.amount.into()).collect();
            assert_eq!(amounts, [limit_step(at_first)], "nobody else paid in");
        }
    }

    /// I1: what was forwarded was counted, and what was counted is within the limit in force.
    fn check_limits(&self) {
        for (at, place) in self.deployment.limited_tenants.iter().enumerate() {
            let used = self.usage(at);
            let own = |marker: &&u32| self.client_views[*marker].call.tenant == at;
            let forwarded = self.forwarded.iter().filter(own).count() as u64;
            let project = hex_digits(&place.tenant.project);
            let logs: Vec<&LoggedCall> =
                self.ledger.logs.iter().filter(|log| log.project == project).collect();
            let cost: i64 = logs.iter().map(|log| log.cost).sum();
            assert!(forwarded <= used.requests, "I1, {forwarded} forwarded, and only {used:?}");
            assert!(used.requests <= logs.len() as u64, "{used:?} of {} calls", logs.len());
            assert_eq!(used.spend, cost, "counted and charged: {used:?}");
            let limit = place.limit * i128::from(used.days.max(1));
            let counted = match place.limited_by {
                LimitedBy::Nothing | LimitedBy::Wallet => continue,
                LimitedBy::Requests => i128::from(used.requests),
                LimitedBy::Tokens => used.tokens.into(),
                LimitedBy::Spend => used.spend.into(),
            };
            assert!(counted <= limit, "I1, {used:?} beyond {limit} {:?}", place.limited_by);
        }
    }

    /// At rest the running gateway tells what its books say, and holds nothing.
    async fn check_admin_api(&self) {
        for (at, place) in self.deployment.limited_tenants.iter().enumerate() {
            let wallet = place.tenant.wallet().await;
            let (balance, _) = self.ledger.wallets[hex_digits(&place.tenant.organization)];
            assert_eq!(wallet.at("frozenAmount").nano(), 0, "I7, frozen at rest: {wallet}");
            assert_eq!(wallet.at("availableAmount").nano(), i128::from(balance), "{wallet}");
            let usage = place.tenant.usage().await.at("dailyUsage");
            let used = self.usage(at);
            assert_eq!(usage.at("heldRequests").count(), 0, "{usage}");
            assert_eq!(usage.at("heldTokens").count(), 0, "{usage}");
            if used.days <= 1 {
                let told = usage.at("requestCount").count();
                assert_eq!(told, used.requests, "{usage} {used:?}");
                assert_eq!(usage.at("spend").nano(), i128::from(used.spend), "{usage} {used:?}");
            }
        }
    }
}
