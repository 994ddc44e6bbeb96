//! The `meteor` binary: the command line and the exit codes.

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
    /// Run a demo: a fake provider, a funded organization and an API key, in one process.
    Demo(DemoOptions),
    /// Run the gateway; without a configuration file, with default settings.
    Serve {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration file and report all errors.
    Check {
        /// Configuration file.
        file: PathBuf,
    },
    /// List the endpoints of the data plane: method, path, dialect, and what a call consumes.
    Routes,
    /// Verify the ledger, whether or not the gateway is running. Exit codes: 0 no violations, 1
    /// violations, 2 not verified.
    VerifyLedger(VerifyOptions),
    /// Check whether a gateway on this host is ready; for containers and scripts.
    Health {
        /// Address of the admin listener.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
        admin: SocketAddr,
    },
}

fn main() -> ExitCode {
    // Huge pages would multiply the memory of open streams, which use small parts of their buffers.
    // A failure is harmless: the system then has no huge pages.
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

/// Exit code if the ledger could not be verified.
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
            println!("{}: no errors", file.display());
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

/// Runs `work` on the runtime of the admin side. The data plane has its own threads.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("admin")
        .enable_all()
        .build()
        .context("cannot start the admin threads")?;
    runtime.block_on(work)
}
