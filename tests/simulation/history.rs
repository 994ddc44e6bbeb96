//! Histories: sequences of steps that are determined by a seed.
//!
//! A step is an action and a random number generator. The numbers are interpreted when the step
//! runs, so a history remains valid when steps are removed.

/// The action of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A call arrives.
    Call,
    /// Several calls arrive.
    Burst,
    /// A call is forwarded.
    Forward,
    /// The upstream reports usage, or the gateway counts it.
    ReportUsage,
    /// The progress of a call is checkpointed.
    Checkpoint,
    /// A call ends.
    End,
    /// The buffered entries of a worker are written.
    Write,
    /// The projector applies part of the journal to the database.
    Project,
    /// Projected segments are removed.
    Sweep,
    /// Time passes.
    Tick,
    /// Time moves close to the next minute.
    NearMinuteEnd,
    /// Time moves close to midnight.
    NearMidnight,
    /// Days pass.
    Days,
    /// The wall clock steps back.
    ClockBack,
    /// The quota of a project or an organization is replaced.
    Quota,
    /// The limits of a key are replaced.
    KeyLimits,
    /// A wallet is deactivated or activated.
    ToggleWallet,
    /// A wallet is recharged.
    Recharge,
    /// Part of a call's cost is refunded.
    Refund,
    /// The status of limits is read.
    ReadStatus,
    /// A refusal is written to the journal.
    Refuse,
    /// The process is killed and restarted.
    Kill,
    /// The process is shut down in order and restarted.
    Shutdown,
}

/// Relative frequency of each action.
const WEIGHTS: &[(Action, u64)] = &[
    (Action::Call, 30),
    (Action::Burst, 9),
    (Action::Forward, 24),
    (Action::ReportUsage, 10),
    (Action::Checkpoint, 9),
    (Action::End, 28),
    (Action::Write, 26),
    (Action::Project, 9),
    (Action::Sweep, 2),
    (Action::Tick, 12),
    (Action::NearMinuteEnd, 6),
    (Action::NearMidnight, 4),
    (Action::Days, 3),
    (Action::ClockBack, 3),
    (Action::Quota, 7),
    (Action::KeyLimits, 3),
    (Action::ToggleWallet, 2),
    (Action::Recharge, 5),
    (Action::Refund, 3),
    (Action::ReadStatus, 6),
    (Action::Refuse, 1),
    (Action::Kill, 3),
    (Action::Shutdown, 1),
];

#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub action: Action,
    pub random: Random,
}

/// A reproducible random number generator.
#[derive(Debug, Clone, Copy)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }

    /// A number from `first` to `last`, inclusive.
    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        first + i64::try_from(self.below(last.abs_diff(first) + 1)).expect("a small number")
    }

    /// True in one of `cases` cases.
    pub fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }

    /// A random item.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A random index into a list of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index")
    }
}

/// The initial state and the steps.
#[derive(Debug, Clone)]
pub struct History {
    pub start: i64,
    /// The initial balance of each organization.
    pub money: i64,
    /// The limit of the projector's backlog.
    pub backlog_bytes_max: u64,
    pub steps: Vec<Step>,
}

/// 2024-02-26T23:00Z, shortly before a leap day and the end of a month.
const START_MS: i64 = 1_708_988_400_000;
const DAY_MS: i64 = 86_400_000;

pub fn history(seed: u64) -> History {
    let mut random = Random::new(seed.wrapping_mul(0xd134_2543_de82_ef95));
    let start = START_MS + random.between(0, 400) * DAY_MS + random.between(0, DAY_MS - 1);
    let money = random.pick(&[250, 900, 5_000, 50_000]);
    let backlog_bytes_max = random.pick(&[5_000, 100_000]);
    let mut steps: Vec<Step> = (0..random.between(60, 160)).map(|_| step(&mut random)).collect();
    if random.one_in(3) {
        // Rarely kill or project, so that much is in memory and in the journal.
        for step in &mut steps {
            let is_rare = matches!(step.action, Action::Kill | Action::Project | Action::Shutdown);
            if is_rare && !random.one_in(8) {
                step.action = random.pick(&[Action::Burst, Action::End, Action::Write]);
            }
        }
        steps.extend([Action::Write, Action::Kill].map(|action| Step { action, random }));
    }
    History { start, money, backlog_bytes_max, steps }
}

fn step(random: &mut Random) -> Step {
    let all = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut remaining = random.below(all);
    for (verb, weight) in WEIGHTS {
        if remaining < *weight {
            return Step { action: *verb, random: Random::new(random.below(u64::MAX)) };
        }
        remaining -= weight;
    }
    unreachable!("the weights are summed")
}
