//! The `meteor` binary: what the command line says, and the exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use meteor::app::demo::{DemoOptions, demo};
use meteor::app::verify::{VerifyOptions, verify_ledger};
use meteor::app::{health, log, routes, run};
use meteor::config::check;
use meteor::config::environment::Environment;
use meteor::crash;
use meteor::settings::log::{LogFormat, LogLevel, LogSettings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An exact, durable AI gateway: keys, limits and a prepaid wallet at the cost of a bare proxy.
#[derive(Debug, Parser)]
#[command(name = "meteor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: a fake provider, a funded organization and a key, in one process.
    Demo(DemoOptions),
    /// Serve; without a file, everything is at its default.
    Serve {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Tell every fault of a configuration at once.
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// List what the data plane serves: method, path, dialect, and what a call uses up.
    Routes,
    /// Prove the books of a gateway that runs, or that does not: 0 is sound, 1 is not, 2 unknown.
    VerifyLedger(VerifyOptions),
    /// Ask a gateway on this machine whether it is ready; for containers and scripts.
    Health {
        /// Its admin listener.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
        admin: SocketAddr,
    },
}

fn main() -> ExitCode {
    // An open stream owns buffers of which it uses little: huge pages would make it cost them whole.
    // A system that has none refuses this, and nothing is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let command = Cli::parse().command;
    let failure = match command {
        Command::VerifyLedger(_) => ExitCode::from(EXIT_UNKNOWN),
        _ => ExitCode::FAILURE,
    };
    run(command).unwrap_or_else(|fault| {
        eprintln!("meteor: {fault:#}");
        failure
    })
}

/// The exit code where the books could not be looked at.
const EXIT_UNKNOWN: u8 = 2;

fn run(command: Command) -> Result<ExitCode> {
    crash::arm(Environment::from_process().get(crash::VARIABLE))?;
    match command {
        Command::Demo(options) => {
            let level = LogLevel::Warn;
            log::init(&LogSettings { level, format: LogFormat::Text, calls: true });
            block_on(demo(options))?;
        }
        Command::Serve { config } => {
            let settings =
                check::load(config.as_deref()).map_err(|report| anyhow::anyhow!("{report}"))?;
            log::init(&settings.log);
            block_on(run::serve(settings, config))?;
        }
        Command::Check { file } => {
            check::load(Some(&file)).map_err(|report| anyhow::anyhow!("{report}"))?;
            println!("{}: no faults", file.display());
        }
        Command::VerifyLedger(options) => {
            if !block_on(verify_ledger(options))? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Routes => routes::lines().iter().for_each(|line| println!("{line}")),
        Command::Health { admin } => health::probe(admin)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The runtime of everything but the data plane, which has threads of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("admin")
        .enable_all()
        .build()
        .context("the admin side's threads")?;
    runtime.block_on(work)
}
