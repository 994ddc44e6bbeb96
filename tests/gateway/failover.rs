//! Two upstreams that fail in turn every second, under load: clients see no failure before the
//! first byte, and billing is exact.

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
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};
use crate::kill_9::env_number;

const FUNDS: i128 = 1_000_000_000_000;
const CALLERS: u64 = 8;
const WORDS: [&str; 8] = ["one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight "];
/// Interval and duration of outages. In the remaining time a call can be retried before the other
/// upstream fails.
const OUTAGE_INTERVAL: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_millis(300);
/// Identifies the call to the upstream.
const MARKER: &str = "x-marker";

/// An upstream behind a port that can close together with all of its connections.
struct FlakyUpstream {
    provider: Upstream,
    address: SocketAddr,
    /// Stays bound during the test, so that no other process takes the port.
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
        let mut flaky = Self { provider, address, _port: port, forwarder: None };
        flaky.accept_connections();
        flaky
    }

    fn accept_connections(&mut self) {
        let listener = bind_reusable(self.address).listen(1_024).expect("the port is free");
        let target = self.provider.url.trim_start_matches("http://").to_owned();
        self.forwarder = Some(tokio::spawn(forward_connections(listener, target)));
    }

    /// Closes all connections and accepts no others.
    async fn drop_connections(&mut self) {
        let forwarder = self.forwarder.take().expect("the forwarder runs");
        forwarder.abort();
        let ended = forwarder.await;
        assert!(ended.is_err_and(|fault| fault.is_cancelled()), "the forwarder ran until now");
    }

    /// The calls that reached this upstream. Asserts that none did twice.
    fn markers(&self) -> HashSet<u64> {
        let seen = self.provider.requests();
        let markers: HashSet<u64> = seen.iter().map(marker).collect();
        assert_eq!(markers.len(), seen.len(), "no call reaches one upstream twice");
        markers
    }
}

/// Forwards connections until aborted; they end with it.
async fn forward_connections(listener: TcpListener, target: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let target = target.clone();
        connections.spawn(async move {
            if let Ok(mut upstream_connection) = TcpStream::connect(target).await {
                let _ = client.set_nodelay(true).and(upstream_connection.set_nodelay(true));
                let _ = copy_bidirectional(&mut client, &mut upstream_connection).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn marker(seen: &ReceivedRequest) -> u64 {
    seen.header(MARKER).expect("a marker").parse().expect("a number")
}

/// The usage of a call.
fn usage(marker: u64) -> Usage {
    Usage { cached: marker % 5, ..Usage::of(10 + marker % 7, 1 + marker % 30) }
}

fn plan(seen: &ReceivedRequest) -> Plan {
    let mut random = Random::new(marker(seen));
    let usage = usage(marker(seen));
    let pace = Duration::from_millis(random.below(20));
    let plan = if seen.is_set("stream") {
        Plan::stream(events(&WORDS, Some(usage)), pace)
    } else {
        Plan::json(200, completion(usage))
    };
    plan.with_latency(Duration::from_millis(random.below(30)))
}

/// What a client observed of a call.
struct ObservedCall {
    marker: u64,
    id: String,
    complete: bool,
}

/// Calls until `stop` is set.
async fn call_until_stopped(
    tenant: Tenant,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Vec<ObservedCall> {
    let mut calls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let marker = next.fetch_add(1, Ordering::Relaxed);
        let stream = !marker.is_multiple_of(3);
        let options = r#"{"stream_options":{"include_usage":true},"#;
        let body = chat("both", 40, stream);
        let body = if stream { body.replacen('{', options, 1) } else { body };
        let request = Request::chat(&tenant.key, body).header(MARKER, &marker.to_string());
        let mut response = request.send(&tenant.proxy).await;
        let (id, status) = (response.id(), response.status);
        let (body, ended) = response.read_to_end().await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 200, "a failure before the first byte of call {marker}: {body}");
        let usage = usage(marker);
        let expected =
            if stream { events(&WORDS, Some(usage)).concat() } else { completion(usage) };
        assert!(expected.starts_with(&body) && (body == expected || !ended), "{marker}: {body}");
        calls.push(ObservedCall { marker, id, complete: ended });
    }
    calls
}

/// Takes down one upstream after the other.
async fn run_outages(upstreams: &mut [FlakyUpstream; 2], seconds: u64) {
    for at in 0..seconds {
        let begun = Instant::now();
        let flaky = &mut upstreams[usize::from(at % 2 == 1)];
        flaky.drop_connections().await;
        tokio::time::sleep(OUTAGE).await;
        flaky.accept_connections();
        tokio::time::sleep(OUTAGE_INTERVAL.saturating_sub(begun.elapsed())).await;
    }
}

/// `METEOR_FAILOVER` is the duration in seconds.
#[tokio::test(flavor = "multi_thread")]
async fn alternating_upstream_outages_are_invisible_before_the_first_byte() {
    let seconds = env_number("METEOR_FAILOVER").unwrap_or(4);
    let mut upstreams = [FlakyUpstream::start().await, FlakyUpstream::start().await];
    let targets = r#"targets = [{ upstream = "first" }, { upstream = "second" }]"#;
    let rows = upstream("first", &format!("http://{}", upstreams[0].address))
        + &upstream("second", &format!("http://{}", upstreams[1].address))
        + &model("both", targets);
    let config_dir = ConfigDir::new(&rows).with_env("METEOR__PROXY__WORKERS", "2");
    let server = Server::start(config_dir.with_env("METEOR__LOG__LEVEL", "info")).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begin =
        |_| tokio::spawn(call_until_stopped(tenant.clone(), Arc::clone(&next), Arc::clone(&stop)));
    let callers: Vec<_> = (0..CALLERS).map(begin).collect();
    run_outages(&mut upstreams, seconds).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = Vec::new();
    for caller in callers {
        calls.extend(caller.await.expect("a caller"));
    }
    let cuts = calls.iter().filter(|calls| !calls.complete).count();
    println!("{} calls in {seconds} s, {cuts} of them cut after their first byte", calls.len());
    assert!(cuts < calls.len(), "some calls completed");
    assert_exact_billing(&server, &tenant, &calls, &upstreams).await;
}

/// Asserts that every call is recorded exactly one time with its usage, and reached the upstream in
/// its log entry.
async fn assert_exact_billing(
    server: &Server,
    tenant: &Tenant,
    calls: &[ObservedCall],
    upstreams: &[FlakyUpstream; 2],
) {
    tenant.assert_settled().await;
    let by_id = |rows: Vec<Json>| -> HashMap<String, Json> {
        rows.into_iter().map(|row| (row.at("requestLogId").text(), row)).collect()
    };
    let logs = by_id(tenant.logs().await);
    let mut records = tenant.records().await;
    records.retain(|record| record.at("type").text() == "Consume");
    assert_eq!((logs.len(), records.len()), (calls.len(), calls.len()), "one entry per call");
    let records = by_id(records);
    let calls_by_upstream =
        HashMap::from([("first", upstreams[0].markers()), ("second", upstreams[1].markers())]);
    let (mut total_cost, mut retried) = (0, 0);
    for ObservedCall { marker, id, complete: ended } in calls {
        let (log, record) = (&logs[id], &records[id]);
        let count = |unit: &str| log.at("usage").at(unit).count();
        let metered = Usage {
            cached: count("cachedInputTokens"),
            ..Usage::of(count("inputTokens"), count("outputTokens"))
        };
        let cost = GPT_4O_MINI.cost(metered);
        assert_eq!(log.at("cost").nano(), cost, "{log}");
        assert_eq!(record.at("amount").nano(), cost, "{record}");
        total_cost += cost;
        if *ended {
            assert_eq!(cost, GPT_4O_MINI.cost(usage(*marker)), "charged by its usage: {log}");
            assert_eq!(log.at("settledBy").text(), "usage", "{log}");
        } else {
            assert!(
                0 < metered.prompt && metered.completion <= 40,
                "charged by what arrived: {log}"
            );
        }
        assert!(
            calls_by_upstream[&*log.at("upstream").text()].contains(marker),
            "the upstream received the call: {log}"
        );
        retried += usize::from(calls_by_upstream.values().all(|markers| markers.contains(marker)));
        assert!((1..=2).contains(&log.at("attempts").count()), "{log}");
    }
    println!("{retried} of them reached both upstreams and were charged one time");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS - total_cost);
    let counted = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(counted, calls.len() as u64, "each call is one request, however many attempts");
    let metrics = Request::get("/metrics").send(&server.admin).await.text().await;
    assert!(metrics.contains("\nmeteor_ledger_violations_total 0\n"), "the ledger is sound");
}
