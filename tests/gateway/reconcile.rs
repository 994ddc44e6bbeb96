//! Reconciliation: what the provider has seen, what clients have seen and what the ledger says are
//! three accounts of the same calls, kept apart, and must agree.

use std::collections::{HashMap, HashSet};

use crate::books::{Books, Line, Logged, Used, digits};
use crate::crowd::{Heard, PIECE_BYTES};
use crate::openai::Usage;
use crate::site::{Bites, Site, step};

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It stands nowhere, and counts as nothing.
    Absent,
    /// Nothing was charged; it counts as a request.
    Void,
    Estimate,
    Usage,
}

/// The three accounts, side by side, while no call is open.
pub struct Accounts<'a> {
    site: &'a Site,
    pub books: Books,
    heard: HashMap<u32, &'a Heard>,
    provided: HashSet<u32>,
    logs: HashMap<u32, Logged>,
    consumes: HashMap<String, Line>,
}

/// Progress is written every 1,000 tokens: a client that has seen three times that has seen one.
const PAID_BYTES: usize = 8 * PIECE_BYTES;

impl<'a> Accounts<'a> {
    /// Reads them, and fails where one of them contradicts itself.
    pub async fn of(site: &'a Site) -> Self {
        // An answer of the admin API is as fresh as the journal: so is the database then.
        site.places[0].tenant.wallet().await;
        let books = Books::read(&site.database()).await;
        let heard: HashMap<u32, &Heard> =
            site.heard.iter().map(|heard| (heard.ask.marker, heard)).collect();
        assert_eq!(heard.len(), site.heard.len(), "each call has a marker of its own");
        let mut provided = HashSet::new();
        for marker in site.provided() {
            assert!(provided.insert(marker), "the provider got a call twice: {:?}", heard[&marker]);
        }
        let mut logs = HashMap::new();
        for log in &books.logs {
            let other = logs.insert(log.marker, log.clone());
            assert!(other.is_none(), "a call is logged twice: {log:?} {other:?}");
        }
        let mut consumes = HashMap::new();
        for line in books.lines.values().flatten().filter(|line| line.kind == "Consume") {
            let call = line.call.clone().unwrap_or_else(|| panic!("whose debit is it? {line:?}"));
            let other = consumes.insert(call, line.clone());
            assert!(other.is_none(), "I4, a call is debited twice: {line:?} {other:?}");
        }
        Self { site, books, heard, provided, logs, consumes }
    }

    /// Checks every promise.
    pub async fn reconcile(&self) {
        self.calls();
        self.clients();
        self.chains();
        self.money();
        self.limits();
        self.told().await;
    }

    pub fn state(&self, marker: u32) -> State {
        let Some(log) = self.logs.get(&marker) else { return State::Absent };
        match self.consumes.get(&log.id).and_then(|line| line.settled_by.as_deref()) {
            None => State::Void,
            Some("usage") => State::Usage,
            Some(_) => State::Estimate,
        }
    }

    pub fn has_reached_the_provider(&self, marker: u32) -> bool {
        self.provided.contains(&marker)
    }

    /// What was used of the project of that place.
    pub fn used(&self, place: usize) -> Used {
        let project = digits(&self.site.places[place].tenant.project);
        self.books.used.get(project).copied().unwrap_or_default()
    }

    /// Lines of the ledger of that name: of one payment.
    pub fn lines_named(&self, name: &str) -> Vec<&Line> {
        let named = |line: &&Line| line.name.as_deref() == Some(name);
        self.books.lines.values().flatten().filter(named).collect()
    }

    /// Whatever reached the provider is logged, and whatever was charged has reached it.
    fn calls(&self) {
        for marker in &self.provided {
            let heard = self.heard[marker];
            assert!(self.logs.contains_key(marker), "forwarded and forgotten: {heard:?}");
        }
        let by_id: HashMap<&str, &Logged> =
            self.books.logs.iter().map(|log| (log.id.as_str(), log)).collect();
        for (id, line) in &self.consumes {
            let log = by_id.get(id.as_str());
            let log =
                log.unwrap_or_else(|| panic!("a debit of a call that nobody logged: {line:?}"));
            assert!(self.provided.contains(&log.marker), "I5, never forwarded: {line:?} {log:?}");
            assert_eq!(log.cost, line.amount, "log and ledger: {line:?} {log:?}");
            assert_eq!(Some(log.settled_by.as_str()), line.settled_by.as_deref(), "{line:?}");
        }
        for log in &self.books.logs {
            let heard = self.heard.get(&log.marker);
            let heard = heard.unwrap_or_else(|| panic!("a call that nobody made: {log:?}"));
            let project = digits(&self.site.places[heard.ask.tenant].tenant.project);
            assert_eq!(log.project, project, "{log:?} {heard:?}");
            let is_charged = self.consumes.contains_key(&log.id);
            assert_eq!(is_charged, log.settled_by != "none", "charged and debited: {log:?}");
        }
        assert!(self.books.open.is_empty(), "holds outlive their calls: {:?}", self.books.open);
    }

    /// Who saw the end has paid for exactly what it was told; who was refused, for nothing.
    fn clients(&self) {
        for heard in &self.site.heard {
            let (marker, ask) = (heard.ask.marker, &heard.ask);
            let Some((status, id)) = &heard.head else { continue };
            let log = self.logs.get(&marker);
            if *status != 200 && ask.way != crate::crowd::Way::Fail {
                assert!(!self.provided.contains(&marker), "refused and forwarded: {heard:?}");
                assert!(log.is_none(), "refused and logged as a call: {heard:?} {log:?}");
                continue;
            }
            if *status != 200 {
                continue;
            }
            let log = log.unwrap_or_else(|| panic!("served and forgotten: {heard:?}"));
            assert_eq!(&log.id, id, "one call, one id: {heard:?}");
            let line = self.consumes.get(id);
            if heard.ended {
                let line = line.unwrap_or_else(|| panic!("I3, an end without a debit: {heard:?}"));
                assert_eq!(i128::from(line.amount), ask.cost(), "I3: {heard:?} {line:?}");
                assert_eq!(line.settled_by.as_deref(), Some("usage"), "I3: {heard:?} {line:?}");
            } else if ask.is_long() && PAID_BYTES <= heard.bytes {
                let line =
                    line.unwrap_or_else(|| panic!("its progress is free: {heard:?} {log:?}"));
                let least = ask.price().cost(Usage::of(0, 1_000));
                assert!(least <= i128::from(line.amount), "{heard:?} {line:?}");
            }
        }
    }

    /// I6: no gap, and each line begins where the last one ended.
    fn chains(&self) {
        for (organization, (balance, last)) in &self.books.wallets {
            let lines = self.books.lines.get(organization).map(Vec::as_slice).unwrap_or_default();
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
    fn money(&self) {
        let mut refunds: HashMap<&str, i64> = HashMap::new();
        for line in self.books.lines.values().flatten().filter(|line| line.kind == "Refund") {
            *refunds.entry(line.call.as_deref().unwrap_or_default()).or_default() += line.amount;
        }
        for (call, amount) in refunds {
            let consume = self.consumes.get(call).map_or(0, |line| line.amount);
            assert!(amount <= consume, "P4, {call} got {amount} back of {consume}");
        }
        for paid in &self.site.paid {
            let lines = self.lines_named(&paid.name);
            match paid.answer {
                Some(200) => assert_eq!(lines.len(), 1, "paid once: {paid:?} {lines:?}"),
                Some(_) => assert!(lines.is_empty(), "a no that was done: {paid:?} {lines:?}"),
                None => assert!(lines.len() <= 1, "done twice: {paid:?} {lines:?}"),
            }
        }
        for place in self.site.places.iter().filter(|place| 0 < place.limit) {
            let lines = &self.books.lines[digits(&place.tenant.organization)];
            let unnamed =
                lines.iter().filter(|line| line.kind == "Recharge" && line.name.is_none());
            let at_first = if place.bites == Bites::Wallet { Bites::Wallet } else { Bites::Never };
            let amounts: Vec<i128> = unnamed.map(|line| line.amount.into()).collect();
            assert_eq!(amounts, [step(at_first)], "nobody else paid in");
        }
    }

    /// I1: what was forwarded was counted, and what was counted is within the limit in force.
    fn limits(&self) {
        for (at, place) in self.site.places.iter().enumerate() {
            let used = self.used(at);
            let own = |marker: &&u32| self.heard[*marker].ask.tenant == at;
            let forwarded = self.provided.iter().filter(own).count() as u64;
            let project = digits(&place.tenant.project);
            let logs: Vec<&Logged> =
                self.books.logs.iter().filter(|log| log.project == project).collect();
            let cost: i64 = logs.iter().map(|log| log.cost).sum();
            assert!(forwarded <= used.requests, "I1, {forwarded} forwarded, and only {used:?}");
            assert!(used.requests <= logs.len() as u64, "{used:?} of {} calls", logs.len());
            assert_eq!(used.spend, cost, "counted and charged: {used:?}");
            let limit = place.limit * i128::from(used.days.max(1));
            let counted = match place.bites {
                Bites::Never | Bites::Wallet => continue,
                Bites::Requests => i128::from(used.requests),
                Bites::Tokens => used.tokens.into(),
                Bites::Spend => used.spend.into(),
            };
            assert!(counted <= limit, "I1, {used:?} beyond {limit} {:?}", place.bites);
        }
    }

    /// At rest the running gateway tells what its books say, and holds nothing.
    async fn told(&self) {
        for (at, place) in self.site.places.iter().enumerate() {
            let wallet = place.tenant.wallet().await;
            let (balance, _) = self.books.wallets[digits(&place.tenant.organization)];
            assert_eq!(wallet.at("frozenAmount").nano(), 0, "I7, frozen at rest: {wallet}");
            assert_eq!(wallet.at("availableAmount").nano(), i128::from(balance), "{wallet}");
            let usage = place.tenant.usage().await.at("dailyUsage");
            let used = self.used(at);
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
