//! The side-by-side bench: what one call costs in CPU time through the gateway, through nginx,
//! through a bare proxy and through a byte copy, on the same machine in the same minutes.
//!
//! `cargo bench --bench side_by_side -- --help` tells the options. Throughput and latency do not
//! travel between machines, and hardly between minutes; CPU time per request does, and ratios of
//! it do best. So all legs run interleaved in random order, every figure is a median over the
//! rounds, and nothing here passes or fails by an absolute time. A window in which something was
//! wrong (a status, the machine, the books) is void, is said aloud, and is run again.
//!
//! This executable starts itself for each part: `rounds.rs` leads, `upstream`, `load`, `relay`
//! and `plain` play, `legs.rs` knows how to start what stands between load and upstream.

#![expect(
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "a bench is its own program: it reads clocks, and its figures are no money"
)]

mod wire;
mod sockets;
mod histogram;
mod upstream;
mod load;
mod relay;
mod plain;
mod bare;
mod processes;
mod governed;
mod legs;
mod rounds;
mod report;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::legs::Leg;

/// The gateway's allocator, so that `plain` and `bare` are compared on the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// CPU per request of the gateway beside nginx, a bare proxy and a byte copy.
#[derive(Parser)]
#[command(name = "side_by_side", args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Rounds that must count; each runs every leg once, in random order.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a window.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Open connections (default 32; 200 with --stream).
    #[arg(long)]
    concurrency: Option<usize>,
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,relay,plain,bare,nginx,governed"
    )]
    legs: Vec<Leg>,
    /// Bytes of a request's body.
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Ask for streams, and report CPU per chunk.
    #[arg(long)]
    stream: bool,
    /// Chunks of a stream.
    #[arg(long, default_value_t = 50)]
    chunks: usize,
    /// Milliseconds from one chunk to the next.
    #[arg(long, default_value_t = 20)]
    pace: u64,
    /// Order of the legs; the same seed gives the same order.
    #[arg(long)]
    seed: Option<u64>,
    /// The gateway's binary (default: the one built beside this bench).
    #[arg(long)]
    meteor: Option<PathBuf>,
    /// API keys to use in turn, one a line, instead of the leg's own.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Pin the leg to core 0, load and upstream to core 1.
    #[arg(long)]
    isolated: bool,
    /// Per cent of the machine that others may use before a window is void. Figures taken with
    /// more than 5 are no results.
    #[arg(long, default_value_t = 5.0)]
    others: f64,
    /// Given by cargo; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// The fake provider; says its port.
    Upstream {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        chunks: usize,
        #[arg(long)]
        pace: u64,
    },
    /// The load generator; says one line of JSON a phase.
    Load {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        concurrency: usize,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        body: usize,
        #[arg(long)]
        key: Option<String>,
        #[arg(long)]
        keys: Option<PathBuf>,
        #[arg(long)]
        stream_pace: Option<u64>,
    },
    /// The byte copy; says its port.
    Relay {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// The plain hyper proxy; says its port.
    Plain {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// The gateway's proxy without policy; says its port.
    Bare {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Becomes another program that ends with its parent.
    Exec {
        #[arg(long)]
        core: Option<usize>,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

impl Options {
    fn concurrency(&self) -> usize {
        self.concurrency.unwrap_or(if self.stream { 200 } else { 32 })
    }

    /// Every leg gets as many workers as the gateway starts by default.
    fn workers(&self) -> usize {
        if self.isolated { 1 } else { cores() }
    }

    /// Threads for the load, and as many for the upstream.
    fn load_threads(&self) -> usize {
        if self.isolated { 1 } else { cores().div_ceil(2) }
    }

    fn leg_core(&self) -> Option<usize> {
        self.isolated.then_some(0)
    }

    fn load_core(&self) -> Option<usize> {
        self.isolated.then_some(1)
    }

    /// Cargo puts benches into `deps`, beside which the binaries lie.
    fn meteor(&self) -> Result<PathBuf> {
        if let Some(path) = &self.meteor {
            return Ok(path.clone());
        }
        let bench = std::env::current_exe()?;
        let folder = bench.ancestors().nth(2).context("the bench lies in no folder")?;
        Ok(folder.join("meteor"))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    match options.role.take() {
        Some(role) => role.run(),
        None if options.bench => rounds::run(&options),
        None => {
            println!("nothing measured: run `cargo bench --bench side_by_side`");
            Ok(())
        }
    }
}

impl Role {
    fn run(self) -> Result<()> {
        match self {
            Role::Upstream { threads, chunks, pace } => {
                let pace = Duration::from_millis(pace);
                upstream::run(&upstream::Settings { threads, chunks, pace })
            }
            Role::Load { target, threads, concurrency, seconds, body, key, keys, stream_pace } => {
                let keys = match keys {
                    Some(file) => {
                        std::fs::read_to_string(file)?.lines().map(str::to_owned).collect()
                    }
                    None => vec![key.context("load needs a key")?],
                };
                load::run(load::Settings {
                    target,
                    threads,
                    connections: concurrency,
                    window: Duration::from_secs_f64(seconds),
                    body_bytes: body,
                    keys,
                    stream_pace: stream_pace.map(Duration::from_millis),
                })
            }
            Role::Relay { threads, upstream } => relay::run(threads, upstream),
            Role::Plain { threads, upstream } => plain::run(threads, upstream),
            Role::Bare { threads, upstream } => bare::run(threads, upstream),
            Role::Exec { core, command } => processes::exec(core, &command),
        }
    }
}
