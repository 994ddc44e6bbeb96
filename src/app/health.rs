//! Health checks and metrics: `/livez`, `/healthz`, `/readyz`, `/metrics`, and `meteor health`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::accounting::key_directory::Directory;
use crate::journal::chains::Journal;
use crate::ledger::read_barrier::ReadBarrier;
use crate::organization::services::Services;
use crate::proxy::server::worker::SharedState;
use crate::telemetry::metric;

/// How long [`probe`] waits for the connection and for each read.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Requests `/readyz` from a gateway's admin listener and prints the response. Fails if the gateway
/// is not ready.
pub fn probe(admin: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&admin, PROBE_TIMEOUT)
        .with_context(|| format!("cannot connect to {admin}"))?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(format!("GET /readyz HTTP/1.0\r\nhost: {admin}\r\n\r\n").as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response).context("incomplete response")?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    print!("{body}");
    ensure!(head.split(' ').nth(1) == Some("200"), "{admin} is not ready");
    Ok(())
}

/// What the health routes read.
#[derive(Clone)]
pub struct Health {
    pub platform: Arc<Services>,
    pub shared: Arc<SharedState>,
    pub directory: Arc<Directory>,
    pub journal: Arc<Journal>,
    pub read_barrier: Arc<ReadBarrier>,
    pub started: Arc<AtomicBool>,
    pub metrics: PrometheusHandle,
}

/// Returns the router of `/livez`, `/healthz`, `/readyz` and `/metrics`.
pub fn routes(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/healthz", get(ready))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let checks = [
        ("started", health.started.load(Ordering::Acquire)),
        ("not draining", !health.shared.is_draining()),
        ("journal", health.journal.is_writable()),
    ];
    let line =
        |(name, passed): &(&str, bool)| format!("{}: {name}\n", if *passed { "ok" } else { "no" });
    let status = if checks.iter().all(|(_, passed)| *passed) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, checks.iter().map(line).collect())
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
async fn metrics(State(health): State<Health>) -> String {
    // Calls are counted when they are projected. Waiting makes a call that has been answered appear
    // in the metrics.
    health.read_barrier.wait_caught_up().await;
    let (open, held) = health.directory.live_state().open_holds();
    gauge!(metric::OPEN_HOLDS).set(open as f64);
    gauge!(metric::WAITING_CALLS).set(health.directory.live_state().waiting() as f64);
    gauge!(metric::OPEN_HOLDS_NANO).set(held.0 as f64);
    gauge!(metric::JOURNAL_BACKLOG_BYTES).set(health.journal.backlog_bytes() as f64);
    gauge!(metric::JOURNAL_WRITABLE).set(if health.journal.is_writable() { 1.0 } else { 0.0 });
    gauge!(metric::LEDGER_CHECK_AGE_SECONDS).set(health.platform.chain_auditor.age().as_secs_f64());
    health.metrics.run_upkeep();
    health.metrics.render()
}
