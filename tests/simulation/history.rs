//! Histories: what happens in which order, made of a seed and of nothing else.
//!
//! A step is a verb and dice. What the dice mean is decided when it is acted, by what there is then:
//! so a history from which steps were taken out is still a history.

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A call comes.
    Call,
    /// Several calls come at once.
    Burst,
    /// A call is given to an upstream.
    Forward,
    /// An upstream says, or the gateway counts, what a call has used.
    ReportUsage,
    /// What a call has cost so far is written down.
    Checkpoint,
    /// A call ends.
    End,
    /// A worker's entries are written.
    Write,
    /// A stretch of the journal is brought into the database.
    Project,
    /// Old segments are removed.
    Sweep,
    /// Time passes.
    Tick,
    /// The next minute is near.
    NearMinuteEnd,
    /// Midnight is near.
    NearMidnight,
    /// Days pass.
    Days,
    /// The wall clock steps back.
    ClockBack,
    /// Limits of a project or an organization are replaced.
    Quota,
    /// Limits of a key are replaced.
    KeyLimits,
    /// A wallet is switched off or on.
    ToggleWallet,
    /// Money is paid in.
    Recharge,
    /// Part of a call's cost is given back.
    Refund,
    /// Somebody asks where things stand.
    ReadStatus,
    /// A refusal is written into the journal.
    Refuse,
    /// The process is killed, and started again.
    Kill,
    /// The process is stopped in good order, and started again.
    Shutdown,
}

/// How often each happens.
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

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub action: Action,
    pub random: Random,
}

/// Chance that is already decided. Each throw takes the next number.
#[derive(Debug, Clone, Copy)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        first + i64::try_from(self.below(last.abs_diff(first) + 1)).expect("a small number")
    }

    /// Whether it is one case in so many.
    pub fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A place in a list that long.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("a place")
    }
}

/// How a history begins, and its steps.
#[derive(Debug, Clone)]
pub struct History {
    pub start: i64,
    /// What each organization begins with.
    pub money: i64,
    /// How far the projector may fall behind.
    pub backlog_bytes_max: u64,
    pub steps: Vec<Step>,
}

/// 2024-02-26T23:00Z: a leap day and the end of a month are near.
const START_MS: i64 = 1_708_988_400_000;
const DAY_MS: i64 = 86_400_000;

/// The history of that seed.
pub fn history(seed: u64) -> History {
    let mut dice = Random::new(seed.wrapping_mul(0xd134_2543_de82_ef95));
    let start = START_MS + dice.between(0, 400) * DAY_MS + dice.between(0, DAY_MS - 1);
    let money = dice.pick(&[250, 900, 5_000, 50_000]);
    let backlog_bytes_max = dice.pick(&[5_000, 100_000]);
    let mut steps: Vec<Step> = (0..dice.between(60, 160)).map(|_| step(&mut dice)).collect();
    if dice.one_in(3) {
        // Nothing dies and little is projected, so that much is in memory and in the journal.
        for step in &mut steps {
            let rare = matches!(step.action, Action::Kill | Action::Project | Action::Shutdown);
            if rare && !dice.one_in(8) {
                step.action = dice.pick(&[Action::Burst, Action::End, Action::Write]);
            }
        }
        steps.extend([Action::Write, Action::Kill].map(|action| Step { action, random: dice }));
    }
    History { start, money, backlog_bytes_max, steps }
}

fn step(dice: &mut Random) -> Step {
    let all = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut left = dice.below(all);
    for (verb, weight) in WEIGHTS {
        if left < *weight {
            return Step { action: *verb, random: Random::new(dice.below(u64::MAX)) };
        }
        left -= weight;
    }
    unreachable!("the weights are summed")
}
