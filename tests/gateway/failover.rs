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

use crate::client::Request;
use crate::crowd::Dice;
use crate::json::Json;
use crate::kills::number;
use crate::openai::{Usage, chat, completion, events};
use crate::price::GPT_4O_MINI;
use crate::served::{Place, Served, model, upstream};
use crate::tenant::Tenant;
use crate::upstream::{Plan, Seen, Upstream};

const FUNDS: i128 = 1_000_000_000_000;
const CALLERS: u64 = 8;
const WORDS: [&str; 8] = ["one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight "];
/// How often somebody dies, and how long that one is dead. A call has the rest of the time to be
/// sent on before the other one dies, too.
const EVERY: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_millis(300);
/// Tells the provider which call it is.
const MARKER: &str = "x-marker";

/// A provider behind a port that it can lose, with all of its connections.
struct Mortal {
    provider: Upstream,
    address: SocketAddr,
    /// Bound as long as the test runs, so that nobody else gets the port.
    _port: TcpSocket,
    life: Option<JoinHandle<()>>,
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket takes options");
    socket.bind(address).expect("the port is ours");
    socket
}

impl Mortal {
    async fn start() -> Self {
        let provider = Upstream::start(plan).await;
        let port = bound("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("a bound address");
        let mut own = Self { provider, address, _port: port, life: None };
        own.rise();
        own
    }

    fn rise(&mut self) {
        let listener = bound(self.address).listen(1_024).expect("nobody else listens");
        let there = self.provider.url.trim_start_matches("http://").to_owned();
        self.life = Some(tokio::spawn(live(listener, there)));
    }

    /// All connections close, and no other is accepted.
    async fn die(&mut self) {
        let life = self.life.take().expect("it lives");
        life.abort();
        let ended = life.await;
        assert!(ended.is_err_and(|fault| fault.is_cancelled()), "it lived until now");
    }

    /// Which calls have reached it, each once.
    fn markers(&self) -> HashSet<u64> {
        let seen = self.provider.seen();
        let markers: HashSet<u64> = seen.iter().map(marker).collect();
        assert_eq!(markers.len(), seen.len(), "no call comes to one provider twice");
        markers
    }
}

/// Passes connections on until it is aborted; they end with it.
async fn live(listener: TcpListener, there: String) {
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

fn marker(seen: &Seen) -> u64 {
    seen.header(MARKER).expect("a marker").parse().expect("a number")
}

/// What the call of that number uses.
fn usage(marker: u64) -> Usage {
    Usage { cached: marker % 5, ..Usage::of(10 + marker % 7, 1 + marker % 30) }
}

fn plan(seen: &Seen) -> Plan {
    let mut dice = Dice::new(marker(seen));
    let usage = usage(marker(seen));
    let pace = Duration::from_millis(dice.roll(20));
    let plan = if seen.wants("stream") {
        Plan::stream(events(&WORDS, Some(usage)), pace)
    } else {
        Plan::json(200, completion(usage))
    };
    plan.after(Duration::from_millis(dice.roll(30)))
}

/// What a client has seen of a call.
struct Heard {
    marker: u64,
    id: String,
    ended: bool,
}

/// Calls until it is told to stop.
async fn caller(tenant: Tenant, next: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<Heard> {
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
        let (body, ended) = answer.rest().await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 200, "a failure before the first byte of call {marker}: {body}");
        let usage = usage(marker);
        let whole = if stream { events(&WORDS, Some(usage)).concat() } else { completion(usage) };
        assert!(whole.starts_with(&body) && (body == whole || !ended), "{marker}: {body}");
        heard.push(Heard { marker, id, ended });
    }
    heard
}

/// One after the other dies and rises again.
async fn reap(mortals: &mut [Mortal; 2], seconds: u64) {
    for at in 0..seconds {
        let begun = Instant::now();
        let mortal = &mut mortals[usize::from(at % 2 == 1)];
        mortal.die().await;
        tokio::time::sleep(DEAD).await;
        mortal.rise();
        tokio::time::sleep(EVERY.saturating_sub(begun.elapsed())).await;
    }
}

/// `METEOR_FAILOVER` says for how many seconds.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_of_two_providers_dies_every_second_no_client_hears_of_it_before_the_first_byte()
{
    let seconds = number("METEOR_FAILOVER").unwrap_or(4);
    let mut mortals = [Mortal::start().await, Mortal::start().await];
    let targets = r#"targets = [{ upstream = "first" }, { upstream = "second" }]"#;
    let rows = upstream("first", &format!("http://{}", mortals[0].address))
        + &upstream("second", &format!("http://{}", mortals[1].address))
        + &model("both", targets);
    let place = Place::new(&rows).with("METEOR__PROXY__WORKERS", "2");
    let served = Served::start(place.with("METEOR__LOG__LEVEL", "info")).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begin = |_| tokio::spawn(caller(tenant.clone(), Arc::clone(&next), Arc::clone(&stop)));
    let callers: Vec<_> = (0..CALLERS).map(begin).collect();
    reap(&mut mortals, seconds).await;
    stop.store(true, Ordering::Relaxed);
    let mut heard = Vec::new();
    for caller in callers {
        heard.extend(caller.await.expect("a caller whose calls were all answered"));
    }
    let cuts = heard.iter().filter(|heard| !heard.ended).count();
    println!("{} calls in {seconds} s, {cuts} of them cut after their first byte", heard.len());
    assert!(cuts < heard.len(), "some came to their end");
    are_exact(&served, &tenant, &heard, &mortals).await;
}

/// Every call is recorded once, at what it used, and has reached whom its record names.
async fn are_exact(served: &Served, tenant: &Tenant, heard: &[Heard], mortals: &[Mortal; 2]) {
    tenant.at_rest().await;
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
    for Heard { marker, id, ended } in heard {
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
