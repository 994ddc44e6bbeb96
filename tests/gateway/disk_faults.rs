//! Disks that fill, break and become read only, under load: no end without a debit, no debit twice,
//! and nothing held when it is over.

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
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

pub const FUNDS: i128 = 1_000_000_000_000;
pub const USAGE: Usage = Usage { prompt: 20, completion: 7, cached: 0, reasoning: 0 };
const CONCURRENCY: usize = 32;
/// As long as may be, so that few calls fill a segment.
const MODEL_NAME_PARTS: [&str; 4] = ["a-model-whose-name-is-long"; 4];
/// The least that the gateway takes.
const SMALLEST_SEGMENT: &str = "segment_bytes = 1048576\n";

/// A gateway on a disk that the test has in its hand, a provider that answers at once, and who
/// calls.
pub struct FaultyGateway {
    pub upstream: Upstream,
    pub server: Served,
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
        let (shim, place) = FaultShim::install(Place::new(&config_rows(journal, &provider)));
        let served = Served::start(place).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        Self { upstream: provider, server: served, tenant, shim }
    }

    /// After its end: again, in the same place.
    pub async fn restart(self) -> Self {
        let served = self.server.restart().await;
        let tenant = served.rebind(self.tenant);
        Self { server: served, tenant, ..self }
    }

    async fn readiness(&self) -> u16 {
        Request::get("/readyz").send(&self.server.admin).await.status
    }

    async fn wait_ready(&self) {
        eventually("it is ready", async || (self.readiness().await == 200).then_some(())).await;
    }

    /// The process ends by itself, and says why.
    async fn assert_exits(&mut self, code: i32, why: &str) {
        assert_eq!(self.server.ended().await.code(), Some(code));
        let log = self.server.log();
        assert!(log.contains(why), "{why} stands in {log}");
    }

    /// Every call whose end was seen has its one debit, at its price; no call has one that did not
    /// reach the provider; nothing is held.
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
            assert_eq!(debits.get(id), Some(&cost), "whose end was seen has its debit: {id}");
        }
        let all = debits.len();
        assert!(
            all <= self.upstream.request_count(),
            "{all} debits of {} calls",
            self.upstream.request_count()
        );
        let usage = self.tenant.usage().await.at("dailyUsage");
        let tokens = usage.at("tokenCount").count();
        assert_eq!(tokens, all as u64 * USAGE.total(), "usage is that of the debits: {usage}");
    }
}

/// What each call was debited; `at_rest` has seen that none was twice.
pub async fn debits_by_call(tenant: &Tenant) -> HashMap<String, i128> {
    let records = tenant.records().await;
    let debits = records.iter().filter(|record| record.at("type").text() == "Consume");
    debits.map(|debit| (debit.at("requestLogId").text(), debit.at("amount").nano())).collect()
}

/// What callers saw.
#[derive(Default)]
pub struct CallerResults {
    /// Ids of calls whose end was seen.
    pub completed: Vec<String>,
    pub refused: Vec<FullResponse>,
}

impl CallerResults {
    /// There were refusals, and each is as clients understand it.
    #[track_caller]
    fn assert_clean_refusals(&self) {
        assert!(!self.refused.is_empty(), "calls are refused");
        for told in &self.refused {
            told.assert_error(503, &["overloaded"]);
            assert_eq!(told.retry_after(), 1, "{told:?}");
        }
    }
}

/// Callers that call without a pause.
pub struct Load {
    callers: Vec<JoinHandle<CallerResults>>,
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Load {
    pub fn start(tenant: &Tenant) -> Self {
        let (stop, completed, refused) = <(Arc<AtomicBool>, Arc<_>, Arc<_>)>::default();
        let caller = |turn: usize| {
            let request =
                Request::chat(&tenant.key, chat(&long_model_name(), 30, turn.is_multiple_of(2)));
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

    /// Waits until so many more have seen the end of their calls.
    pub async fn wait_completed(&self, more: usize) {
        let before = self.completed.load(Ordering::Relaxed);
        eventually("calls come to their ends", async || {
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
        let mut all = CallerResults::default();
        for caller in self.callers {
            let seen = caller.await.expect("a caller ends");
            all.completed.extend(seen.completed);
            all.refused.extend(seen.refused);
        }
        all
    }
}

/// Calls until it is told to stop or nobody listens any more.
async fn call_until_stopped(
    request: Request,
    proxy: String,
    stop: Arc<AtomicBool>,
    [ended, refused]: [Arc<AtomicUsize>; 2],
) -> CallerResults {
    let mut seen = CallerResults::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut answer) = request.try_send(&proxy).await else { break };
        if answer.status == 200 {
            let (body, whole) = answer.read_to_end().await;
            let is_stream = answer.header("content-type") != Some("application/json");
            // Whoever has seen the last event has seen the end, however the connection ends.
            if whole || is_stream && body.ends_with(b"data: [DONE]\n\n") {
                seen.completed.push(answer.id());
                ended.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            seen.refused.push(FullResponse::read(answer).await);
            refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_calls_until_space_returns() {
    let scene = FaultyGateway::new("").await;
    let load = Load::start(&scene.tenant);
    load.wait_completed(50).await;
    scene.shim.inject(&[("allocate", "*", ENOSPC), ("grow", "*", ENOSPC)]);
    load.wait_refused(50).await;
    assert_eq!(scene.readiness().await, 503);
    scene.shim.clear();
    load.wait_completed(100).await;
    scene.wait_ready().await;
    let seen = load.stop().await;
    seen.assert_clean_refusals();
    scene.assert_reconciled(&seen).await;
    let usage = scene.tenant.usage().await.at("dailyUsage");
    assert_eq!(usage.at("requestCount").count(), scene.upstream.request_count() as u64, "{usage}");
    // No silence about it, and no flood.
    let told = scene.server.log().matches("no space for the next journal segment").count();
    assert!((1..=60).contains(&told), "{told} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_database_refuses_calls_only_at_full_backlog() {
    for faults in [
        [("sync", ".db-wal", EIO), ("write", ".db", EIO)],
        [("grow", ".db-wal", ENOSPC), ("write", ".db", ENOSPC)],
    ] {
        let scene = FaultyGateway::new("backlog_bytes_max = 1048576\n").await;
        let load = Load::start(&scene.tenant);
        load.wait_completed(50).await;
        scene.shim.inject(&faults);
        load.wait_completed(200).await;
        load.wait_refused(50).await;
        assert_eq!(scene.readiness().await, 503, "{faults:?}");
        scene.shim.clear();
        load.wait_completed(100).await;
        scene.wait_ready().await;
        let seen = load.stop().await;
        seen.assert_clean_refusals();
        scene.assert_reconciled(&seen).await;
        let usage = scene.tenant.usage().await.at("dailyUsage");
        assert_eq!(
            usage.at("requestCount").count(),
            scene.upstream.request_count() as u64,
            "{usage}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_forever_for_a_failing_database() {
    let mut scene = FaultyGateway::new("").await;
    let load = Load::start(&scene.tenant);
    load.wait_completed(20).await;
    scene.shim.inject(&[("sync", ".db-wal", EIO), ("write", ".db", EIO)]);
    load.wait_completed(50).await;
    let seen = load.stop().await;
    scene.server.terminate();
    assert!(scene.server.ended().await.success(), "what the database lacks is in the journal");
    scene.shim.clear();
    let scene = scene.restart().await;
    scene.assert_reconciled(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_write_or_sync_failure_exits_without_losing_debits() {
    const WRITE: &str = "journal write failed";
    const SYNC: &str = "a sync of the journal failed";
    for (durability, fault, why) in [
        ("process", ("write", ".journal", EIO), WRITE),
        ("process", ("write", ".journal", ENOSPC), WRITE),
        ("power", ("write", ".journal", EIO), WRITE),
        ("power", ("sync", ".journal", EIO), SYNC),
    ] {
        let mut scene = FaultyGateway::new(&format!("durability = \"{durability}\"\n")).await;
        let load = Load::start(&scene.tenant);
        load.wait_completed(50).await;
        scene.shim.inject(&[fault]);
        scene.assert_exits(70, why).await;
        let seen = load.stop().await;
        assert!(seen.refused.is_empty(), "nobody is told more than nothing: {:?}", seen.refused);
        scene.shim.clear();
        let scene = scene.restart().await;
        scene.assert_reconciled(&seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_journal_writes_are_continued() {
    let scene = FaultyGateway::new("").await;
    scene.shim.inject(&[("write", ".journal", SHORT)]);
    let load = Load::start(&scene.tenant);
    load.wait_completed(300).await;
    let seen = load.stop().await;
    assert!(seen.refused.is_empty(), "{:?}", seen.refused);
    scene.assert_reconciled(&seen).await;
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
    let mut scene = FaultyGateway::new("").await;
    let load = Load::start(&scene.tenant);
    load.wait_completed(50).await;
    scene.shim.inject(&READ_ONLY);
    scene.assert_exits(70, "journal write failed").await;
    let seen = load.stop().await;
    let (status, told) = scene.server.try_restart().await;
    assert_eq!(status.code(), Some(1), "{told}");
    let folder = scene.server.path("data");
    assert!(told.contains(folder.to_str().expect("text")), "it names the folder: {told}");
    assert!(told.contains("Read-only file system"), "{told}");
    assert!(told.contains("check permissions"), "it says what to do: {told}");
    scene.shim.clear();
    let scene = scene.restart().await;
    scene.assert_reconciled(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_startup_is_reported_with_advice() {
    let mut scene = FaultyGateway::new("").await;
    let load = Load::start(&scene.tenant);
    load.wait_completed(50).await;
    scene.shim.inject(&[("allocate", "*", ENOSPC), ("write", "*", ENOSPC)]);
    scene.assert_exits(70, "journal write failed").await;
    let seen = load.stop().await;
    let (status, told) = scene.server.try_restart().await;
    assert_eq!(status.code(), Some(1), "{told}");
    let folder = scene.server.path("data");
    assert!(told.contains(folder.to_str().expect("text")), "it names the folder: {told}");
    assert!(told.contains("free disk space"), "it says what to do: {told}");
    scene.shim.clear();
    let scene = scene.restart().await;
    scene.assert_reconciled(&seen).await;
}
