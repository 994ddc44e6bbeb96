//! The legs: the programs between load and upstream, and how to start them.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::Options;
use crate::governed::Governed;
use crate::processes::{Cpu, Process};

/// Longest time until a program has started.
pub const START_MAX: Duration = Duration::from_secs(15);

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Leg {
    /// No proxy: the load connects to the upstream.
    Direct,
    /// A byte copy in both directions.
    Relay,
    /// A minimal hyper proxy.
    Plain,
    /// The gateway's listener, worker and upstream pool without policy.
    Bare,
    /// nginx `proxy_pass` with keep-alive.
    Nginx,
    /// The gateway with everything on.
    Governed,
}

impl Leg {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A running leg. Dropping it ends its processes.
pub struct Running {
    pub target: SocketAddr,
    pub api_key: String,
    process: Option<Process>,
    governed: Option<Governed>,
    // Declared last, so that the folder is deleted after the process that writes to it.
    _folder: Option<TempDir>,
}

impl Running {
    fn new(target: SocketAddr, process: Option<Process>) -> Self {
        let api_key = "sk-not-used-by-this-leg".to_owned();
        Self { target, api_key, process, governed: None, _folder: None }
    }

    pub fn cpu(&self) -> Result<Cpu> {
        self.process.as_ref().map_or(Ok(Cpu::default()), |process| Cpu::of_tree(process.pid()))
    }

    /// Waits until the leg has finished its work for these calls and returns how long that took.
    pub fn catch_up(&mut self, calls: u64) -> Result<Duration> {
        self.governed.as_mut().map_or(Ok(Duration::ZERO), |governed| governed.catch_up(calls))
    }
}

pub fn start(leg: Leg, upstream: SocketAddr, options: &Options) -> Result<Running> {
    match leg {
        Leg::Direct => Ok(Running::new(upstream, None)),
        Leg::Relay | Leg::Plain | Leg::Bare => start_role(&leg.name(), upstream, options),
        Leg::Nginx => start_nginx(upstream, options),
        Leg::Governed => start_governed(upstream, options),
    }
}

fn start_role(role: &str, upstream: SocketAddr, options: &Options) -> Result<Running> {
    let mut arguments = vec![role.to_owned()];
    arguments.extend(["--upstream".to_owned(), upstream.to_string()]);
    arguments.extend(["--threads".to_owned(), options.workers().to_string()]);
    let process = Process::start_role(options.leg_core(), &arguments)?;
    let port: u16 = process.read_line(START_MAX)?.parse().context("no port")?;
    Ok(Running::new(([127, 0, 0, 1], port).into(), Some(process)))
}

fn start_nginx(upstream: SocketAddr, options: &Options) -> Result<Running> {
    let program = find_nginx().context("nginx is not installed")?;
    let folder = tempfile::Builder::new().prefix("side-by-side-nginx-").tempdir()?;
    // The port is free now and bound by nginx later. A conflict appears as a failed start.
    let target = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let configuration = folder.path().join("nginx.conf");
    let buffering = if options.stream { "off" } else { "on" };
    let text = nginx_configuration(folder.path(), target, upstream, options.workers())
        .replace("BUFFERING", buffering);
    fs::write(&configuration, text)?;
    let arguments =
        ["-c", &configuration.to_string_lossy(), "-e", "stderr"].map(str::to_owned).to_vec();
    let process = Process::start(options.leg_core(), &program.to_string_lossy(), &arguments)?;
    wait_for(target)?;
    let running = Running::new(target, Some(process));
    Ok(Running { _folder: Some(folder), ..running })
}

fn find_nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("nginx")).find(|program| program.is_file())
}

/// Tuned for this benchmark: unlimited keep-alive on both sides (by default nginx closes after
/// 1,000 requests), no logs, bodies in memory.
fn nginx_configuration(
    folder: &Path,
    listen: SocketAddr,
    upstream: SocketAddr,
    workers: usize,
) -> String {
    let folder = folder.display();
    format!(
        r#"daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream provider {{
        server {upstream};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen {listen} reuseport;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering BUFFERING;
        }}
    }}
}}
"#
    )
}

fn wait_for(target: SocketAddr) -> Result<()> {
    let start = Instant::now();
    while TcpStream::connect(target).is_err() {
        ensure!(start.elapsed() < START_MAX, "nothing listens on {target}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn start_governed(upstream: SocketAddr, options: &Options) -> Result<Running> {
    let program = options.meteor()?;
    ensure!(program.is_file(), "{} is not built", program.display());
    let folder = tempfile::Builder::new().prefix("side-by-side-governed-").tempdir()?;
    let data = folder.path().to_string_lossy().into_owned();
    let upstream = format!("http://{upstream}");
    let arguments =
        ["demo", "--json", "--data", &data, "--upstream", &upstream].map(str::to_owned).to_vec();
    let process = Process::start(options.leg_core(), &program.to_string_lossy(), &arguments)?;
    let line = process.read_line(START_MAX).context("meteor demo --json")?;
    let demo =
        serde_json::from_str(&line).with_context(|| format!("meteor demo printed {line}"))?;
    let governed = Governed::prepare(demo)?;
    Ok(Running {
        target: governed.address()?,
        api_key: governed.api_key().to_owned(),
        process: Some(process),
        governed: Some(governed),
        _folder: Some(folder),
    })
}
