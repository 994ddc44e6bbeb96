//! Runs rounds of windows in random order and decides which of them are void.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::Options;
use crate::legs::{self, Leg, Running, START_MAX};
use crate::load::Report;
use crate::processes::{Cpu, Machine, Process};
use crate::report;
use crate::window::{Round, Spread, Window};

const ATTEMPTS_PER_WINDOW: usize = 3;
/// Largest number of rounds per requested valid round.
const ROUNDS_MAX_FACTOR: usize = 2;
const DIRECT_DRIFT_MAX: f64 = 0.2;
/// The load ends long before this; otherwise the wait would be endless.
const REPORT_LATE_MAX: Duration = Duration::from_mins(1);

pub fn run(options: &Options) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed = options.seed.unwrap_or(now);
    report::print_head(options, seed);
    let bench = Bench::start(options)?;
    let mut legs = bench.legs_that_start();
    ensure!(!legs.is_empty(), "no leg could be started");
    let mut random = Random(seed);
    let mut rounds = Vec::new();
    for number in 1..=options.rounds * ROUNDS_MAX_FACTOR {
        random.shuffle(&mut legs);
        if let Some(round) = bench.round(number, &legs) {
            rounds.push((number, round));
        }
        if rounds.iter().filter(|(_, round)| drift(&rounds, round).is_none()).count()
            >= options.rounds
        {
            break;
        }
    }
    let valid = drop_drifted(rounds);
    ensure!(!valid.is_empty(), "all rounds were void; see the reasons above");
    if valid.len() < options.rounds {
        println!("NOTE: only {} of {} rounds are valid", valid.len(), options.rounds);
    }
    report::print(options, &valid);
    Ok(())
}

/// Returns the deviation of the round's direct throughput from the median, if it is too large.
fn drift(rounds: &[(usize, Round)], round: &Round) -> Option<f64> {
    let direct = round.get(&Leg::Direct)?.per_second();
    let all = rounds.iter().filter_map(|(_, round)| round.get(&Leg::Direct));
    let median = Spread::of(all.map(Window::per_second)).median;
    Some(direct / median - 1.0).filter(|off| off.abs() > DIRECT_DRIFT_MAX)
}

fn drop_drifted(rounds: Vec<(usize, Round)>) -> Vec<Round> {
    let drifts: Vec<_> = rounds.iter().map(|(_, round)| drift(&rounds, round)).collect();
    let mut valid = Vec::new();
    for ((number, round), drift) in rounds.into_iter().zip(drifts) {
        match drift {
            Some(off) => println!("round {number} void: direct drifted {:+.0} %", off * 100.0),
            None => valid.push(round),
        }
    }
    valid
}

struct Bench<'a> {
    options: &'a Options,
    upstream: Process,
    upstream_address: SocketAddr,
}

impl<'a> Bench<'a> {
    fn start(options: &'a Options) -> Result<Self> {
        let arguments = [
            ("--threads", options.load_threads().to_string()),
            ("--chunks", options.chunks.to_string()),
            ("--pace", options.pace.to_string()),
        ];
        let arguments = arguments.map(|(name, value)| format!("{name}={value}"));
        let arguments = [&["upstream".to_owned()][..], &arguments].concat();
        let upstream = Process::start_role(options.load_core(), &arguments)?;
        let port: u16 = upstream.read_line(START_MAX)?.parse().context("the upstream's port")?;
        let upstream_address = ([127, 0, 0, 1], port).into();
        Ok(Self { options, upstream, upstream_address })
    }

    fn legs_that_start(&self) -> Vec<Leg> {
        let mut legs = self.options.legs.clone();
        legs.sort_unstable();
        legs.dedup();
        legs.retain(|leg| match legs::start(*leg, self.upstream_address, self.options) {
            Ok(_) => true,
            Err(reason) => {
                println!("leg {} skipped: {reason:#}", leg.name());
                false
            }
        });
        legs
    }

    fn round(&self, number: usize, legs: &[Leg]) -> Option<Round> {
        let mut round = Round::new();
        for leg in legs {
            let window = (1..=ATTEMPTS_PER_WINDOW).find_map(|_| match self.window(*leg) {
                Ok(window) => Some(window),
                Err(reason) => {
                    println!("round {number} {}: window void: {reason:#}", leg.name());
                    // The disturbance may be short.
                    std::thread::sleep(Duration::from_secs(1));
                    None
                }
            })?;
            report::print_window(number, *leg, &window, self.options);
            round.insert(*leg, window);
        }
        Some(round)
    }

    /// Starts the leg anew, so that no accident of memory layout or hashing affects all rounds.
    fn window(&self, leg: Leg) -> Result<Window> {
        let mut running = legs::start(leg, self.upstream_address, self.options)?;
        let mut load = self.start_load(&running)?;
        let warm_up = self.read_report(&load)?;
        running.catch_up(warm_up.completed)?;
        let before = Costs::now(&running, &load, &self.upstream)?;
        load.write_line("go")?;
        let report = self.read_report(&load)?;
        let catch_up = running.catch_up(report.completed)?;
        let after = Costs::now(&running, &load, &self.upstream)?;
        let leg_cpu = after.leg.since(&before.leg);
        let load_cpu_us = after.load.since(&before.load).total_us;
        let upstream_cpu_us = after.upstream.since(&before.upstream).total_us;
        let own_us = after.own.since(&before.own).total_us;
        let ours_us = leg_cpu.total_us + load_cpu_us + upstream_cpu_us + own_us;
        let others = after.machine.share_of_others(&before.machine, ours_us);
        if others * 100.0 > self.options.others {
            bail!("other processes used {:.1} % of the machine", others * 100.0);
        }
        ensure!(report.completed > 0, "no request was completed");
        Ok(Window { load: report, leg_cpu, load_cpu_us, upstream_cpu_us, others, catch_up })
    }

    fn start_load(&self, running: &Running) -> Result<Process> {
        let options = self.options;
        let mut arguments = vec!["load".to_owned(), format!("--target={}", running.target)];
        arguments.push(format!("--threads={}", options.load_threads()));
        arguments.push(format!("--concurrency={}", options.concurrency()));
        arguments.push(format!("--seconds={}", options.seconds));
        arguments.push(format!("--body={}", options.body));
        match &options.keys {
            Some(file) => arguments.push(format!("--keys={}", file.display())),
            None => arguments.push(format!("--key={}", running.api_key)),
        }
        if options.stream {
            arguments.push(format!("--stream-pace={}", options.pace));
        }
        Process::start_role(options.load_core(), &arguments)
    }

    fn read_report(&self, load: &Process) -> Result<Report> {
        let within = Duration::from_secs_f64(self.options.seconds) + REPORT_LATE_MAX;
        let report: Report = serde_json::from_str(&load.read_line(within).context("load")?)?;
        match report.error {
            Some(fault) => bail!("{fault}"),
            None => Ok(report),
        }
    }
}

/// CPU times at one instant, taken while no request is in flight.
struct Costs {
    leg: Cpu,
    load: Cpu,
    upstream: Cpu,
    own: Cpu,
    machine: Machine,
}

impl Costs {
    fn now(running: &Running, load: &Process, upstream: &Process) -> Result<Self> {
        Ok(Self {
            leg: running.cpu()?,
            load: Cpu::of_process(load.pid())?,
            upstream: Cpu::of_process(upstream.pid())?,
            own: Cpu::of_process(std::process::id())?,
            machine: Machine::now()?,
        })
    }
}

/// `SplitMix64`: good enough for shuffling, and reproducible for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.next() % (last as u64 + 1)).unwrap_or(0);
            items.swap(last, other);
        }
    }
}
