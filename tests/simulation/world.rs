//! The simulated world: a node, its model and the time; runs each step on both.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use meteor::accounting::permit::Permit;
use meteor::domain::ids::RequestLogId;
use meteor::domain::status::Outcome;
use meteor::domain::usage::{Unit, Usage};
use meteor::journal::entry::{CallHeader, Entry, Refused};

use crate::calendar::{DAY_MS, MINUTE_MS, day_of, minute_of};
use crate::history::{Action, History, Random, Step};
use crate::model::{End, Model, ModelEntry, Owner};
use crate::node::{KEYS, Node, WORKERS};
use crate::price::{Bound, KnownUsage, TARIFFS};
use crate::{admission, check, edits, ledger};

/// The most entries that a worker writes at a time; they fit into a segment.
const WRITE_ENTRIES_MAX: usize = 12;

/// An admitted call that has not ended.
pub struct OpenCall {
    pub id: u64,
    pub worker: usize,
    pub tariff: usize,
    pub bound: Bound,
    pub usage: KnownUsage,
    pub forwarded: bool,
    pub permit: Permit,
}

/// A readable record of the steps, for analysis of failures.
pub type Trace = Rc<RefCell<String>>;

/// A node, its model, and the time.
pub struct World {
    pub node: Node,
    pub model: Model,
    pub open: Vec<OpenCall>,
    pub now: i64,
    pub next_id: u64,
    trace: Trace,
}

/// Runs a history. Panics on any difference from the model; `trace` then contains the steps.
pub async fn run_history(history: &History, trace: &Trace) {
    let mut world = World {
        node: Node::new(history.backlog_bytes_max).await,
        model: Model { keys: KEYS.to_vec(), ..Model::default() },
        open: Vec::new(),
        now: history.start,
        next_id: 1,
        trace: Rc::clone(trace),
    };
    world.run(history).await;
}

impl World {
    async fn run(&mut self, history: &History) {
        self.begin(&mut Random::new(0)).await;
        for organization in [1, 2] {
            edits::recharge(self, organization, history.money).await;
        }
        for step in &history.steps {
            self.trace(format!("\n{:>6} {:?}:", self.now - history.start, step.action));
            self.step(*step).await;
            check::check_memory(self);
        }
        self.shut_down(&mut Random::new(0)).await;
        check::check_memory(self);
        ledger::check(self, true).await;
    }

    /// Appends to the trace.
    pub fn trace(&self, what: impl AsRef<str>) {
        let mut trace = self.trace.borrow_mut();
        trace.push(' ');
        trace.push_str(what.as_ref());
    }

    async fn step(&mut self, Step { action: verb, mut random }: Step) {
        let random = &mut random;
        match verb {
            Action::Call => admission::make_call(self, random).await,
            Action::Burst => {
                for _ in 0..random.between(2, 9) {
                    admission::make_call(self, random).await;
                }
            }
            Action::Forward => self.forward(random),
            Action::ReportUsage => self.report_usage(random),
            Action::Checkpoint => self.checkpoint(random),
            Action::End => self.end(random),
            Action::Write => self.write(random.index(usize::from(WORKERS))),
            Action::Project => self.project(random).await,
            Action::Sweep => check::check_segment_cleanup(self),
            Action::Tick
            | Action::NearMinuteEnd
            | Action::NearMidnight
            | Action::Days
            | Action::ClockBack => {
                self.advance_clock(verb, random);
            }
            Action::Quota => edits::quota(self, random).await,
            Action::KeyLimits => edits::key_limits(self, random).await,
            Action::ToggleWallet => edits::toggle_wallet(self, random).await,
            Action::Recharge => {
                let organization = random.pick(&[1, 1, 2]);
                edits::recharge(self, organization, random.between(1, 900)).await;
            }
            Action::Refund => edits::refund(self, random).await,
            Action::ReadStatus => check::check_reported(self, random),
            Action::Refuse => self.refuse(random),
            Action::Kill => self.kill(random).await,
            Action::Shutdown => self.shut_down(random).await,
        }
    }

    fn advance_clock(&mut self, verb: Action, random: &mut Random) {
        let near = random.between(-1, 1);
        self.now = match verb {
            Action::Tick => self.now + random.between(1, 20_000),
            Action::NearMinuteEnd => (minute_of(self.now) + 1) * MINUTE_MS + near,
            Action::NearMidnight => (day_of(self.now) + 1) * DAY_MS + near,
            Action::Days => {
                let any = random.between(1, 70);
                self.now + random.pick(&[1, 1, 2, 27, 28, 29, 30, 30, 31, any]) * DAY_MS
            }
            _ => self.now - random.pick(&[1, 30_000, 4_000_000, 2 * DAY_MS, 33 * DAY_MS]),
        };
    }

    fn forward(&mut self, random: &mut Random) {
        let model = &self.model;
        let ready = |open: &OpenCall| !open.forwarded && model.is_held(open.id);
        let ready: Vec<usize> = (0..self.open.len()).filter(|at| ready(&self.open[*at])).collect();
        let max = if random.one_in(3) { 1 } else { ready.len() };
        for at in ready.into_iter().take(max) {
            let open = &mut self.open[at];
            open.forwarded = true;
            (open.permit.trace.forwarded, open.permit.trace.attempts) = (true, 1);
            self.trace(format!("{}", self.open[at].id));
        }
    }

    /// The index of a random forwarded call.
    fn forwarded(&self, random: &mut Random) -> Option<usize> {
        let forwarded: Vec<usize> =
            (0..self.open.len()).filter(|at| self.open[*at].forwarded).collect();
        (!forwarded.is_empty()).then(|| random.pick(&forwarded))
    }

    fn report_usage(&mut self, random: &mut Random) {
        let Some(at) = self.forwarded(random) else { return };
        random_usage(&mut self.open[at], random);
        let line = format!("{} {:?}", self.open[at].id, self.open[at].usage);
        self.trace(line);
    }

    fn checkpoint(&mut self, random: &mut Random) {
        let Some(at) = self.forwarded(random) else { return };
        let open = &self.open[at];
        // A full journal takes no checkpoints.
        if self.node.process().contexts[open.worker].writer.has_space() {
            open.permit.record_progress();
            let end = TARIFFS[open.tariff].charge(&open.usage, open.bound);
            let (id, worker) = (open.id, open.worker);
            self.append(worker, ModelEntry::Checkpoint(id, end));
            self.trace(format!("{id} {end:?}"));
        }
    }

    fn end(&mut self, random: &mut Random) {
        // Calls end about as often as they arrive, and mostly after they were forwarded.
        while !self.open.is_empty() {
            let any = random.index(self.open.len());
            let at = if random.one_in(5) { any } else { self.forwarded(random).unwrap_or(any) };
            self.end_call(at, random);
            if random.one_in(2) {
                return;
            }
        }
    }

    /// Ends a call in a random way.
    fn end_call(&mut self, at: usize, random: &mut Random) {
        let mut open = self.open.swap_remove(at);
        let ending = random.below(6);
        if open.forwarded && ending < 3 {
            open.usage.complete = true;
            random_usage(&mut open, random);
        }
        let (counted, is_free) = (open.forwarded, ending == 4 || ending == 5);
        let end = if open.forwarded && !is_free {
            TARIFFS[open.tariff].charge(&open.usage, open.bound)
        } else {
            End { counted, ..End::default() }
        };
        let OpenCall { id, worker, mut permit, .. } = open;
        match ending {
            0..3 => drop(permit.settle(Outcome::Completed)),
            3 => drop(permit),
            4 => {
                permit.trace.is_free = true;
                permit.settle(Outcome::Failed);
            }
            _ => {
                // The release waits for the journal, which is written later.
                let mut released = pin!(permit.release(Outcome::Failed));
                let polled = released.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "the release waits until its entry is written");
            }
        }
        self.append(worker, ModelEntry::Ended(id, end));
        self.trace(format!("{id} ending {ending} {end:?}"));
    }

    /// Appends an entry to a worker's chain. Like the real worker, writes before too many are
    /// buffered.
    pub fn append(&mut self, worker: usize, entry: ModelEntry) {
        self.model.append(worker, entry);
        let (entries, written) = &self.model.chains[worker];
        if WRITE_ENTRIES_MAX <= entries.len() - written {
            self.write(worker);
        }
    }

    fn write(&mut self, worker: usize) {
        let process = self.node.process();
        process.contexts[worker].writer.commit();
        process.journal.create_next_segments();
        let (entries, written) = &mut self.model.chains[worker];
        *written = entries.len();
        self.trace(format!("worker {worker}"));
    }

    async fn project(&mut self, random: &mut Random) {
        let max = random.pick(&[1, 3, 10, 1_000]);
        let commits = if random.one_in(8) { random.between(0, 1) } else { i64::MAX };
        self.trace(format!("{max}"));
        if self.node.project(max, commits).await.is_err() {
            self.trace("and died before the commit");
            return self.kill(random).await;
        }
        if random.one_in(12) {
            self.trace("and died after the commit");
            return self.kill(random).await;
        }
        if random.one_in(3) {
            ledger::check(self, false).await;
        }
    }

    fn refuse(&mut self, random: &mut Random) {
        let (owner, worker) = (random.pick(&KEYS), random.index(usize::from(WORKERS)));
        let id = self.next_id;
        self.next_id += 1;
        let header = call_header(id, owner, self.now);
        let refused = Refused { header, status: 429, code: "x", count: 3 };
        self.node.process().contexts[worker].writer.append(&Entry::Refused(refused));
        self.append(worker, ModelEntry::Refused);
    }

    /// Kills the process at its current point and restarts it; it may die again during recovery.
    async fn kill(&mut self, random: &mut Random) {
        let mut surviving = Vec::new();
        for worker in 0..usize::from(WORKERS) {
            let (entries, written) = &self.model.chains[worker];
            let mut written_entries = *written;
            if written_entries < entries.len() && random.one_in(2) {
                written_entries += self.node.write_torn(worker, |length| random.index(length + 1));
            }
            surviving.push(written_entries);
        }
        self.trace(format!("of each chain remain {surviving:?}"));
        self.open.clear();
        self.node.kill().await;
        while random.one_in(4) {
            self.now += random.between(-100_000, 100_000);
            let commits = random.between(0, 6);
            if self.node.start(self.now, commits).await.is_ok() {
                self.node.exited();
            } else {
                self.trace(format!("and died with {commits} commits of recovery"));
            }
        }
        self.begin(random).await;
        self.model.crash(&surviving, self.now);
        ledger::check(self, true).await;
    }

    /// Ends every call, writes and projects everything, and restarts.
    async fn shut_down(&mut self, random: &mut Random) {
        while !self.open.is_empty() {
            self.end_call(0, random);
        }
        (0..usize::from(WORKERS)).for_each(|worker| self.write(worker));
        while self.node.process().journal.backlog_bytes() != 0 {
            self.node.project(8, i64::MAX).await.expect("projected");
        }
        ledger::check(self, true).await;
        self.node.exited();
        let surviving: Vec<usize> =
            self.model.chains.iter().map(|(entries, _)| entries.len()).collect();
        self.begin(random).await;
        self.model.crash(&surviving, self.now);
    }

    async fn begin(&mut self, random: &mut Random) {
        self.now += random.between(0, 5);
        self.node.start(self.now, i64::MAX).await.expect("started");
        self.model.chains.resize(usize::from(WORKERS), (Vec::new(), 0));
        for subject in self.model.subjects() {
            self.model.latest_times.entry(subject).or_insert(self.now);
        }
    }
}

/// The call header of a journal entry.
pub fn call_header(id: u64, owner: Owner, at: i64) -> CallHeader<&'static str> {
    CallHeader {
        id: RequestLogId(u128::from(id)),
        at: meteor::domain::time::UnixMs(at),
        organization: meteor::domain::ids::OrganizationId(u128::from(owner.organization)),
        project: meteor::domain::ids::ProjectId(u128::from(owner.project)),
        key: meteor::domain::ids::ApiKeyId(u128::from(owner.key)),
        endpoint: "chat.completions",
        dialect: "openai",
        model: "m0",
        stream: false,
        address: std::net::IpAddr::from([127, 0, 0, 1]),
    }
}

/// Reports or counts random usage, at times beyond the bound of the call.
fn random_usage(open: &mut OpenCall, random: &mut Random) {
    let beyond = if random.one_in(4) { 40 } else { 0 };
    if open.usage.complete || random.one_in(2) {
        let input = random.between(0, open.bound.input + beyond);
        let cached = random.between(0, input);
        open.usage.reported = Some([input, cached, random.between(0, open.bound.output + beyond)]);
    } else {
        open.usage.counted_output += random.between(0, 12);
    }
    if random.one_in(12) {
        open.usage.reported = None;
    }
    let measured = &mut open.permit.measured;
    measured.complete = open.usage.complete;
    measured.counted_output = open.usage.counted_output.unsigned_abs();
    measured.reported = open.usage.reported.map(|[input, cached, output]| {
        Usage::from_tokens(input.unsigned_abs(), output.unsigned_abs())
            .with(Unit::CachedInputTokens, cached.unsigned_abs())
    });
}
