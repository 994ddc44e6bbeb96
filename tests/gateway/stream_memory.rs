//! Memory per open stream, measured with two thousand stalled and flowing streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::harness::client::{Request, Response};
use crate::harness::openai::{Usage, chat, events};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};

const STREAMS: usize = 2_000;
const WARMUP_STREAMS: usize = 100;
/// Events of a stream: the first has no text, the last three end the stream.
const EVENTS: usize = 10;
const OPENERS: usize = 20;
/// Maximum memory per stream, stalled or flowing.
const BYTES_MAX: u64 = 32 << 10;
const USAGE: Usage = Usage { prompt: 9, completion: 20, cached: 0, reasoning: 0 };

/// A stream that stalls after two events and then sends one every 30 ms.
fn plan() -> Plan {
    let words = ["and so on"; EVENTS - 4];
    Plan::stream(events(&words, Some(USAGE)), Duration::from_millis(30)).insert_step(2, Step::Stall)
}

/// Raises the file limit to its maximum: each stream needs two sockets in the test and two in the
/// gateway.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised to the hard limit");
    let files_max = limit.maximum.unwrap_or(u64::MAX);
    assert!(5 * STREAMS as u64 <= files_max, "{STREAMS} streams need more files than {files_max}");
}

/// Opens streams concurrently and reads the first event of each.
async fn open_streams(tenant: &Tenant, streams: usize) -> Vec<Response> {
    let request = Request::chat(&tenant.key, chat("m", 99, true));
    let openers = (0..OPENERS).map(|_| {
        let (proxy, request) = (tenant.proxy.clone(), request.clone());
        tokio::spawn(async move {
            let mut opened = Vec::new();
            for _ in 0..streams / OPENERS {
                let mut answer = request.send(&proxy).await;
                assert_eq!(answer.status, 200);
                answer.piece().await.expect("no cut").expect("an event");
                opened.push(answer);
            }
            opened
        })
    });
    let mut all = Vec::new();
    for opener in openers.collect::<Vec<_>>() {
        all.extend(opener.await.expect("the streams open"));
    }
    all
}

async fn finish_streams(streams: Vec<Response>) {
    let ends = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            let (rest, whole) = stream.read_to_end().await;
            assert!(whole && rest.ends_with(b"data: [DONE]\n\n"), "the stream completes");
        })
    });
    for end in ends.collect::<Vec<_>>() {
        end.await.expect("a stream ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_takes_no_more_than_32_kb() {
    raise_file_limit();
    let ended = Arc::new(AtomicBool::new(false));
    let provider = {
        let ended = Arc::clone(&ended);
        let on_end: Arc<dyn Fn() + Send + Sync> = Arc::new(move || ended.store(true, SeqCst));
        Upstream::start(move |_| plan().insert_step(EVENTS - 1, Step::Notify(Arc::clone(&on_end))))
            .await
    };
    let rows = upstream("a", &provider.url) + &model("m", "upstream = \"a\"");
    let served = Server::start(ConfigDir::new(&rows)).await;
    let tenant = served.tenant(1_000_000_000_000, "{}").await;
    provider.release();
    finish_streams(open_streams(&tenant, WARMUP_STREAMS).await).await;
    provider.stall_again();
    ended.store(false, SeqCst);
    let baseline = served.resident_bytes();
    let streams = open_streams(&tenant, STREAMS).await;
    let per_stream = |memory: u64| (memory - baseline) / STREAMS as u64;
    let stalled = per_stream(served.resident_bytes());
    provider.release();
    let ending = tokio::spawn(finish_streams(streams));
    let mut memory_max = 0;
    while !ended.load(SeqCst) {
        memory_max = memory_max.max(served.resident_bytes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let flowing = per_stream(memory_max);
    ending.await.expect("all end");
    println!("bytes per stream: {stalled} stalled, {flowing} flowing");
    assert!(stalled <= BYTES_MAX && flowing <= BYTES_MAX, "{stalled}, flowing {flowing}");
    let calls = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(calls, (WARMUP_STREAMS + STREAMS) as u64);
    tenant.assert_settled().await;
}
