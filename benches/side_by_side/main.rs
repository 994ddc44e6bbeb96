//! The side-by-side benchmark: CPU time per request through the gateway, nginx, a bare proxy and a
//! byte copy, measured on the same machine in the same minutes.
//!
//! `cargo bench --bench side_by_side -- --help` lists the options. Throughput and latency are not
//! comparable between machines and hardly between minutes. CPU time per request is, and its ratios
//! are even more so. Therefore all legs run interleaved in random order, every figure is a median
//! over the rounds, and no absolute time decides about success. A window with a failed request, a
//! busy machine or a wrong ledger is reported as void and repeated.
//!
//! This executable starts itself in different roles. `rounds.rs` runs the benchmark; `upstream`,
//! `load`, `relay` and `plain` are roles; `legs.rs` starts the program between load and upstream.

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
mod window;
mod report;
mod rounds;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::legs::Leg;

/// The allocator of the gateway, so that `plain` and `bare` use the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compare the CPU time per request of the gateway with nginx, a bare proxy and a byte copy.
#[derive(Parser)]
#[command(name = "side_by_side", args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Number of valid rounds. Each round runs every leg once, in random order.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a window in seconds.
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
    /// Bytes of a request body.
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Request streams and report CPU time per chunk.
    #[arg(long)]
    stream: bool,
    /// Chunks per stream.
    #[arg(long, default_value_t = 50)]
    chunks: usize,
    /// Milliseconds between chunks.
    #[arg(long, default_value_t = 20)]
    pace: u64,
    /// Seed for the order of the legs.
    #[arg(long)]
    seed: Option<u64>,
    /// Path of the gateway binary (default: the one built with this benchmark).
    #[arg(long)]
    meteor: Option<PathBuf>,
    /// File with API keys to use in turn, one per line, instead of the leg's own key.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Pin the leg to core 0, load and upstream to core 1.
    #[arg(long)]
    isolated: bool,
    /// Percentage of the machine that other processes may use before a window is void. Figures
    /// taken with more than 5 are not valid.
    #[arg(long, default_value_t = 5.0)]
    others: f64,
    /// Set by cargo. Without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Run the fake provider and print its port.
    Upstream {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        chunks: usize,
        #[arg(long)]
        pace: u64,
    },
    /// Run the load generator and print one line of JSON per phase.
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
    /// Run the byte copy and print its port.
    Relay {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Run the plain hyper proxy and print its port.
    Plain {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Run the gateway's proxy without policy and print its port.
    Bare {
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Execute another program that ends with its parent.
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

    /// Number of workers per leg: as many as the gateway starts by default.
    fn workers(&self) -> usize {
        if self.isolated { 1 } else { cores() }
    }

    /// Threads of the load generator, and of the upstream.
    fn load_threads(&self) -> usize {
        if self.isolated { 1 } else { cores().div_ceil(2) }
    }

    fn leg_core(&self) -> Option<usize> {
        self.isolated.then_some(0)
    }

    fn load_core(&self) -> Option<usize> {
        self.isolated.then_some(1)
    }

    /// Cargo puts benchmarks into `deps`, inside the folder of the binaries.
    fn meteor(&self) -> Result<PathBuf> {
        if let Some(path) = &self.meteor {
            return Ok(path.clone());
        }
        let bench = std::env::current_exe()?;
        let folder = bench.ancestors().nth(2).context("the benchmark has no parent folder")?;
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
            println!("nothing measured; run `cargo bench --bench side_by_side`");
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
                    None => vec![key.context("load needs --key or --keys")?],
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
