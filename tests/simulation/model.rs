//! What must be true, said in the plainest way: a list of calls, a list of payments, and sums.
//!
//! Nothing here names the crate under test: windows, prices and sums are written a second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::calendar::{DAY_MS, MINUTE_MS, day_of, minute_of, month_of};

/// A project, a key or an organization, by a number of its own.
pub type Subject = u64;

/// Owner calls.
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

/// What is counted: requests, tokens, nano-units.
pub type Sums = [i64; 3];

const REQUESTS: usize = 0;
const TOKENS: usize = 1;
const MONEY: usize = 2;

/// Over which stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Minute,
    Day,
    Month,
    Now,
}

/// The limits that there are, as the documentation lists them.
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

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    pub counted: bool,
    pub charged: bool,
    pub tokens: i64,
    pub money: i64,
    pub overage: bool,
}

/// A call that was admitted.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub id: u64,
    pub owner: Owner,
    /// The moment that decides its windows.
    pub at: i64,
    pub tokens: i64,
    pub money: i64,
    pub end: Option<End>,
}

/// What a chain of the journal was told.
#[derive(Debug, Clone, Copy)]
pub enum ModelEntry {
    Held(u64),
    Checkpoint(u64, End),
    Ended(u64, End),
    Refused,
}

/// What stands in the way of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// That limit of that subject, and what is used and held of it.
    Limit { subject: Subject, rule: usize, used: i64, held: i64 },
    /// The wallet is switched off.
    WalletInactive,
    /// The wallet does not cover it.
    InsufficientFunds,
}

/// Used and held of one subject, in its running windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageStatus {
    pub minute: [Sums; 2],
    pub day: [Sums; 2],
    pub month: [Sums; 2],
    pub open: i64,
}

/// Everything that was told, and nothing else.
#[derive(Debug, Default)]
pub struct Model {
    pub calls: Vec<Call>,
    /// Organization, amount, and the call that is refunded.
    pub payments: Vec<(Subject, i64, Option<u64>)>,
    pub quotas: BTreeMap<Subject, Quota>,
    pub keys: Vec<Owner>,
    pub inactive_wallets: BTreeSet<Subject>,
    /// The latest moment that each has seen.
    pub latest_times: BTreeMap<Subject, i64>,
    /// What was told to each chain of this run, and how much of it is written.
    pub chains: Vec<(Vec<ModelEntry>, usize)>,
}

impl Model {
    pub fn subjects(&self) -> BTreeSet<Subject> {
        self.keys.iter().flat_map(|who| who.all()).collect()
    }

    pub fn call(&mut self, id: u64) -> &mut Call {
        self.calls.iter_mut().rev().find(|call| call.id == id).expect("a call that was admitted")
    }

    /// A key's month, and whether its limits are enforced, are its project's.
    pub fn quota(&self, subject: Subject) -> Quota {
        let own = self.quotas.get(&subject).copied().unwrap_or_default();
        match self.keys.iter().find(|who| who.key == subject) {
            Some(who) => Quota { limits: own.limits, ..self.quota(who.project) },
            None => own,
        }
    }

    /// Time never goes back for whoever has seen it.
    pub fn advance_time(&mut self, subjects: &[Subject], now: i64) -> i64 {
        let latest = subjects.iter().filter_map(|subject| self.latest_times.get(subject)).max();
        let at = latest.map_or(now, |latest| now.max(*latest));
        self.latest_times.extend(subjects.iter().map(|subject| (*subject, at)));
        at
    }

    /// Where the subject stands at the latest moment that it has seen.
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

    /// Used and held under a rule.
    pub fn used_and_held(standing: &UsageStatus, rule: usize) -> [i64; 2] {
        let (span, measure) = RULES[rule];
        match span {
            Span::Minute => standing.minute.map(|sums| sums[measure]),
            Span::Day => standing.day.map(|sums| sums[measure]),
            Span::Month => standing.month.map(|sums| sums[measure]),
            Span::Now => [0, standing.open],
        }
    }

    /// All that keeps a call from being admitted now.
    pub fn obstacles(&self, who: Owner, tokens: i64, money: i64) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for subject in who.all() {
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
        if self.inactive_wallets.contains(&who.organization) {
            found.push(Obstacle::WalletInactive);
        } else if money != 0
            && self.balance(who.organization) < self.held_amount(who.organization) + money
        {
            found.push(Obstacle::InsufficientFunds);
        }
        found
    }

    fn calls_of(&self, organization: Subject) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.owner.organization == organization)
    }

    pub fn paid_in(&self, organization: Subject) -> i64 {
        self.payments.iter().filter(|paid| paid.0 == organization).map(|paid| paid.1).sum()
    }

    /// What was paid in, without what calls cost.
    pub fn balance(&self, organization: Subject) -> i64 {
        let cost = |call: &Call| call.end.map_or(0, |end| end.money);
        self.paid_in(organization) - self.calls_of(organization).map(cost).sum::<i64>()
    }

    /// What open calls hold.
    pub fn held_amount(&self, organization: Subject) -> i64 {
        self.calls_of(organization).filter(|call| call.end.is_none()).map(|call| call.money).sum()
    }

    /// Notes an entry of a chain, and what it does.
    pub fn append(&mut self, chain: usize, told: ModelEntry) {
        if let ModelEntry::Ended(id, end) = told {
            self.call(id).end = Some(end);
        }
        self.chains[chain].0.push(told);
    }

    /// Whether that call's hold is written: it may be forwarded.
    pub fn is_held(&self, id: u64) -> bool {
        let written = self.chains.iter().flat_map(|(told, written)| &told[..*written]);
        written.into_iter().any(|told| matches!(told, ModelEntry::Held(held) if *held == id))
    }

    /// The process dies at `now`, and begins anew: of each chain so many entries remain.
    ///
    /// A call whose end was written has ended so. One that was open ends by its last progress, or
    /// for nothing, and counts as a request. One whose hold was not written never was.
    pub fn crash(&mut self, kept: &[usize], now: i64) {
        let mut lives: BTreeSet<u64> = BTreeSet::new();
        let mut ends: BTreeMap<u64, End> = BTreeMap::new();
        let lost = End { counted: true, ..End::default() };
        for ((told, _), kept) in self.chains.iter().zip(kept) {
            for told in &told[..*kept] {
                match *told {
                    ModelEntry::Held(id) => lives.extend([id]),
                    ModelEntry::Checkpoint(id, end) | ModelEntry::Ended(id, end) => {
                        ends.insert(id, end);
                    }
                    ModelEntry::Refused => {}
                }
            }
        }
        let held = self.chains.iter().flat_map(|(told, _)| told.iter());
        let of_this_run: BTreeSet<u64> = held
            .filter_map(|told| if let ModelEntry::Held(id) = told { Some(*id) } else { None })
            .collect();
        self.calls.retain(|call| !of_this_run.contains(&call.id) || lives.contains(&call.id));
        for call in self.calls.iter_mut().filter(|call| of_this_run.contains(&call.id)) {
            call.end = Some(ends.get(&call.id).copied().unwrap_or(lost));
        }
        self.chains.iter_mut().for_each(|chain| *chain = (Vec::new(), 0));
        for subject in self.subjects() {
            let own = self.calls.iter().filter(|call| call.owner.all().contains(&subject));
            let latest = own.map(|call| minute_of(call.at) * MINUTE_MS).max();
            self.latest_times.insert(subject, latest.map_or(now, |latest| latest.max(now)));
        }
    }

    /// What the subject used on each day, and in the latest minute of any call, over calls that
    /// have ended and that `counts` names.
    pub fn usage(
        &self,
        subject: Subject,
        counts: &BTreeSet<u64>,
    ) -> (BTreeMap<i64, Sums>, Option<(i64, Sums)>) {
        let mut days: BTreeMap<i64, Sums> = BTreeMap::new();
        let mut minutes: BTreeMap<i64, Sums> = BTreeMap::new();
        let own = self.calls.iter().filter(|call| call.owner.all().contains(&subject));
        for call in own.filter(|call| counts.contains(&call.id)) {
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
