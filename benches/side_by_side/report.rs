//! Prints the setup, each window, medians with quartiles, and ratios.

use std::collections::BTreeSet;

use crate::Options;
use crate::legs::Leg;
use crate::window::{Round, Spread, Window};

type Figure = fn(&Window) -> f64;

pub fn print_head(options: &Options, seed: u64) {
    let responses = if options.stream {
        format!("streams of {} chunks, one per {} ms", options.chunks, options.pace)
    } else {
        "responses of 0.5 KB".to_owned()
    };
    println!(
        "side by side: {} rounds of {} s, concurrency {}, bodies of {} B, {responses}, HTTP/1.1 keep-alive",
        options.rounds,
        options.seconds,
        options.concurrency(),
        options.body
    );
    println!(
        "{} cores, {} workers in each leg, {} thread(s) each for load and upstream{}, seed {seed}",
        crate::cores(),
        options.workers(),
        options.load_threads(),
        if options.isolated { ", leg pinned to core 0, load and upstream to core 1" } else { "" }
    );
    println!("governed: API key, five limits, wallet, journal, projector and metering are on");
    if options.others > 5.0 {
        println!(
            "NOT VALID: --others {} allows other processes to disturb the windows",
            options.others
        );
    }
}

/// The divisor of a cost: requests, or chunks with streams.
fn units(window: &Window, options: &Options) -> f64 {
    let chunks = if options.stream { options.chunks.max(2) } else { 1 };
    window.load.completed as f64 * chunks as f64
}

pub fn print_window(number: usize, leg: Leg, window: &Window, options: &Options) {
    println!(
        "round {number:2} {:9} {:7.2} µs  {:7.0} req/s  others {:.1} %",
        leg.name(),
        window.leg_cpu.total_us / units(window, options),
        window.per_second(),
        window.others * 100.0
    );
}

pub fn print(options: &Options, rounds: &[Round]) {
    let view = View { options, rounds };
    view.print_legs();
    view.print_threads();
    view.print_ratios();
    view.print_latency();
}

struct View<'a> {
    options: &'a Options,
    rounds: &'a [Round],
}

impl View<'_> {
    fn legs(&self) -> Vec<Leg> {
        self.rounds[0].keys().copied().collect()
    }

    fn has(&self, leg: Leg) -> bool {
        self.rounds[0].contains_key(&leg)
    }

    fn spread(&self, leg: Leg, figure: impl Fn(&Window) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|round| figure(&round[&leg])))
    }

    fn per_unit(&self, leg: Leg, cost: impl Fn(&Window) -> f64) -> Spread {
        self.spread(leg, |window| cost(window) / units(window, self.options))
    }

    fn print_legs(&self) {
        let unit = if self.options.stream { "chunk" } else { "request" };
        println!("\nmedians of {} rounds [quartiles]; CPU µs per {unit}", self.rounds.len());
        println!(
            "{:9} {:>24} {:>22} {:>8} {:>8} {:>7} {:>8} {:>7}",
            "leg", "CPU", "req/s", "p50 µs", "p99 µs", "load", "upstream", "others"
        );
        for leg in self.legs() {
            let cpu = self.per_unit(leg, |window| window.leg_cpu.total_us);
            let rate = self.spread(leg, Window::per_second);
            println!(
                "{:9} {:>8.2} [{:>5.2} – {:>5.2}] {:>7.0} [{:>5.0} – {:>5.0}] {:>7.0} {:>8.0} {:>7.2} {:>8.2} {:>5.1} %",
                leg.name(),
                cpu.median,
                cpu.low,
                cpu.high,
                rate.median,
                rate.low,
                rate.high,
                self.spread(leg, |window| window.load.p50_us).median,
                self.spread(leg, |window| window.load.p99_us).median,
                self.per_unit(leg, |window| window.load_cpu_us).median,
                self.per_unit(leg, |window| window.upstream_cpu_us).median,
                self.spread(leg, |window| window.others * 100.0).median,
            );
        }
    }

    fn print_threads(&self) {
        println!("\nCPU by thread name");
        for leg in self.legs().into_iter().filter(|leg| *leg != Leg::Direct) {
            print!("{:9}", leg.name());
            let names: BTreeSet<&String> = self.rounds[0][&leg].leg_cpu.threads_us.keys().collect();
            for name in names {
                let used = self.per_unit(leg, |window| {
                    window.leg_cpu.threads_us.get(name).copied().unwrap_or(0.0)
                });
                if used.median >= 0.005 {
                    print!("  {name} {:.2}", used.median);
                }
            }
            println!();
        }
    }

    /// Computes the ratio within each round, so that a slow minute affects both sides.
    fn print_ratio(&self, name: &str, goal: &str, ratio: impl Fn(&Round) -> f64) {
        let spread = Spread::of(self.rounds.iter().map(ratio));
        println!(
            "{name:44} {:6.3} [{:.3} – {:.3}]  goal {goal}",
            spread.median, spread.low, spread.high
        );
    }

    fn print_ratios(&self) {
        let whole = |window: &Window| window.leg_cpu.total_us / units(window, self.options);
        let serving = |window: &Window| serving_us(window) / units(window, self.options);
        println!("\nratios of CPU");
        let floor = if self.has(Leg::Bare) { Leg::Bare } else { Leg::Plain };
        if self.has(Leg::Bare) && self.has(Leg::Plain) {
            self.print_ratio("bare ÷ plain", "≤ 1.10", |r| {
                whole(&r[&Leg::Bare]) / whole(&r[&Leg::Plain])
            });
        }
        if !self.has(Leg::Governed) {
            for leg in [Leg::Relay, Leg::Nginx].into_iter().filter(|leg| self.has(*leg)) {
                if self.has(Leg::Plain) {
                    let name = format!("plain ÷ {}", leg.name());
                    self.print_ratio(&name, "none", |r| whole(&r[&Leg::Plain]) / whole(&r[&leg]));
                }
            }
            return;
        }
        let governed = |round: &Round| whole(&round[&Leg::Governed]);
        let workers = |round: &Round| serving(&round[&Leg::Governed]);
        if self.has(floor) {
            let name = format!("R1  governed workers + journal ÷ {}", floor.name());
            self.print_ratio(&name, "≤ 1.15", |r| workers(r) / whole(&r[&floor]));
            let name = format!("R1p governed whole process ÷ {}", floor.name());
            self.print_ratio(&name, "≤ 1.6", |r| governed(r) / whole(&r[&floor]));
        }
        if self.has(Leg::Nginx) {
            let goal = if self.options.stream { "≤ 1.5" } else { "≤ 1.6, stretch 1.3" };
            self.print_ratio("R2  governed whole process ÷ nginx", goal, |r| {
                governed(r) / whole(&r[&Leg::Nginx])
            });
            self.print_ratio("    governed workers + journal ÷ nginx", "none", |r| {
                workers(r) / whole(&r[&Leg::Nginx])
            });
        }
        if self.has(Leg::Relay) {
            self.print_ratio("R3  governed whole process ÷ relay", "≤ 2.2", |r| {
                governed(r) / whole(&r[&Leg::Relay])
            });
        }
        let projector = self.spread(Leg::Governed, |window| {
            window.leg_cpu.threads_us.get("projector").unwrap_or(&0.0)
                / window.load.completed as f64
        });
        let behind = self.spread(Leg::Governed, |window| window.catch_up.as_secs_f64() * 1e3);
        println!(
            "projector {:.2} µs per call, goal ≤ 8; {:.0} ms behind at the end of a window",
            projector.median, behind.median
        );
    }

    fn print_latency(&self) {
        if !self.has(Leg::Direct) {
            return;
        }
        println!("\nadded to direct, µs (medians; the goals hold at --concurrency 1)");
        let figures: [(&str, Figure); 4] = [
            ("p50", |window| window.load.p50_us),
            ("p99", |window| window.load.p99_us),
            ("first byte p50", |window| window.load.first_byte_p50_us),
            ("first byte p99", |window| window.load.first_byte_p99_us),
        ];
        // The pace determines how long a stream takes, so only its first byte is compared. A
        // complete response arrives with its first byte.
        let selected = if self.options.stream { &figures[2..] } else { &figures[..2] };
        for (name, figure) in selected {
            let added =
                |round: &Round, leg: Leg| figure(&round[&leg]) - figure(&round[&Leg::Direct]);
            print!("{name:16}");
            for leg in self.legs().into_iter().filter(|leg| *leg != Leg::Direct) {
                let spread = Spread::of(self.rounds.iter().map(|round| added(round, leg)));
                print!("  {} {:.0}", leg.name(), spread.median);
            }
            if self.has(Leg::Governed) && self.has(Leg::Nginx) {
                let ratios =
                    self.rounds.iter().map(|r| added(r, Leg::Governed) / added(r, Leg::Nginx));
                print!("  governed ÷ nginx {:.2}, goal ≤ 1.5", Spread::of(ratios).median);
            }
            println!();
        }
    }
}

/// CPU time of the threads that serve calls. In the other legs all threads do.
fn serving_us(window: &Window) -> f64 {
    let threads = window.leg_cpu.threads_us.iter();
    threads
        .filter(|(name, _)| name.starts_with("worker") || name.starts_with("journal"))
        .map(|(_, used)| used)
        .sum()
}
