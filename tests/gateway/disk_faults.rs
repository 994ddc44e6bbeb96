//! Full, failing and read-only disks under load: no completed call without a debit, no debit twice,
//! and no hold left afterwards.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::harness::client::Request;
use crate::harness::fault_shim::{EIO, ENOSPC, EROFS, FaultShim, SHORT};
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

pub const FUNDS: i128 = 1_000_000_000_000;
pub const USAGE: Usage = Usage { prompt: 20, completion: 7, cached: 0, reasoning: 0 };
const CONCURRENCY: usize = 32;
/// As long as permitted, so that few calls fill a segment.
const MODEL_NAME_PARTS: [&str; 4] = ["a-model-whose-name-is-long"; 4];
/// The smallest segment that the gateway accepts.
const SMALLEST_SEGMENT: &str = "segment_bytes = 1048576\n";

/// A gateway on a disk with injected faults, an upstream that responds at once, and a tenant.
pub struct FaultyGateway {
    pub upstream: Upstream,
    pub server: Server,
    pub tenant: Tenant,
    pub shim: FaultShim,
}

pub fn long_model_name() -> String {
    MODEL_NAME_PARTS.join("-")
}

pub fn config_rows(journal: &str, provider: &Upstream) -> String {
    format!("[journal]\n{SMALLEST_SEGMENT}{journal}")
        + &upstream("steady", &provider.url)
        + &model(&long_model_name(), r#"upstream = "steady""#)
}

impl FaultyGateway {
    async fn new(journal: &str) -> Self {
        let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
        let (shim, config_dir) =
            FaultShim::install(ConfigDir::new(&config_rows(journal, &provider)));
        let server = Server::start(config_dir).await;
        let tenant = server.tenant(FUNDS, "{}").await;
        Self { upstream: provider, server, tenant, shim }
    }

    /// Kills the process and starts it again with the same configuration.
    pub async fn restart(self) -> Self {
        let server = self.server.restart().await;
        let tenant = server.rebind(self.tenant);
        Self { server, tenant, ..self }
    }

    async fn readiness(&self) -> u16 {
        Request::get("/readyz").send(&self.server.admin).await.status
    }

    async fn wait_ready(&self) {
        eventually("the gateway is ready", async || (self.readiness().await == 200).then_some(()))
            .await;
    }

    /// Asserts that the process exits with `code` and logs `why`.
    async fn assert_exits(&mut self, code: i32, why: &str) {
        assert_eq!(self.server.wait_exit().await.code(), Some(code));
        let log = self.server.log();
        assert!(log.contains(why), "{why} is in {log}");
    }

    /// Asserts that every completed call has its one debit at its price, that no call has a debit
    /// that did not reach the upstream, and that nothing is held.
    pub async fn assert_reconciled(&self, seen: &CallerResults) {
        eventually("the ledger has caught up", async || {
            let metrics = Request::get("/metrics").send(&self.server.admin).await.text().await;
            metrics.contains("meteor_journal_backlog_bytes 0\n").then_some(())
        })
        .await;
        self.tenant.assert_settled().await;
        let debits = debits_by_call(&self.tenant).await;
        let cost = GPT_4O_MINI.cost(USAGE);
        for id in &seen.completed {
            assert_eq!(debits.get(id), Some(&cost), "a completed call has its debit: {id}");
        }
        let results = debits.len();
        assert!(
            results <= self.upstream.request_count(),
            "{results} debits of {} calls",
            self.upstream.request_count()
        );
        let usage = self.tenant.usage().await.at("dailyUsage");
        let tokens = usage.at("tokenCount").count();
        assert_eq!(tokens, results as u64 * USAGE.total(), "usage is that of the debits: {usage}");
    }
}

/// The debit of each call. `assert_settled` has checked that none is debited twice.
pub async fn debits_by_call(tenant: &Tenant) -> HashMap<String, i128> {
    let records = tenant.records().await;
    let debits = records.iter().filter(|record| record.at("type").text() == "Consume");
    debits.map(|debit| (debit.at("requestLogId").text(), debit.at("amount").nano())).collect()
}

/// What the callers observed.
#[derive(Default)]
pub struct CallerResults {
    /// Ids of calls whose end arrived.
    pub completed: Vec<String>,
    pub refused: Vec<FullResponse>,
}

impl CallerResults {
    /// Asserts that there are refusals and that each is one that clients retry.
    #[track_caller]
    fn assert_clean_refusals(&self) {
        assert!(!self.refused.is_empty(), "calls are refused");
        for refusal in &self.refused {
            refusal.assert_error(503, &["overloaded"]);
            assert_eq!(refusal.retry_after(), 1, "{refusal:?}");
        }
    }
}

/// Callers that call without pause.
pub struct Load {
    callers: Vec<JoinHandle<CallerResults>>,
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Load {
    pub fn start(tenant: &Tenant) -> Self {
        let (stop, completed, refused) = <(Arc<AtomicBool>, Arc<_>, Arc<_>)>::default();
        let caller = |index: usize| {
            let request =
                Request::chat(&tenant.key, chat(&long_model_name(), 30, index.is_multiple_of(2)));
            tokio::spawn(call_until_stopped(
                request,
                tenant.proxy.clone(),
                Arc::clone(&stop),
                [Arc::clone(&completed), Arc::clone(&refused)],
            ))
        };
        let callers = (0..CONCURRENCY).map(caller).collect();
        Self { callers, stop, completed, refused }
    }

    /// Waits until this many further calls have completed.
    pub async fn wait_completed(&self, more: usize) {
        let before = self.completed.load(Ordering::Relaxed);
        eventually("calls complete", async || {
            (before + more <= self.completed.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    async fn wait_refused(&self, more: usize) {
        let before = self.refused.load(Ordering::Relaxed);
        eventually("calls are refused", async || {
            (before + more <= self.refused.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    pub async fn stop(self) -> CallerResults {
        self.stop.store(true, Ordering::Relaxed);
        let mut results = CallerResults::default();
        for caller in self.callers {
            let seen = caller.await.expect("a caller ends");
            results.completed.extend(seen.completed);
            results.refused.extend(seen.refused);
        }
        results
    }
}

/// Calls until `stop` is set or the gateway is gone.
async fn call_until_stopped(
    request: Request,
    proxy: String,
    stop: Arc<AtomicBool>,
    [ended, refused]: [Arc<AtomicUsize>; 2],
) -> CallerResults {
    let mut seen = CallerResults::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut response) = request.try_send(&proxy).await else { break };
        if response.status == 200 {
            let (body, complete) = response.read_to_end().await;
            let is_stream = response.header("content-type") != Some("application/json");
            // A client that has the last event has seen the end, however the connection closes.
            if complete || is_stream && body.ends_with(b"data: [DONE]\n\n") {
                seen.completed.push(response.id());
                ended.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            seen.refused.push(FullResponse::read(response).await);
            refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_calls_until_space_returns() {
    let gateway = FaultyGateway::new("").await;
    let load = Load::start(&gateway.tenant);
    load.wait_completed(50).await;
    gateway.shim.inject(&[("allocate", "*", ENOSPC), ("grow", "*", ENOSPC)]);
    load.wait_refused(50).await;
    assert_eq!(gateway.readiness().await, 503);
    gateway.shim.clear();
    load.wait_completed(100).await;
    gateway.wait_ready().await;
    let seen = load.stop().await;
    seen.assert_clean_refusals();
    gateway.assert_reconciled(&seen).await;
    let usage = gateway.tenant.usage().await.at("dailyUsage");
    assert_eq!(
        usage.at("requestCount").count(),
        gateway.upstream.request_count() as u64,
        "{usage}"
    );
    // The problem is logged, at a limited rate.
    let count = gateway.server.log().matches("no space for the next journal segment").count();
    assert!((1..=60).contains(&count), "{count} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_database_refuses_calls_only_at_full_backlog() {
    for faults in [
        [("sync", ".db-wal", EIO), ("write", ".db", EIO)],
        [("grow", ".db-wal", ENOSPC), ("write", ".db", ENOSPC)],
    ] {
        let gateway = FaultyGateway::new("backlog_bytes_max = 1048576\n").await;
        let load = Load::start(&gateway.tenant);
        load.wait_completed(50).await;
        gateway.shim.inject(&faults);
        load.wait_completed(200).await;
        load.wait_refused(50).await;
        assert_eq!(gateway.readiness().await, 503, "{faults:?}");
        gateway.shim.clear();
        load.wait_completed(100).await;
        gateway.wait_ready().await;
        let seen = load.stop().await;
        seen.assert_clean_refusals();
        gateway.assert_reconciled(&seen).await;
        let usage = gateway.tenant.usage().await.at("dailyUsage");
        assert_eq!(
            usage.at("requestCount").count(),
            gateway.upstream.request_count() as u64,
            "{usage}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_forever_for_a_failing_database() {
    let mut gateway = FaultyGateway::new("").await;
    let load = Load::start(&gateway.tenant);
    load.wait_completed(20).await;
    gateway.shim.inject(&[("sync", ".db-wal", EIO), ("write", ".db", EIO)]);
    load.wait_completed(50).await;
    let seen = load.stop().await;
    gateway.server.terminate();
    assert!(
        gateway.server.wait_exit().await.success(),
        "what the database lacks is in the journal"
    );
    gateway.shim.clear();
    let gateway = gateway.restart().await;
    gateway.assert_reconciled(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_write_or_sync_failure_exits_without_losing_debits() {
    const WRITE: &str = "journal write failed";
    const SYNC: &str = "journal sync failed";
    for (durability, fault, why) in [
        ("process", ("write", ".journal", EIO), WRITE),
        ("process", ("write", ".journal", ENOSPC), WRITE),
        ("power", ("write", ".journal", EIO), WRITE),
        ("power", ("sync", ".journal", EIO), SYNC),
    ] {
        let mut gateway = FaultyGateway::new(&format!("durability = \"{durability}\"\n")).await;
        let load = Load::start(&gateway.tenant);
        load.wait_completed(50).await;
        gateway.shim.inject(&[fault]);
        gateway.assert_exits(70, why).await;
        let seen = load.stop().await;
        assert!(seen.refused.is_empty(), "no call is refused: {:?}", seen.refused);
        gateway.shim.clear();
        let gateway = gateway.restart().await;
        gateway.assert_reconciled(&seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_journal_writes_are_continued() {
    let gateway = FaultyGateway::new("").await;
    gateway.shim.inject(&[("write", ".journal", SHORT)]);
    let load = Load::start(&gateway.tenant);
    load.wait_completed(300).await;
    let seen = load.stop().await;
    assert!(seen.refused.is_empty(), "{:?}", seen.refused);
    gateway.assert_reconciled(&seen).await;
}

const READ_ONLY: [(&str, &str, u32); 5] = [
    ("open", "*", EROFS),
    ("write", "*", EROFS),
    ("grow", "*", EROFS),
    ("allocate", "*", EROFS),
    ("sync", "*", EROFS),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_file_system_exits_and_blocks_restart() {
    let mut gateway = FaultyGateway::new("").await;
    let load = Load::start(&gateway.tenant);
    load.wait_completed(50).await;
    gateway.shim.inject(&READ_ONLY);
    gateway.assert_exits(70, "journal write failed").await;
    let seen = load.stop().await;
    let (status, log) = gateway.server.try_restart().await;
    assert_eq!(status.code(), Some(1), "{log}");
    let folder = gateway.server.path("data");
    assert!(log.contains(folder.to_str().expect("text")), "the log names the folder: {log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(log.contains("check permissions"), "the log says what to do: {log}");
    gateway.shim.clear();
    let gateway = gateway.restart().await;
    gateway.assert_reconciled(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_startup_is_reported_with_advice() {
    let mut gateway = FaultyGateway::new("").await;
    let load = Load::start(&gateway.tenant);
    load.wait_completed(50).await;
    gateway.shim.inject(&[("allocate", "*", ENOSPC), ("write", "*", ENOSPC)]);
    gateway.assert_exits(70, "journal write failed").await;
    let seen = load.stop().await;
    let (status, log) = gateway.server.try_restart().await;
    assert_eq!(status.code(), Some(1), "{log}");
    let folder = gateway.server.path("data");
    assert!(log.contains(folder.to_str().expect("text")), "the log names the folder: {log}");
    assert!(log.contains("free disk space"), "the log says what to do: {log}");
    gateway.shim.clear();
    let gateway = gateway.restart().await;
    gateway.assert_reconciled(&seen).await;
}
