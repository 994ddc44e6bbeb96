//! Two providers of which one dies every second, under load: no client hears of it before the first
//! byte, and the books are exact.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, completion, events};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::random_callers::Random;
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};
use crate::kill_9::env_number;

const FUNDS: i128 = 1_000_000_000_000;
const CALLERS: u64 = 8;
const WORDS: [&str; 8] = ["one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight "];
/// How often somebody dies, and how long that one is dead. A call has the rest of the time to be
/// sent on before the other one dies, too.
const OUTAGE_INTERVAL: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_millis(300);
/// Tells the provider which call it is.
const MARKER: &str = "x-marker";

/// A provider behind a port that it can lose, with all of its connections.
struct FlakyUpstream {
    provider: Upstream,
    address: SocketAddr,
    /// Bound as long as the test runs, so that nobody else gets the port.
    _port: TcpSocket,
    forwarder: Option<JoinHandle<()>>,
}

fn bind_reusable(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket takes options");
    socket.bind(address).expect("the port is ours");
    socket
}

impl FlakyUpstream {
    async fn start() -> Self {
        let provider = Upstream::start(plan).await;
        let port = bind_reusable("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("a bound address");
        let mut own = Self { provider, address, _port: port, forwarder: None };
        own.accept_connections();
        own
    }

    fn accept_connections(&mut self) {
        let listener = bind_reusable(self.address).listen(1_024).expect("nobody else listens");
        let there = self.provider.url.trim_start_matches("http://").to_owned();
        self.forwarder = Some(tokio::spawn(forward_connections(listener, there)));
    }

    /// All connections close, and no other is accepted.
    async fn drop_connections(&mut self) {
        let life = self.forwarder.take().expect("it lives");
        life.abort();
        let ended = life.await;
        assert!(ended.is_err_and(|fault| fault.is_cancelled()), "it lived until now");
    }

    /// Which calls have reached it, each once.
    fn markers(&self) -> HashSet<u64> {
        let seen = self.provider.requests();
        let markers: HashSet<u64> = seen.iter().map(marker).collect();
        assert_eq!(markers.len(), seen.len(), "no call comes to one provider twice");
        markers
    }
}

/// Passes connections on until it is aborted; they end with it.
async fn forward_connections(listener: TcpListener, there: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        let there = there.clone();
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(there).await {
                let _ = near.set_nodelay(true).and(far.set_nodelay(true));
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn marker(seen: &ReceivedRequest) -> u64 {
    seen.header(MARKER).expect("a marker").parse().expect("a number")
}

/// What the call of that number uses.
fn usage(marker: u64) -> Usage {
    Usage { cached: marker % 5, ..Usage::of(10 + marker % 7, 1 + marker % 30) }
}

fn plan(seen: &ReceivedRequest) -> Plan {
    let mut dice = Random::new(marker(seen));
    let usage = usage(marker(seen));
    let pace = Duration::from_millis(dice.below(20));
    let plan = if seen.is_set("stream") {
        Plan::stream(events(&WORDS, Some(usage)), pace)
    } else {
        Plan::json(200, completion(usage))
    };
    plan.with_latency(Duration::from_millis(dice.below(30)))
}

/// What a client has seen of a call.
struct ObservedCall {
    marker: u64,
    id: String,
    complete: bool,
}

/// Calls until it is told to stop.
async fn call_until_stopped(
    tenant: Tenant,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Vec<ObservedCall> {
    let mut heard = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let marker = next.fetch_add(1, Ordering::Relaxed);
        let stream = !marker.is_multiple_of(3);
        let options = r#"{"stream_options":{"include_usage":true},"#;
        let body = chat("both", 40, stream);
        let body = if stream { body.replacen('{', options, 1) } else { body };
        let request = Request::chat(&tenant.key, body).header(MARKER, &marker.to_string());
        let mut answer = request.send(&tenant.proxy).await;
        let (id, status) = (answer.id(), answer.status);
        let (body, ended) = answer.read_to_end().await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 200, "a failure before the first byte of call {marker}: {body}");
        let usage = usage(marker);
        let whole = if stream { events(&WORDS, Some(usage)).concat() } else { completion(usage) };
        assert!(whole.starts_with(&body) && (body == whole || !ended), "{marker}: {body}");
        heard.push(ObservedCall { marker, id, complete: ended });
    }
    heard
}

/// One after the other dies and rises again.
async fn run_outages(mortals: &mut [FlakyUpstream; 2], seconds: u64) {
    for at in 0..seconds {
        let begun = Instant::now();
        let mortal = &mut mortals[usize::from(at % 2 == 1)];
        mortal.drop_connections().await;
        tokio::time::sleep(OUTAGE).await;
        mortal.accept_connections();
        tokio::time::sleep(OUTAGE_INTERVAL.saturating_sub(begun.elapsed())).await;
    }
}

/// `METEOR_FAILOVER` says for how many seconds.
#[tokio::test(flavor = "multi_thread")]
async fn alternating_upstream_outages_are_invisible_before_the_first_byte() {
    let seconds = env_number("METEOR_FAILOVER").unwrap_or(4);
    let mut mortals = [FlakyUpstream::start().await, FlakyUpstream::start().await];
    let targets = r#"targets = [{ upstream = "first" }, { upstream = "second" }]"#;
    let rows = upstream("first", &format!("http://{}", mortals[0].address))
        + &upstream("second", &format!("http://{}", mortals[1].address))
        + &model("both", targets);
    let place = Place::new(&rows).with("METEOR__PROXY__WORKERS", "2");
    let served = Served::start(place.with("METEOR__LOG__LEVEL", "info")).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begin =
        |_| tokio::spawn(call_until_stopped(tenant.clone(), Arc::clone(&next), Arc::clone(&stop)));
    let callers: Vec<_> = (0..CALLERS).map(begin).collect();
    run_outages(&mut mortals, seconds).await;
    stop.store(true, Ordering::Relaxed);
    let mut heard = Vec::new();
    for caller in callers {
        heard.extend(caller.await.expect("a caller whose calls were all answered"));
    }
    let cuts = heard.iter().filter(|heard| !heard.complete).count();
    println!("{} calls in {seconds} s, {cuts} of them cut after their first byte", heard.len());
    assert!(cuts < heard.len(), "some came to their end");
    assert_exact_billing(&served, &tenant, &heard, &mortals).await;
}

/// Every call is recorded once, at what it used, and has reached whom its record names.
async fn assert_exact_billing(
    served: &Served,
    tenant: &Tenant,
    heard: &[ObservedCall],
    mortals: &[FlakyUpstream; 2],
) {
    tenant.assert_settled().await;
    let by_id = |rows: Vec<Json>| -> HashMap<String, Json> {
        rows.into_iter().map(|row| (row.at("requestLogId").text(), row)).collect()
    };
    let logs = by_id(tenant.logs().await);
    let mut records = tenant.records().await;
    records.retain(|record| record.at("type").text() == "Consume");
    assert_eq!((logs.len(), records.len()), (heard.len(), heard.len()), "each call once");
    let records = by_id(records);
    let reached =
        HashMap::from([("first", mortals[0].markers()), ("second", mortals[1].markers())]);
    let (mut spent, mut both) = (0, 0);
    for ObservedCall { marker, id, complete: ended } in heard {
        let (log, record) = (&logs[id], &records[id]);
        let count = |unit: &str| log.at("usage").at(unit).count();
        let noted = Usage {
            cached: count("cachedInputTokens"),
            ..Usage::of(count("inputTokens"), count("outputTokens"))
        };
        let cost = GPT_4O_MINI.cost(noted);
        assert_eq!(log.at("cost").nano(), cost, "{log}");
        assert_eq!(record.at("amount").nano(), cost, "{record}");
        spent += cost;
        if *ended {
            assert_eq!(cost, GPT_4O_MINI.cost(usage(*marker)), "by its usage: {log}");
            assert_eq!(log.at("settledBy").text(), "usage", "{log}");
        } else {
            assert!(0 < noted.prompt && noted.completion <= 40, "by what came: {log}");
        }
        assert!(reached[&*log.at("upstream").text()].contains(marker), "it was there: {log}");
        both += usize::from(reached.values().all(|markers| markers.contains(marker)));
        assert!((1..=2).contains(&log.at("attempts").count()), "{log}");
    }
    println!("{both} of them had reached both providers, and were charged once");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS - spent);
    let counted = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(counted, heard.len() as u64, "each is one request, however many were tried");
    let metrics = Request::get("/metrics").send(&served.admin).await.text().await;
    assert!(metrics.contains("\nmeteor_ledger_violations_total 0\n"), "the ledger is sound");
}
