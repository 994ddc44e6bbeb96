//! The model: a list of calls, a list of payments, and sums over them.
//!
//! Nothing in this file names the crate under test; windows, prices and sums are implemented a
//! second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::calendar::{DAY_MS, MINUTE_MS, day_of, minute_of, month_of};

/// The number of a project, key or organization.
pub type Subject = u64;

/// The project, key and organization of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub organization: Subject,
    pub project: Subject,
    pub key: Subject,
}

impl Owner {
    pub fn all(self) -> [Subject; 3] {
        [self.project, self.key, self.organization]
    }
}

/// Requests, tokens, nano-units.
pub type Sums = [i64; 3];

const REQUESTS: usize = 0;
const TOKENS: usize = 1;
const MONEY: usize = 2;

/// The window of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Minute,
    Day,
    Month,
    Now,
}

/// All limits, in the order of the documentation.
pub const RULES: [(Span, usize); 9] = [
    (Span::Day, REQUESTS),
    (Span::Day, TOKENS),
    (Span::Month, REQUESTS),
    (Span::Month, TOKENS),
    (Span::Minute, REQUESTS),
    (Span::Minute, TOKENS),
    (Span::Now, REQUESTS),
    (Span::Day, MONEY),
    (Span::Month, MONEY),
];

/// The limits of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub limits: [Option<i64>; 9],
    pub enforce: bool,
    pub reset_day: i64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { limits: [None; 9], enforce: true, reset_day: 1 }
    }
}

/// How a call is counted and charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    pub counted: bool,
    pub charged: bool,
    pub tokens: i64,
    pub money: i64,
    pub overage: bool,
}

/// An admitted call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub id: u64,
    pub owner: Owner,
    /// The time that determines its windows.
    pub at: i64,
    pub tokens: i64,
    pub money: i64,
    pub end: Option<End>,
}

/// An entry in a chain of the journal.
#[derive(Debug, Clone, Copy)]
pub enum ModelEntry {
    Held(u64),
    Checkpoint(u64, End),
    Ended(u64, End),
    Refused,
}

/// A reason for which a call cannot be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// This limit of this subject, with its used and held amounts.
    Limit { subject: Subject, rule: usize, used: i64, held: i64 },
    /// The wallet is inactive.
    WalletInactive,
    /// The wallet does not cover the call.
    InsufficientFunds,
}

/// Used and held amounts of a subject in the current windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageStatus {
    pub minute: [Sums; 2],
    pub day: [Sums; 2],
    pub month: [Sums; 2],
    pub open: i64,
}

/// Everything that was written to the node.
#[derive(Debug, Default)]
pub struct Model {
    pub calls: Vec<Call>,
    /// Organization, amount, and the refunded call.
    pub payments: Vec<(Subject, i64, Option<u64>)>,
    pub quotas: BTreeMap<Subject, Quota>,
    pub keys: Vec<Owner>,
    pub inactive_wallets: BTreeSet<Subject>,
    /// The latest time observed by each subject.
    pub latest_times: BTreeMap<Subject, i64>,
    /// The entries of each chain in this run, and how many of them are written.
    pub chains: Vec<(Vec<ModelEntry>, usize)>,
}

impl Model {
    pub fn subjects(&self) -> BTreeSet<Subject> {
        self.keys.iter().flat_map(|owner| owner.all()).collect()
    }

    pub fn call(&mut self, id: u64) -> &mut Call {
        self.calls.iter_mut().rev().find(|call| call.id == id).expect("a call that was admitted")
    }

    /// A key takes the reset day and the enforcement flag from its project.
    pub fn quota(&self, subject: Subject) -> Quota {
        let calls = self.quotas.get(&subject).copied().unwrap_or_default();
        match self.keys.iter().find(|owner| owner.key == subject) {
            Some(owner) => Quota { limits: calls.limits, ..self.quota(owner.project) },
            None => calls,
        }
    }

    /// Advances the time of these subjects; time never goes back for a subject.
    pub fn advance_time(&mut self, subjects: &[Subject], now: i64) -> i64 {
        let latest = subjects.iter().filter_map(|subject| self.latest_times.get(subject)).max();
        let at = latest.map_or(now, |latest| now.max(*latest));
        self.latest_times.extend(subjects.iter().map(|subject| (*subject, at)));
        at
    }

    /// The status of a subject at its latest time.
    pub fn usage_status(&self, subject: Subject) -> UsageStatus {
        let at = self.latest_times[&subject];
        let (first, end) = month_of(day_of(at), self.quota(subject).reset_day);
        let mut standing = UsageStatus::default();
        for call in self.calls.iter().filter(|call| call.owner.all().contains(&subject)) {
            let (side, sums) = match call.end {
                None => (1, [1, call.tokens, call.money]),
                Some(end) => (0, [i64::from(end.counted), end.tokens, end.money]),
            };
            standing.open += i64::from(call.end.is_none());
            let spans = [
                (minute_of(call.at) == minute_of(at), &mut standing.minute),
                (day_of(call.at) == day_of(at), &mut standing.day),
                (first <= day_of(call.at) && day_of(call.at) < end, &mut standing.month),
            ];
            for (_, span) in spans.into_iter().filter(|(holds, _)| *holds) {
                (0..3).for_each(|measure| span[side][measure] += sums[measure]);
            }
        }
        standing
    }

    /// Used and held amounts under a limit.
    pub fn used_and_held(standing: &UsageStatus, rule: usize) -> [i64; 2] {
        let (span, measure) = RULES[rule];
        match span {
            Span::Minute => standing.minute.map(|sums| sums[measure]),
            Span::Day => standing.day.map(|sums| sums[measure]),
            Span::Month => standing.month.map(|sums| sums[measure]),
            Span::Now => [0, standing.open],
        }
    }

    /// All reasons for which a call cannot be admitted now.
    pub fn obstacles(&self, owner: Owner, tokens: i64, money: i64) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for subject in owner.all() {
            let quota = self.quota(subject);
            if !quota.enforce || quota.limits == [None; 9] {
                continue;
            }
            let standing = self.usage_status(subject);
            for (rule, limit) in quota.limits.into_iter().enumerate() {
                let [used, held] = Self::used_and_held(&standing, rule);
                let needed = [1, tokens, money][RULES[rule].1];
                if limit.is_some_and(|limit| limit < used + held + needed) {
                    found.push(Obstacle::Limit { subject, rule, used, held });
                }
            }
        }
        if self.inactive_wallets.contains(&owner.organization) {
            found.push(Obstacle::WalletInactive);
        } else if money != 0
            && self.balance(owner.organization) < self.held_amount(owner.organization) + money
        {
            found.push(Obstacle::InsufficientFunds);
        }
        found
    }

    fn calls_of(&self, organization: Subject) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.owner.organization == organization)
    }

    pub fn paid_in(&self, organization: Subject) -> i64 {
        self.payments
            .iter()
            .filter(|payment| payment.0 == organization)
            .map(|payment| payment.1)
            .sum()
    }

    /// Payments minus the cost of calls.
    pub fn balance(&self, organization: Subject) -> i64 {
        let cost = |call: &Call| call.end.map_or(0, |end| end.money);
        self.paid_in(organization) - self.calls_of(organization).map(cost).sum::<i64>()
    }

    /// The amount that open calls hold.
    pub fn held_amount(&self, organization: Subject) -> i64 {
        self.calls_of(organization).filter(|call| call.end.is_none()).map(|call| call.money).sum()
    }

    /// Appends an entry to a chain and applies it.
    pub fn append(&mut self, chain: usize, entry: ModelEntry) {
        if let ModelEntry::Ended(id, end) = entry {
            self.call(id).end = Some(end);
        }
        self.chains[chain].0.push(entry);
    }

    /// True if the hold of this call is written, so that it may be forwarded.
    pub fn is_held(&self, id: u64) -> bool {
        let written = self.chains.iter().flat_map(|(entries, written)| &entries[..*written]);
        written.into_iter().any(|entry| matches!(entry, ModelEntry::Held(held) if *held == id))
    }

    /// The process dies and restarts at `now`; the first `surviving` entries of each chain remain.
    ///
    /// A call whose end was written has ended. An open call is charged by its last checkpoint, or
    /// nothing, and counts as a request. A call whose hold was not written never existed.
    pub fn crash(&mut self, surviving: &[usize], now: i64) {
        let mut surviving_holds: BTreeSet<u64> = BTreeSet::new();
        let mut ends: BTreeMap<u64, End> = BTreeMap::new();
        let lost = End { counted: true, ..End::default() };
        for ((entries, _), surviving) in self.chains.iter().zip(surviving) {
            for entry in &entries[..*surviving] {
                match *entry {
                    ModelEntry::Held(id) => surviving_holds.extend([id]),
                    ModelEntry::Checkpoint(id, end) | ModelEntry::Ended(id, end) => {
                        ends.insert(id, end);
                    }
                    ModelEntry::Refused => {}
                }
            }
        }
        let held = self.chains.iter().flat_map(|(entries, _)| entries.iter());
        let of_this_run: BTreeSet<u64> = held
            .filter_map(|entry| if let ModelEntry::Held(id) = entry { Some(*id) } else { None })
            .collect();
        self.calls
            .retain(|call| !of_this_run.contains(&call.id) || surviving_holds.contains(&call.id));
        for call in self.calls.iter_mut().filter(|call| of_this_run.contains(&call.id)) {
            call.end = Some(ends.get(&call.id).copied().unwrap_or(lost));
        }
        self.chains.iter_mut().for_each(|chain| *chain = (Vec::new(), 0));
        for subject in self.subjects() {
            let calls = self.calls.iter().filter(|call| call.owner.all().contains(&subject));
            let latest = calls.map(|call| minute_of(call.at) * MINUTE_MS).max();
            self.latest_times.insert(subject, latest.map_or(now, |latest| latest.max(now)));
        }
    }

    /// Usage of the subject per day and in the latest minute, over the ended calls in `counts`.
    pub fn usage(
        &self,
        subject: Subject,
        counts: &BTreeSet<u64>,
    ) -> (BTreeMap<i64, Sums>, Option<(i64, Sums)>) {
        let mut days: BTreeMap<i64, Sums> = BTreeMap::new();
        let mut minutes: BTreeMap<i64, Sums> = BTreeMap::new();
        let calls = self.calls.iter().filter(|call| call.owner.all().contains(&subject));
        for call in calls.filter(|call| counts.contains(&call.id)) {
            let end = call.end.unwrap_or_default();
            let sums = [i64::from(end.counted), end.tokens, end.money];
            let day = days.entry(call.at.div_euclid(DAY_MS)).or_default();
            let minute = minutes.entry(minute_of(call.at)).or_default();
            for measure in 0..3 {
                day[measure] += sums[measure];
                minute[measure] += sums[measure];
            }
        }
        (days, minutes.into_iter().next_back())
    }
}
