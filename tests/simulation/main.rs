//! Deterministic simulation of a node: virtual time, seeded histories, crashes at any point, and a
//! model that predicts the state after every step.
//!
//! `METEOR_SEED=7` runs the history of one seed and prints it; `METEOR_SEEDS=10000` runs that many.
#![expect(
    clippy::disallowed_methods,
    reason = "tests read the environment and start threads; the rules for `src` do not apply here"
)]

// The model.
mod calendar;
mod price;
mod model;
// The node and the steps.
mod history;
mod node;
mod admission;
mod edits;
mod world;
// The checks.
mod check;
mod ledger;
mod windows;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::{Builder, Runtime};

use crate::history::{History, history};
use crate::world::Trace;

/// Number of seeds if the environment sets none.
const SEEDS: u64 = 100;

/// Attempts at a shorter history that fails.
const SHRINKS_MAX: usize = 300;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs a history. Returns the trace, or the failure and the trace up to it.
fn run(runtime: &Runtime, history: &History) -> Result<String, (String, String)> {
    let trace = Trace::default();
    let outcome =
        catch_unwind(AssertUnwindSafe(|| runtime.block_on(world::run_history(history, &trace))));
    let trace = trace.take();
    let Err(failure) = outcome else { return Ok(trace) };
    let text = failure.downcast_ref::<String>().cloned();
    let text = text.or_else(|| failure.downcast_ref::<&str>().map(ToString::to_string));
    Err((text.unwrap_or_default(), trace))
}

/// Shrinks a failing history by leaving out ever shorter ranges of steps.
fn shrink(runtime: &Runtime, mut history: History) -> History {
    let mut attempts = 0;
    let mut length = history.steps.len() / 2;
    while 0 < length {
        let mut at = 0;
        while at < history.steps.len() && attempts < SHRINKS_MAX {
            attempts += 1;
            let mut shorter = history.clone();
            shorter.steps.drain(at..(at + length).min(history.steps.len()));
            if run(runtime, &shorter).is_err() {
                history = shorter;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    history
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn node_state_matches_the_model_in_every_history() {
    let one = number("METEOR_SEED");
    let seeds = one.map_or(0..number("METEOR_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let work = || {
        let runtime = runtime();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) || failed.lock().expect("no panic").is_some() {
                return;
            }
            // If the process aborts, the log names the seed.
            let _seed = tracing::error_span!("history", METEOR_SEED = seed).entered();
            match run(&runtime, &history(seed)) {
                Ok(trace) if one.is_some() => println!("{trace}"),
                Ok(_) => {}
                Err((failure, _)) => *failed.lock().expect("no panic") = Some((seed, failure)),
            }
        }
    };
    let filter = tracing_subscriber::EnvFilter::new("meteor::tasks=error,simulation=error");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().expect("no panic");
    let shrunken = failed.map(|(seed, failure)| {
        std::panic::set_hook(Box::new(|_| {}));
        let runtime = runtime();
        let shrunken = shrink(&runtime, history(seed));
        let rerun = run(&runtime, &shrunken);
        drop(std::panic::take_hook());
        (seed, failure, rerun)
    });
    if let Some((seed, failure, rerun)) = shrunken {
        let (shorter, trace) = rerun.err().unwrap_or_default();
        panic!("METEOR_SEED={seed}: {failure}\n\nThe shortest history found:{trace}\n\n{shorter}");
    }
}
