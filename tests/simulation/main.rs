//! A node in a world of its own: virtual time, seeded histories, crashes anywhere, and a model that
//! says what must be true after every step.
//!
//! `METEOR_SEED=7` acts the history of one seed and tells it; `METEOR_SEEDS=10000` acts so many.
#![expect(
    clippy::disallowed_methods,
    reason = "tests stand outside the house: they read the environment and start threads"
)]

// What must be true.
mod calendar;
mod price;
mod model;
// What is done, and to what.
mod history;
mod node;
mod admission;
mod edits;
mod world;
// Whether it is so.
mod check;
mod ledger;
mod windows;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::{Builder, Runtime};

use crate::history::{History, history};
use crate::world::Trace;

/// How many seeds are acted where nobody says otherwise.
const SEEDS: u64 = 100;

/// How often a failing history is tried with fewer steps.
const SHRINKS_MAX: usize = 300;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Acts a history; what went wrong, and what had happened until then.
fn run(runtime: &Runtime, history: &History) -> Result<String, (String, String)> {
    let story = Trace::default();
    let acted =
        catch_unwind(AssertUnwindSafe(|| runtime.block_on(world::run_history(history, &story))));
    let story = story.take();
    let Err(fault) = acted else { return Ok(story) };
    let text = fault.downcast_ref::<String>().cloned();
    let text = text.or_else(|| fault.downcast_ref::<&str>().map(ToString::to_string));
    Err((text.unwrap_or_default(), story))
}

/// The same fault with fewer steps, found by leaving out ever shorter stretches.
fn shrink(runtime: &Runtime, mut history: History) -> History {
    let mut tries = 0;
    let mut length = history.steps.len() / 2;
    while 0 < length {
        let mut at = 0;
        while at < history.steps.len() && tries < SHRINKS_MAX {
            tries += 1;
            let mut fewer = history.clone();
            fewer.steps.drain(at..(at + length).min(history.steps.len()));
            if run(runtime, &fewer).is_err() {
                history = fewer;
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
            // Where the process stops itself, its last words say which seed it was.
            let _seed = tracing::error_span!("history", METEOR_SEED = seed).entered();
            match run(&runtime, &history(seed)) {
                Ok(story) if one.is_some() => println!("{story}"),
                Ok(_) => {}
                Err((fault, _)) => *failed.lock().expect("no panic") = Some((seed, fault)),
            }
        }
    };
    let stops = tracing_subscriber::EnvFilter::new("meteor::tasks=error,simulation=error");
    tracing_subscriber::fmt().with_env_filter(stops).with_writer(std::io::stderr).init();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().expect("no panic");
    let shrunken = failed.map(|(seed, fault)| {
        std::panic::set_hook(Box::new(|_| {}));
        let runtime = runtime();
        let shrunken = shrink(&runtime, history(seed));
        let again = run(&runtime, &shrunken);
        drop(std::panic::take_hook());
        (seed, fault, again)
    });
    if let Some((seed, fault, again)) = shrunken {
        let (fewer, story) = again.err().unwrap_or_default();
        panic!("METEOR_SEED={seed}: {fault}\n\nThe shortest history found:{story}\n\n{fewer}");
    }
}
