//! Disks that fill, break and become read only, under load: no end without a debit, no debit twice,
//! and nothing held when it is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::client::Request;
use crate::openai::{Usage, chat, reply};
use crate::price::GPT_4O_MINI;
use crate::served::{Place, Served, model, upstream};
use crate::shim::{EIO, ENOSPC, EROFS, SHORT, Shim};
use crate::tenant::Tenant;
use crate::told::Told;
use crate::upstream::Upstream;
use crate::wait::eventually;

pub const FUNDS: i128 = 1_000_000_000_000;
pub const USAGE: Usage = Usage { prompt: 20, completion: 7, cached: 0, reasoning: 0 };
const ABREAST: usize = 32;
/// As long as may be, so that few calls fill a segment.
const MODEL: [&str; 4] = ["a-model-whose-name-is-long"; 4];
/// The least that the gateway takes.
const SMALL: &str = "segment_bytes = 1048576\n";

/// A gateway on a disk that the test has in its hand, a provider that answers at once, and who
/// calls.
pub struct Scene {
    pub provider: Upstream,
    pub served: Served,
    pub tenant: Tenant,
    pub shim: Shim,
}

pub fn long_name() -> String {
    MODEL.join("-")
}

pub fn rows(journal: &str, provider: &Upstream) -> String {
    format!("[journal]\n{SMALL}{journal}")
        + &upstream("steady", &provider.url)
        + &model(&long_name(), r#"upstream = "steady""#)
}

impl Scene {
    async fn new(journal: &str) -> Self {
        let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
        let (shim, place) = Shim::under(Place::new(&rows(journal, &provider)));
        let served = Served::start(place).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        Self { provider, served, tenant, shim }
    }

    /// After its end: again, in the same place.
    pub async fn again(self) -> Self {
        let served = self.served.again().await;
        let tenant = served.home(self.tenant);
        Self { served, tenant, ..self }
    }

    async fn readiness(&self) -> u16 {
        Request::get("/readyz").send(&self.served.admin).await.status
    }

    async fn is_ready(&self) {
        eventually("it is ready", async || (self.readiness().await == 200).then_some(())).await;
    }

    /// The process ends by itself, and says why.
    async fn ends(&mut self, code: i32, why: &str) {
        assert_eq!(self.served.ended().await.code(), Some(code));
        let log = self.served.log();
        assert!(log.contains(why), "{why} stands in {log}");
    }

    /// Every call whose end was seen has its one debit, at its price; no call has one that did not
    /// reach the provider; nothing is held.
    pub async fn reconciles(&self, seen: &Seen) {
        eventually("the ledger has caught up", async || {
            let metrics = Request::get("/metrics").send(&self.served.admin).await.text().await;
            metrics.contains("meteor_journal_backlog_bytes 0\n").then_some(())
        })
        .await;
        self.tenant.at_rest().await;
        let debits = debits(&self.tenant).await;
        let cost = GPT_4O_MINI.cost(USAGE);
        for id in &seen.ended {
            assert_eq!(debits.get(id), Some(&cost), "whose end was seen has its debit: {id}");
        }
        let all = debits.len();
        assert!(all <= self.provider.count(), "{all} debits of {} calls", self.provider.count());
        let usage = self.tenant.usage().await.at("dailyUsage");
        let tokens = usage.at("tokenCount").count();
        assert_eq!(tokens, all as u64 * USAGE.total(), "usage is that of the debits: {usage}");
    }
}

/// What each call was debited; `at_rest` has seen that none was twice.
pub async fn debits(tenant: &Tenant) -> HashMap<String, i128> {
    let records = tenant.records().await;
    let debits = records.iter().filter(|record| record.at("type").text() == "Consume");
    debits.map(|debit| (debit.at("requestLogId").text(), debit.at("amount").nano())).collect()
}

/// What callers saw.
#[derive(Default)]
pub struct Seen {
    /// Ids of calls whose end was seen.
    pub ended: Vec<String>,
    pub refused: Vec<Told>,
}

impl Seen {
    /// There were refusals, and each is as clients understand it.
    #[track_caller]
    fn are_clean(&self) {
        assert!(!self.refused.is_empty(), "calls are refused");
        for told in &self.refused {
            told.is(503, &["overloaded"]);
            assert_eq!(told.retry_after(), 1, "{told:?}");
        }
    }
}

/// Callers that call without a pause.
pub struct Load {
    callers: Vec<JoinHandle<Seen>>,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Load {
    pub fn begin(tenant: &Tenant) -> Self {
        let (stop, ended, refused) = <(Arc<AtomicBool>, Arc<_>, Arc<_>)>::default();
        let caller = |turn: usize| {
            let request =
                Request::chat(&tenant.key, chat(&long_name(), 30, turn.is_multiple_of(2)));
            tokio::spawn(call(
                request,
                tenant.proxy.clone(),
                Arc::clone(&stop),
                [Arc::clone(&ended), Arc::clone(&refused)],
            ))
        };
        let callers = (0..ABREAST).map(caller).collect();
        Self { callers, stop, ended, refused }
    }

    /// Waits until so many more have seen the end of their calls.
    pub async fn ended(&self, more: usize) {
        let before = self.ended.load(Ordering::Relaxed);
        eventually("calls come to their ends", async || {
            (before + more <= self.ended.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    async fn refused(&self, more: usize) {
        let before = self.refused.load(Ordering::Relaxed);
        eventually("calls are refused", async || {
            (before + more <= self.refused.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for caller in self.callers {
            let seen = caller.await.expect("a caller ends");
            all.ended.extend(seen.ended);
            all.refused.extend(seen.refused);
        }
        all
    }
}

/// Calls until it is told to stop or nobody listens any more.
async fn call(
    request: Request,
    proxy: String,
    stop: Arc<AtomicBool>,
    [ended, refused]: [Arc<AtomicUsize>; 2],
) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut answer) = request.try_send(&proxy).await else { break };
        if answer.status == 200 {
            let (body, whole) = answer.rest().await;
            let is_stream = answer.header("content-type") != Some("application/json");
            // Whoever has seen the last event has seen the end, however the connection ends.
            if whole || is_stream && body.ends_with(b"data: [DONE]\n\n") {
                seen.ended.push(answer.id());
                ended.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            seen.refused.push(Told::by(answer).await);
            refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_refuses_calls_and_serves_them_again_when_there_is_room() {
    let scene = Scene::new("").await;
    let load = Load::begin(&scene.tenant);
    load.ended(50).await;
    scene.shim.fails(&[("allocate", "*", ENOSPC), ("grow", "*", ENOSPC)]);
    load.refused(50).await;
    assert_eq!(scene.readiness().await, 503);
    scene.shim.heals();
    load.ended(100).await;
    scene.is_ready().await;
    let seen = load.stop().await;
    seen.are_clean();
    scene.reconciles(&seen).await;
    let usage = scene.tenant.usage().await.at("dailyUsage");
    assert_eq!(usage.at("requestCount").count(), scene.provider.count() as u64, "{usage}");
    // No silence about it, and no flood.
    let told = scene.served.log().matches("no room for the next journal segment").count();
    assert!((1..=60).contains(&told), "{told} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_commit_costs_calls_only_when_the_backlog_is_full() {
    for faults in [
        [("sync", ".db-wal", EIO), ("write", ".db", EIO)],
        [("grow", ".db-wal", ENOSPC), ("write", ".db", ENOSPC)],
    ] {
        let scene = Scene::new("backlog_bytes_max = 1048576\n").await;
        let load = Load::begin(&scene.tenant);
        load.ended(50).await;
        scene.shim.fails(&faults);
        load.ended(200).await;
        load.refused(50).await;
        assert_eq!(scene.readiness().await, 503, "{faults:?}");
        scene.shim.heals();
        load.ended(100).await;
        scene.is_ready().await;
        let seen = load.stop().await;
        seen.are_clean();
        scene.reconciles(&seen).await;
        let usage = scene.tenant.usage().await.at("dailyUsage");
        assert_eq!(usage.at("requestCount").count(), scene.provider.count() as u64, "{usage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever_for_a_database_that_fails() {
    let mut scene = Scene::new("").await;
    let load = Load::begin(&scene.tenant);
    load.ended(20).await;
    scene.shim.fails(&[("sync", ".db-wal", EIO), ("write", ".db", EIO)]);
    load.ended(50).await;
    let seen = load.stop().await;
    scene.served.terminate();
    assert!(scene.served.ended().await.success(), "what the database lacks is in the journal");
    scene.shim.heals();
    let scene = scene.again().await;
    scene.reconciles(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_or_synced_ends_the_process_and_no_debit_is_lost() {
    const WRITE: &str = "the journal cannot be written";
    const SYNC: &str = "a sync of the journal failed";
    for (durability, fault, why) in [
        ("process", ("write", ".journal", EIO), WRITE),
        ("process", ("write", ".journal", ENOSPC), WRITE),
        ("power", ("write", ".journal", EIO), WRITE),
        ("power", ("sync", ".journal", EIO), SYNC),
    ] {
        let mut scene = Scene::new(&format!("durability = \"{durability}\"\n")).await;
        let load = Load::begin(&scene.tenant);
        load.ended(50).await;
        scene.shim.fails(&[fault]);
        scene.ends(70, why).await;
        let seen = load.stop().await;
        assert!(seen.refused.is_empty(), "nobody is told more than nothing: {:?}", seen.refused);
        scene.shim.heals();
        let scene = scene.again().await;
        scene.reconciles(&seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_cut_short_is_written_on() {
    let scene = Scene::new("").await;
    scene.shim.fails(&[("write", ".journal", SHORT)]);
    let load = Load::begin(&scene.tenant);
    load.ended(300).await;
    let seen = load.stop().await;
    assert!(seen.refused.is_empty(), "{:?}", seen.refused);
    scene.reconciles(&seen).await;
}

const READ_ONLY: [(&str, &str, u32); 5] = [
    ("open", "*", EROFS),
    ("write", "*", EROFS),
    ("grow", "*", EROFS),
    ("allocate", "*", EROFS),
    ("sync", "*", EROFS),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_becomes_read_only_ends_the_process_and_hinders_the_next_start() {
    let mut scene = Scene::new("").await;
    let load = Load::begin(&scene.tenant);
    load.ended(50).await;
    scene.shim.fails(&READ_ONLY);
    scene.ends(70, "the journal cannot be written").await;
    let seen = load.stop().await;
    let (status, told) = scene.served.tries_again().await;
    assert_eq!(status.code(), Some(1), "{told}");
    let folder = scene.served.path("data");
    assert!(told.contains(folder.to_str().expect("text")), "it names the folder: {told}");
    assert!(told.contains("Read-only file system"), "{told}");
    assert!(told.contains("make it writable"), "it says what to do: {told}");
    scene.shim.heals();
    let scene = scene.again().await;
    scene.reconciles(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_the_start_is_named_with_what_to_do() {
    let mut scene = Scene::new("").await;
    let load = Load::begin(&scene.tenant);
    load.ended(50).await;
    scene.shim.fails(&[("allocate", "*", ENOSPC), ("write", "*", ENOSPC)]);
    scene.ends(70, "the journal cannot be written").await;
    let seen = load.stop().await;
    let (status, told) = scene.served.tries_again().await;
    assert_eq!(status.code(), Some(1), "{told}");
    let folder = scene.served.path("data");
    assert!(told.contains(folder.to_str().expect("text")), "it names the folder: {told}");
    assert!(told.contains("make room"), "it says what to do: {told}");
    scene.shim.heals();
    let scene = scene.again().await;
    scene.reconciles(&seen).await;
}
