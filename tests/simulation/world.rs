//! The world: a node, the model of it, and the time; and how a step is acted on both.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use meteor::accounting::permit::Permit;
use meteor::domain::ids::RequestLogId;
use meteor::domain::usage::{Unit, Usage};
use meteor::journal::entry::{CallHeader, Entry, Outcome, Refused};

use crate::calendar::{DAY_MS, MINUTE_MS, day_of, minute_of};
use crate::history::{Action, History, Random, Step};
use crate::model::{End, Model, ModelEntry, Owner};
use crate::node::{KEYS, Node, WORKERS};
use crate::price::{Bound, KnownUsage, TARIFFS};
use crate::{admission, check, edits, ledger};

/// How many entries one turn of a worker writes at most: they fit into a segment.
const WRITE_ENTRIES_MAX: usize = 12;

/// A call that was admitted and has not ended.
pub struct OpenCall {
    pub id: u64,
    pub worker: usize,
    pub tariff: usize,
    pub bound: Bound,
    pub known: KnownUsage,
    pub forwarded: bool,
    pub permit: Permit,
}

/// What happened, line by line, for whoever must find out why it went wrong.
pub type Trace = Rc<RefCell<String>>;

/// A node, what must be true of it, and the time.
pub struct World {
    pub node: Node,
    pub model: Model,
    pub open: Vec<OpenCall>,
    pub now: i64,
    pub next_id: u64,
    trace: Trace,
}

/// Acts a history. Whatever is not as the model says panics; `story` then tells what was done.
pub async fn run_history(history: &History, story: &Trace) {
    let mut world = World {
        node: Node::new(history.backlog_bytes_max).await,
        model: Model { keys: KEYS.to_vec(), ..Model::default() },
        open: Vec::new(),
        now: history.start,
        next_id: 1,
        trace: Rc::clone(story),
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

    /// Adds to the story.
    pub fn trace(&self, what: impl AsRef<str>) {
        let mut story = self.trace.borrow_mut();
        story.push(' ');
        story.push_str(what.as_ref());
    }

    async fn step(&mut self, Step { action: verb, random: mut dice }: Step) {
        let dice = &mut dice;
        match verb {
            Action::Call => admission::make_call(self, dice).await,
            Action::Burst => {
                for _ in 0..dice.between(2, 9) {
                    admission::make_call(self, dice).await;
                }
            }
            Action::Forward => self.forward(dice),
            Action::ReportUsage => self.report_usage(dice),
            Action::Checkpoint => self.checkpoint(dice),
            Action::End => self.end(dice),
            Action::Write => self.write(dice.index(usize::from(WORKERS))),
            Action::Project => self.project(dice).await,
            Action::Sweep => check::check_segment_cleanup(self),
            Action::Tick
            | Action::NearMinuteEnd
            | Action::NearMidnight
            | Action::Days
            | Action::ClockBack => {
                self.advance_clock(verb, dice);
            }
            Action::Quota => edits::quota(self, dice).await,
            Action::KeyLimits => edits::key_limits(self, dice).await,
            Action::ToggleWallet => edits::toggle_wallet(self, dice).await,
            Action::Recharge => {
                let organization = dice.pick(&[1, 1, 2]);
                edits::recharge(self, organization, dice.between(1, 900)).await;
            }
            Action::Refund => edits::refund(self, dice).await,
            Action::ReadStatus => check::check_reported(self, dice),
            Action::Refuse => self.refuse(dice),
            Action::Kill => self.kill(dice).await,
            Action::Shutdown => self.shut_down(dice).await,
        }
    }

    fn advance_clock(&mut self, verb: Action, dice: &mut Random) {
        let near = dice.between(-1, 1);
        self.now = match verb {
            Action::Tick => self.now + dice.between(1, 20_000),
            Action::NearMinuteEnd => (minute_of(self.now) + 1) * MINUTE_MS + near,
            Action::NearMidnight => (day_of(self.now) + 1) * DAY_MS + near,
            Action::Days => {
                let any = dice.between(1, 70);
                self.now + dice.pick(&[1, 1, 2, 27, 28, 29, 30, 30, 31, any]) * DAY_MS
            }
            _ => self.now - dice.pick(&[1, 30_000, 4_000_000, 2 * DAY_MS, 33 * DAY_MS]),
        };
    }

    fn forward(&mut self, dice: &mut Random) {
        let model = &self.model;
        let ready = |open: &OpenCall| !open.forwarded && model.is_held(open.id);
        let ready: Vec<usize> = (0..self.open.len()).filter(|at| ready(&self.open[*at])).collect();
        let most = if dice.one_in(3) { 1 } else { ready.len() };
        for at in ready.into_iter().take(most) {
            let open = &mut self.open[at];
            open.forwarded = true;
            (open.permit.trace.forwarded, open.permit.trace.attempts) = (true, 1);
            self.trace(format!("{}", self.open[at].id));
        }
    }

    /// A forwarded call, if there is one.
    fn forwarded(&self, dice: &mut Random) -> Option<usize> {
        let forwarded: Vec<usize> =
            (0..self.open.len()).filter(|at| self.open[*at].forwarded).collect();
        (!forwarded.is_empty()).then(|| dice.pick(&forwarded))
    }

    fn report_usage(&mut self, dice: &mut Random) {
        let Some(at) = self.forwarded(dice) else { return };
        random_usage(&mut self.open[at], dice);
        let line = format!("{} {:?}", self.open[at].id, self.open[at].known);
        self.trace(line);
    }

    fn checkpoint(&mut self, dice: &mut Random) {
        let Some(at) = self.forwarded(dice) else { return };
        let open = &self.open[at];
        // Where the journal is full, nothing is written down.
        if self.node.process().contexts[open.worker].writer.has_space() {
            open.permit.record_progress();
            let end = TARIFFS[open.tariff].charge(&open.known, open.bound);
            let (id, worker) = (open.id, open.worker);
            self.append(worker, ModelEntry::Checkpoint(id, end));
            self.trace(format!("{id} {end:?}"));
        }
    }

    fn end(&mut self, dice: &mut Random) {
        // Calls end about as often as they come, and mostly after they were forwarded.
        while !self.open.is_empty() {
            let any = dice.index(self.open.len());
            let at = if dice.one_in(5) { any } else { self.forwarded(dice).unwrap_or(any) };
            self.end_call(at, dice);
            if dice.one_in(2) {
                return;
            }
        }
    }

    /// Ends a call in one of all the ways in which calls end.
    fn end_call(&mut self, at: usize, dice: &mut Random) {
        let mut open = self.open.swap_remove(at);
        let way = dice.below(6);
        if open.forwarded && way < 3 {
            open.known.complete = true;
            random_usage(&mut open, dice);
        }
        let (counted, is_free) = (open.forwarded, way == 4 || way == 5);
        let end = if open.forwarded && !is_free {
            TARIFFS[open.tariff].charge(&open.known, open.bound)
        } else {
            End { counted, ..End::default() }
        };
        let OpenCall { id, worker, mut permit, .. } = open;
        match way {
            0..3 => drop(permit.settle(Outcome::Completed)),
            3 => drop(permit),
            4 => {
                permit.trace.is_free = true;
                permit.settle(Outcome::Failed);
            }
            _ => {
                // It waits for the journal, which is written later.
                let mut released = pin!(permit.release(Outcome::Failed));
                let polled = released.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "nothing is told before it is written");
            }
        }
        self.append(worker, ModelEntry::Ended(id, end));
        self.trace(format!("{id} way {way} {end:?}"));
    }

    /// Notes an entry of a worker's chain. As in the real one, a turn never brings many.
    pub fn append(&mut self, worker: usize, told: ModelEntry) {
        self.model.append(worker, told);
        let (told, written) = &self.model.chains[worker];
        if WRITE_ENTRIES_MAX <= told.len() - written {
            self.write(worker);
        }
    }

    fn write(&mut self, worker: usize) {
        let process = self.node.process();
        process.contexts[worker].writer.commit();
        process.journal.create_next_segments();
        let (told, written) = &mut self.model.chains[worker];
        *written = told.len();
        self.trace(format!("worker {worker}"));
    }

    async fn project(&mut self, dice: &mut Random) {
        let most = dice.pick(&[1, 3, 10, 1_000]);
        let commits = if dice.one_in(8) { dice.between(0, 1) } else { i64::MAX };
        self.trace(format!("{most}"));
        if self.node.project(most, commits).await.is_err() {
            self.trace("and died before the commit");
            return self.kill(dice).await;
        }
        if dice.one_in(12) {
            self.trace("and died after the commit");
            return self.kill(dice).await;
        }
        if dice.one_in(3) {
            ledger::check(self, false).await;
        }
    }

    fn refuse(&mut self, dice: &mut Random) {
        let (who, worker) = (dice.pick(&KEYS), dice.index(usize::from(WORKERS)));
        let id = self.next_id;
        self.next_id += 1;
        let asked = call_header(id, who, self.now);
        let refused = Refused { header: asked, status: 429, code: "x", count: 3 };
        self.node.process().contexts[worker].writer.append(&Entry::Refused(refused));
        self.append(worker, ModelEntry::Refused);
    }

    /// Kills the process wherever it is, and starts it again, though it may die on its way.
    async fn kill(&mut self, dice: &mut Random) {
        let mut kept = Vec::new();
        for worker in 0..usize::from(WORKERS) {
            let (told, written) = &self.model.chains[worker];
            let mut whole = *written;
            if whole < told.len() && dice.one_in(2) {
                whole += self.node.write_torn(worker, |length| dice.index(length + 1));
            }
            kept.push(whole);
        }
        self.trace(format!("of each chain remain {kept:?}"));
        self.open.clear();
        self.node.kill().await;
        while dice.one_in(4) {
            self.now += dice.between(-100_000, 100_000);
            let commits = dice.between(0, 6);
            if self.node.start(self.now, commits).await.is_ok() {
                self.node.exited();
            } else {
                self.trace(format!("and died with {commits} commits of recovery"));
            }
        }
        self.begin(dice).await;
        self.model.crash(&kept, self.now);
        ledger::check(self, true).await;
    }

    /// Ends every call, writes and projects all of it, and starts anew.
    async fn shut_down(&mut self, dice: &mut Random) {
        while !self.open.is_empty() {
            self.end_call(0, dice);
        }
        (0..usize::from(WORKERS)).for_each(|worker| self.write(worker));
        while self.node.process().journal.backlog_bytes() != 0 {
            self.node.project(8, i64::MAX).await.expect("projected");
        }
        ledger::check(self, true).await;
        self.node.exited();
        let kept: Vec<usize> = self.model.chains.iter().map(|(told, _)| told.len()).collect();
        self.begin(dice).await;
        self.model.crash(&kept, self.now);
    }

    async fn begin(&mut self, dice: &mut Random) {
        self.now += dice.between(0, 5);
        self.node.start(self.now, i64::MAX).await.expect("started");
        self.model.chains.resize(usize::from(WORKERS), (Vec::new(), 0));
        for subject in self.model.subjects() {
            self.model.latest_times.entry(subject).or_insert(self.now);
        }
    }
}

/// Owner asked, for an entry.
pub fn call_header(id: u64, who: Owner, at: i64) -> CallHeader<&'static str> {
    CallHeader {
        id: RequestLogId(u128::from(id)),
        at: meteor::domain::time::UnixMs(at),
        organization: meteor::domain::ids::OrganizationId(u128::from(who.organization)),
        project: meteor::domain::ids::ProjectId(u128::from(who.project)),
        key: meteor::domain::ids::ApiKeyId(u128::from(who.key)),
        endpoint: "chat.completions",
        dialect: "openai",
        model: "m0",
        stream: false,
        address: std::net::IpAddr::from([127, 0, 0, 1]),
    }
}

/// An upstream reports, or the gateway counts; at times more than the call was to use.
fn random_usage(open: &mut OpenCall, dice: &mut Random) {
    let beyond = if dice.one_in(4) { 40 } else { 0 };
    if open.known.complete || dice.one_in(2) {
        let input = dice.between(0, open.bound.input + beyond);
        let cached = dice.between(0, input);
        open.known.reported = Some([input, cached, dice.between(0, open.bound.output + beyond)]);
    } else {
        open.known.counted_output += dice.between(0, 12);
    }
    if dice.one_in(12) {
        open.known.reported = None;
    }
    let measured = &mut open.permit.measured;
    measured.complete = open.known.complete;
    measured.counted_output = open.known.counted_output.unsigned_abs();
    measured.reported = open.known.reported.map(|[input, cached, output]| {
        Usage::from_tokens(input.unsigned_abs(), output.unsigned_abs())
            .with(Unit::CachedInputTokens, cached.unsigned_abs())
    });
}
