//! Checks the whole configuration and returns the settings, or all errors.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::catalog::read_models;
use crate::config::environment::Environment;
use crate::config::file::parse_raw;
use crate::config::pricing::read_pricing;
use crate::config::report::Report;
use crate::config::section::{ConfigReader, Section};
use crate::config::upstreams::read_upstreams;
use crate::domain::catalog::Model;
use crate::domain::price::PriceTable;
use crate::journal::chains::Durability;
use crate::proxy::server::worker::ProxySettings;
use crate::proxy::upstreams::connect::Roots;
use crate::settings::admin::{AdminListenerSettings, Operator};
use crate::settings::admission::AdmissionSettings;
use crate::settings::log::{LogFormat, LogLevel, LogSettings};
use crate::settings::upstream::UpstreamSettings;

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data folder.
    pub data: PathBuf,
    /// The database file.
    pub database: PathBuf,
    /// The listener for callers.
    pub proxy_listen: SocketAddr,
    /// The number of worker threads that serve callers.
    pub workers: u16,
    pub proxy: ProxySettings,
    /// The time from the shutdown signal until new calls are refused.
    pub drain_delay: Duration,
    /// The time that calls in flight then have to finish.
    pub drain_timeout: Duration,
    pub admission: AdmissionSettings,
    pub admin: AdminListenerSettings,
    /// The failures that a journal entry survives.
    pub durability: Durability,
    pub segment_bytes: u64,
    /// How long a journal segment is kept after it was projected.
    pub journal_retention: Duration,
    /// How many bytes the journal may be ahead of the database.
    pub backlog_bytes_max: u64,
    /// The currency of all money: three capital letters.
    pub currency: String,
    pub log: LogSettings,
    /// The source of trusted root certificates for upstreams.
    pub roots: Roots,
    pub upstreams: Vec<UpstreamSettings>,
    /// The prices of units and models without a price, if configured.
    pub ceiling: Option<PriceTable>,
    /// Their targets are indices into `upstreams`.
    pub models: Vec<Model>,
    /// The model that serves every unlisted name, if configured.
    pub fallback: Option<Model>,
}

/// Loads a configuration file, or the defaults if `None`, with the environment of this process.
pub fn load(file: Option<&Path>) -> Result<Settings, Report> {
    let text = match file {
        None => String::new(),
        Some(file) => fs::read_to_string(file).map_err(|error| {
            Report::of(file.display().to_string(), format!("cannot read file: {error}"))
        })?,
    };
    read(&text, &Environment::from_process())
}

/// Parses and checks the text of a configuration with `environment`.
pub fn read(text: &str, environment: &Environment) -> Result<Settings, Report> {
    let (reader, table) = ConfigReader::begin(parse_raw(text, environment)?, environment);
    let mut root = Section::new(&reader, String::new(), table);
    let (data, database) = paths(&mut root);
    let proxy = proxy(&mut root);
    let admission = admission(&mut root);
    let admin = admin(&mut root);
    if proxy.listen == admin.listen && proxy.listen.port() != 0 {
        reader.error("admin.listen", "must differ from proxy.listen");
    }
    let journal = journal(&mut root);
    let currency = currency(&mut root);
    let log = log(&mut root);
    let roots = roots(&mut root);
    let pricing = read_pricing(&mut root, &reader);
    let upstreams = read_upstreams(&mut root, &pricing);
    let models = read_models(&mut root, &upstreams, &pricing);
    root.finish();
    let settings = Settings {
        data,
        database,
        proxy_listen: proxy.listen,
        workers: proxy.workers,
        proxy: proxy.settings,
        drain_delay: proxy.drain_delay,
        drain_timeout: proxy.drain_timeout,
        admission,
        admin,
        durability: journal.durability,
        segment_bytes: journal.segment_bytes,
        journal_retention: journal.retention,
        backlog_bytes_max: journal.backlog_bytes_max,
        currency,
        log,
        roots,
        upstreams: upstreams.settings,
        ceiling: pricing.ceiling,
        models: models.listed,
        fallback: models.fallback,
    };
    reader.finish(settings)
}

/// `[data]` and `[store]`.
fn paths(root: &mut Section<'_>) -> (PathBuf, PathBuf) {
    let mut part = root.section("data");
    let data = part.text("folder").map_or_else(|| PathBuf::from("./data"), PathBuf::from);
    part.finish();
    let mut part = root.section("store");
    let database = part.parsed("url", |url| {
        let file = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        match file {
            Some(file) if !file.is_empty() && !file.starts_with(':') && !file.contains('?') => {
                Ok(PathBuf::from(file))
            }
            _ => Err("expected an SQLite file URL such as sqlite:./data/meteor.db".into()),
        }
    });
    part.finish();
    let database = database.unwrap_or_else(|| data.join("meteor.db"));
    (data, database)
}

struct Proxy {
    listen: SocketAddr,
    workers: u16,
    settings: ProxySettings,
    drain_delay: Duration,
    drain_timeout: Duration,
}

fn proxy(root: &mut Section<'_>) -> Proxy {
    let mut part = root.section("proxy");
    let listen = listen(&mut part, 8080);
    let workers = part.size("workers", 0, 0..=1_024);
    let settings = ProxySettings {
        body_bytes_max: part.size("body_bytes_max", 32 << 20, 1_024..=1 << 30),
        header_bytes_max: part.size("header_bytes_max", 65_536, 8_192..=1 << 20),
        header_read_timeout: part.duration_ms("header_read_timeout_ms", 10_000, 1),
        client_idle: part.duration_ms("client_idle_ms", 60_000, 1),
        drain_after_disconnect: drain_after_disconnect(&mut part),
        connections_max: part.size("connections_max", 10_000, 1..=1_000_000),
    };
    let drain_timeout = part.duration_ms("drain_timeout_ms", 600_000, 0);
    let drain_delay = part.duration_ms("drain_delay_ms", 0, 0);
    part.finish();
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if workers == 0 { cores() } else { workers };
    let workers = u16::try_from(workers).unwrap_or(u16::MAX);
    Proxy { listen, workers, settings, drain_delay, drain_timeout }
}

/// At most one minute, because the call keeps its hold and its share of the concurrency limit.
fn drain_after_disconnect(part: &mut Section<'_>) -> Duration {
    let time = part.integer("drain_after_disconnect_ms", 1..=60_000).unwrap_or(10_000);
    Duration::from_millis(time)
}

fn admission(root: &mut Section<'_>) -> AdmissionSettings {
    let mut part = root.section("admission");
    let default = AdmissionSettings::default();
    let settings = AdmissionSettings {
        hold_wait: part.duration_ms("hold_wait_ms", 2_000, 0),
        waiting_max: part.size("waiting_max", default.waiting_max, 0..=1 << 20),
        output_floor: part
            .integer("output_floor_tokens", 1..=1 << 20)
            .unwrap_or(default.output_floor),
    };
    part.finish();
    settings
}

/// Reads a listen address. The default is on the loopback interface.
fn listen(part: &mut Section<'_>, default: u16) -> SocketAddr {
    let address = part.parsed("listen", |text| {
        text.parse().map_err(|_| "expected IP:PORT, for example 127.0.0.1:8080".to_owned())
    });
    address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], default)))
}

fn admin(root: &mut Section<'_>) -> AdminListenerSettings {
    let mut part = root.section("admin");
    let listen = listen(&mut part, 8081);
    let public_url = part.parsed("public_url", |text| {
        let uri: Option<http::Uri> = text.parse().ok();
        let valid = uri.filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && uri.query().is_none()
        });
        valid.ok_or("expected a URL such as https://gateway.example.com")?;
        Ok(text.trim_end_matches('/').to_owned())
    });
    let operator = operator(&mut part);
    part.finish();
    AdminListenerSettings { listen, public_url, operator }
}

fn operator(part: &mut Section<'_>) -> Option<Operator> {
    let (has_email, has_file) = (part.has("operator_email"), part.has("operator_password_file"));
    let email = part.parsed("operator_email", |text| {
        let is_valid = text.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace)
        });
        if is_valid { Ok(text.to_owned()) } else { Err("expected an email address".into()) }
    });
    let file = part.text("operator_password_file");
    let password = file.and_then(|file| part.secret_from_file("operator_password_file", &file));
    if has_email != has_file {
        let missing = if has_email { "operator_password_file" } else { "operator_email" };
        part.error(missing, "missing; set both operator keys, or neither to get a setup link");
    }
    let (email, password) = (email?, password?);
    if !(10..=128).contains(&password.expose().chars().count()) {
        let message = "expected a password of 10 to 128 characters";
        part.error("operator_password_file", message);
    }
    Some(Operator { email, password })
}

struct JournalConfig {
    durability: Durability,
    segment_bytes: u64,
    retention: Duration,
    backlog_bytes_max: u64,
}

fn journal(root: &mut Section<'_>) -> JournalConfig {
    const DURABILITIES: &[(&str, Durability)] =
        &[("process", Durability::Process), ("power", Durability::Power)];
    let mut part = root.section("journal");
    let durability = part.choice("durability", DURABILITIES).unwrap_or(Durability::Process);
    let segment_bytes = part.integer("segment_bytes", 1 << 20..=1 << 30).unwrap_or(16 << 20);
    let keep = part.duration_ms("keep_ms", 900_000, 0);
    let backlog_bytes_max = part.integer("backlog_bytes_max", 1 << 20..=1 << 40).unwrap_or(1 << 30);
    if backlog_bytes_max < segment_bytes {
        part.error("backlog_bytes_max", "must be at least segment_bytes; use several times that");
    }
    part.finish();
    JournalConfig { durability, segment_bytes, retention: keep, backlog_bytes_max }
}

fn currency(root: &mut Section<'_>) -> String {
    let mut part = root.section("money");
    let currency = part.parsed("currency", |text| {
        let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_code {
            Ok(text.to_owned())
        } else {
            Err("expected a currency code such as USD".into())
        }
    });
    part.finish();
    currency.unwrap_or_else(|| "USD".to_owned())
}

fn log(root: &mut Section<'_>) -> LogSettings {
    let mut part = root.section("log");
    let level = part.choice("level", LogLevel::NAMES).unwrap_or(LogLevel::Info);
    let format = part.choice("format", LogFormat::NAMES).unwrap_or(LogFormat::Json);
    let calls = part.flag("calls", true);
    part.finish();
    LogSettings { level, format, calls }
}

fn roots(root: &mut Section<'_>) -> Roots {
    const ROOTS: &[(&str, Roots)] = &[("platform", Roots::Platform), ("bundled", Roots::Bundled)];
    let mut part = root.section("tls");
    let roots = part.choice("roots", ROOTS).unwrap_or(Roots::Platform);
    part.finish();
    roots
}
