//! Clients that take nothing, take little, or never end what they send: each holds back its own
//! upstream, and nobody else on the same worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::client::{Request, Response, send_on};
use crate::harness::openai::{Usage, chat, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::{eventually, with_deadline};

const USAGE: Usage = Usage { prompt: 9, completion: 400, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
/// 40 MB: more than all sockets between a provider and a client take, whose buffers grow.
const PIECES: usize = 640;
const PIECE_BYTES: usize = 64 << 10;
/// What the gateway may take for a stalled stream, and for a hundred calls beside it.
const MEMORY_MAX: u64 = 6 << 20;
/// A flood that has not moved for so long stands still.
const IDLE_TIME: Duration = Duration::from_millis(200);

/// A worker, before a provider whose model `flood` sends more than anybody can take at once.
struct Fixture {
    served: Served,
    tenant: Tenant,
    provider: Upstream,
    /// How many pieces of floods were given to the system.
    sent: Arc<AtomicUsize>,
}

/// A client in the midst of a request.
struct PartialRequest {
    stream: TcpStream,
    rest: Vec<u8>,
}

/// The events of a flood, with usage as it comes to one who asked for it.
fn flood_events(asked: Option<Usage>) -> Vec<String> {
    let word = "a".repeat(PIECE_BYTES);
    events(&[word.as_str(); PIECES], asked)
}

impl Fixture {
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let tell = Step::Notify(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let provider = Upstream::start(move |seen| {
            if seen.json().at("model").text() != "flood" {
                return reply(seen, USAGE, Duration::ZERO);
            }
            let mut plan = Plan::stream(flood_events(Some(USAGE)), Duration::ZERO);
            plan.steps = plan.steps.into_iter().flat_map(|send| [send, tell.clone()]).collect();
            plan
        })
        .await;
        let served = [model("flood", "upstream = \"a\""), model("plain", "upstream = \"a\"")];
        let rows = upstream("a", &provider.url) + &served.concat();
        let place = Place::new(&rows);
        let with = |place: Place, (name, value): &(&'static str, &str)| place.with(name, *value);
        let served = Served::start(settings.iter().fold(place, with)).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        Self { served, tenant, provider, sent }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// A client whose own socket takes little, up to the head of a flood.
    async fn flooded_client(&self) -> Response {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
        let to = self.tenant.proxy.parse().expect("an address");
        let stream = socket.connect(to).await.expect("it listens");
        let request = Request::chat(&self.tenant.key, chat("flood", 9_000, true));
        let answer = send_on(stream, &request.to_bytes()).await.expect("a head");
        assert_eq!(answer.status, 200);
        answer
    }

    /// A client that has sent as much of a call of `plain` as `part` of its bytes.
    async fn partial_request(&self, part: impl Fn(usize) -> usize) -> PartialRequest {
        let padding = " ".repeat(300_000);
        let body = chat("plain", 500, false).replacen('{', &format!("{{{padding}"), 1);
        let mut wire = Request::chat(&self.tenant.key, body).to_bytes();
        let rest = wire.split_off(part(wire.len()));
        let mut stream = TcpStream::connect(&self.tenant.proxy).await.expect("it listens");
        stream.write_all(&wire).await.expect("a part is taken");
        PartialRequest { stream, rest }
    }

    /// Waits until nothing more goes from the provider to the gateway.
    async fn wait_until_idle(&self) -> usize {
        let mut last = (self.sent(), Instant::now());
        eventually("back-pressure reaches the provider", async || {
            let sent = self.sent();
            if sent != last.0 {
                last = (sent, Instant::now());
            }
            (0 < sent && IDLE_TIME <= last.1.elapsed()).then_some(sent)
        })
        .await
    }

    /// A hundred calls, ten at once, to their ends.
    async fn hundred_calls(&self) {
        let callers = (0..10).map(|_| {
            let tenant = self.tenant.clone();
            tokio::spawn(async move {
                for stream in [false, true].repeat(5) {
                    let request = Request::chat(&tenant.key, chat("plain", 500, stream));
                    let answer = request.send(&tenant.proxy).await;
                    assert_eq!(answer.status, 200);
                    answer.text().await;
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.expect("all are served");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_blocks_only_its_own_provider() {
    let scene = Fixture::new(&[]).await;
    scene.hundred_calls().await;
    let before = scene.served.resident_bytes();
    let taken = || scene.served.resident_bytes().saturating_sub(before);
    let mut stalled = scene.flooded_client().await;
    let still = scene.wait_until_idle().await;
    assert!(still < PIECES, "the provider sends no more than {still} pieces");
    assert!(taken() < MEMORY_MAX, "{} bytes for a client that reads nothing", taken());

    scene.hundred_calls().await;
    assert_eq!(scene.sent(), still, "and all the while it stands still");
    assert!(taken() < MEMORY_MAX, "{} bytes", taken());
    let frozen = scene.tenant.holds().await;
    assert_eq!(frozen.len(), 1, "the stalled call is open, and no other");

    let mut rest = Vec::new();
    while let Some(piece) = stalled.piece().await.expect("no cut") {
        rest.extend(piece);
        assert!(taken() < MEMORY_MAX, "{} bytes", taken());
    }
    assert!(
        rest == flood_events(None).concat().as_bytes(),
        "every byte, but for the usage nobody asked for"
    );
    assert_eq!(scene.sent(), PIECES + 4);
    let id = stalled.id();
    let debit = scene.tenant.debit(&id).await;
    assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE));
    scene.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte_without_delaying_others() {
    let scene = Fixture::new(&[]).await;
    scene.hundred_calls().await;
    let before = scene.served.resident_bytes();
    let mut slow = scene.flooded_client().await;
    let tenant = scene.tenant.clone();
    let reading = tokio::spawn(async move {
        let (mut rest, mut pieces) = (Vec::new(), 0);
        while let Some(piece) = slow.piece().await.expect("no cut") {
            rest.extend(piece);
            pieces += 1;
            if pieces % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        (rest, slow.id())
    });
    scene.hundred_calls().await;
    let held_back = scene.sent() < PIECES;
    let mut at_most = 0;
    while !reading.is_finished() {
        at_most = at_most.max(scene.served.resident_bytes().saturating_sub(before));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (rest, id) = reading.await.expect("it reads to the end");
    assert!(held_back, "others do not wait for it");
    assert!(at_most < MEMORY_MAX, "{at_most} bytes for a client that reads slowly");
    assert!(rest == flood_events(None).concat().as_bytes(), "every byte");
    assert_eq!(tenant.debit(&id).await.at("amount").nano(), GPT_4O_MINI.cost(USAGE));
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stalled_while_sending_holds_nothing_and_delays_nobody() {
    let scene = Fixture::new(&[]).await;
    let halves = [
        scene.partial_request(|_| 0).await,
        scene.partial_request(|_| 1).await,
        scene.partial_request(|_| 30).await,
        scene.partial_request(|all| all / 2).await,
        scene.partial_request(|all| all - 1).await,
    ];
    scene.hundred_calls().await;
    let usage = scene.tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.requestCount").count(), 100, "{usage}");
    assert_eq!(usage.at("dailyUsage.heldRequests").count(), 0, "{usage}");
    assert_eq!(scene.provider.request_count(), 100, "nothing of theirs is forwarded");
    for PartialRequest { stream, rest } in halves {
        let answer = with_deadline("an answer", send_on(stream, &rest)).await.expect("an answer");
        assert_eq!(answer.status, 200);
        answer.text().await;
    }
    assert_eq!(scene.provider.request_count(), 105);
    scene.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stalled_beyond_the_timeout_counts_as_disconnected() {
    let timeouts = [
        ("METEOR__PROXY__CLIENT_IDLE_MS", "300"),
        ("METEOR__PROXY__HEADER_READ_TIMEOUT_MS", "300"),
    ];
    let scene = Fixture::new(&timeouts).await;
    let PartialRequest { mut stream, .. } = scene.partial_request(|_| 30).await;
    let mut said = Vec::new();
    let ended = with_deadline("the end of half a head", stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok() && said.is_empty(), "closed: {said:?}");
    let PartialRequest { stream, .. } = scene.partial_request(|all| all / 2).await;
    let told = with_deadline("an answer", send_on(stream, b"")).await.expect("an answer");
    assert_eq!(told.status, 400);
    let told = told.json().await;
    assert!(told.at("error.message").text().contains("did not arrive in time"), "{told}");
    scene.tenant.assert_settled().await;

    let mut stalled = scene.flooded_client().await;
    scene.provider.wait_for_disconnect(0).await;
    let id = stalled.id();
    eventually("its hold ends", async || scene.tenant.holds().await.is_empty().then_some(())).await;
    let spent = scene.tenant.debit(&id).await.at("amount").nano();
    assert!(0 < spent, "what came is charged");
    assert!(!stalled.read_to_end().await.1, "and its end is a cut");
    scene.tenant.assert_settled().await;
}
