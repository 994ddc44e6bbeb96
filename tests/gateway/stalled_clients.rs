//! Clients that read nothing, read slowly or never finish sending block only their own upstream
//! connection, not other calls on the same worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::client::{Request, Response, send_on};
use crate::harness::openai::{Usage, chat, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::{eventually, with_deadline};

const USAGE: Usage = Usage { prompt: 9, completion: 400, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
/// 40 MB in total: more than all growing socket buffers between provider and client can hold.
const PIECES: usize = 640;
const PIECE_BYTES: usize = 64 << 10;
/// Memory that a stalled stream and a hundred concurrent calls may take.
const MEMORY_MAX: u64 = 6 << 20;
/// A flood that has not progressed for this time is blocked.
const IDLE_TIME: Duration = Duration::from_millis(200);

/// A gateway in front of a provider whose model `flood` sends more than socket buffers can hold.
struct Fixture {
    served: Server,
    tenant: Tenant,
    provider: Upstream,
    /// Pieces of floods that the provider has written.
    sent: Arc<AtomicUsize>,
}

/// A client that has sent a part of a request, and the rest of it.
struct PartialRequest {
    stream: TcpStream,
    rest: Vec<u8>,
}

/// The events of a flood, with usage if given.
fn flood_events(usage: Option<Usage>) -> Vec<String> {
    let word = "a".repeat(PIECE_BYTES);
    events(&[word.as_str(); PIECES], usage)
}

impl Fixture {
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let count_piece = Step::Notify(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let provider = Upstream::start(move |seen| {
            if seen.json().at("model").text() != "flood" {
                return reply(seen, USAGE, Duration::ZERO);
            }
            let mut plan = Plan::stream(flood_events(Some(USAGE)), Duration::ZERO);
            plan.steps =
                plan.steps.into_iter().flat_map(|send| [send, count_piece.clone()]).collect();
            plan
        })
        .await;
        let served = [model("flood", "upstream = \"a\""), model("plain", "upstream = \"a\"")];
        let rows = upstream("a", &provider.url) + &served.concat();
        let config_dir = ConfigDir::new(&rows);
        let with = |config_dir: ConfigDir, (name, value): &(&'static str, &str)| {
            config_dir.with_env(name, *value)
        };
        let served = Server::start(settings.iter().fold(config_dir, with)).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        Self { served, tenant, provider, sent }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// Starts a flood for a client with a small receive buffer and reads the head.
    async fn flooded_client(&self) -> Response {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
        let to = self.tenant.proxy.parse().expect("an address");
        let stream = socket.connect(to).await.expect("the proxy listens");
        let request = Request::chat(&self.tenant.key, chat("flood", 9_000, true));
        let answer = send_on(stream, &request.to_bytes()).await.expect("a head");
        assert_eq!(answer.status, 200);
        answer
    }

    /// Sends the first `part(length)` bytes of a call of `plain`.
    async fn partial_request(&self, part: impl Fn(usize) -> usize) -> PartialRequest {
        let padding = " ".repeat(300_000);
        let body = chat("plain", 500, false).replacen('{', &format!("{{{padding}"), 1);
        let mut wire = Request::chat(&self.tenant.key, body).to_bytes();
        let rest = wire.split_off(part(wire.len()));
        let mut stream = TcpStream::connect(&self.tenant.proxy).await.expect("the proxy listens");
        stream.write_all(&wire).await.expect("the part is sent");
        PartialRequest { stream, rest }
    }

    /// Waits until back-pressure blocks the provider. Returns the pieces sent.
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

    /// Completes a hundred calls, ten of them concurrent.
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
    let fixture = Fixture::new(&[]).await;
    fixture.hundred_calls().await;
    let before = fixture.served.resident_bytes();
    let memory_growth = || fixture.served.resident_bytes().saturating_sub(before);
    let mut stalled = fixture.flooded_client().await;
    let blocked_at = fixture.wait_until_idle().await;
    assert!(blocked_at < PIECES, "the provider sends no more than {blocked_at} pieces");
    assert!(
        memory_growth() < MEMORY_MAX,
        "{} bytes for a client that reads nothing",
        memory_growth()
    );

    fixture.hundred_calls().await;
    assert_eq!(fixture.sent(), blocked_at, "the flood is still blocked");
    assert!(memory_growth() < MEMORY_MAX, "{} bytes", memory_growth());
    let frozen = fixture.tenant.holds().await;
    assert_eq!(frozen.len(), 1, "only the stalled call is open");

    let mut rest = Vec::new();
    while let Some(piece) = stalled.piece().await.expect("no cut") {
        rest.extend(piece);
        assert!(memory_growth() < MEMORY_MAX, "{} bytes", memory_growth());
    }
    assert!(rest == flood_events(None).concat().as_bytes(), "every byte except the usage event");
    assert_eq!(fixture.sent(), PIECES + 4);
    let id = stalled.id();
    let debit = fixture.tenant.debit(&id).await;
    assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE));
    fixture.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte_without_delaying_others() {
    let fixture = Fixture::new(&[]).await;
    fixture.hundred_calls().await;
    let before = fixture.served.resident_bytes();
    let mut slow = fixture.flooded_client().await;
    let tenant = fixture.tenant.clone();
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
    fixture.hundred_calls().await;
    let held_back = fixture.sent() < PIECES;
    let mut memory_max = 0;
    while !reading.is_finished() {
        memory_max = memory_max.max(fixture.served.resident_bytes().saturating_sub(before));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (rest, id) = reading.await.expect("the reader finishes");
    assert!(held_back, "others do not wait for the slow reader");
    assert!(memory_max < MEMORY_MAX, "{memory_max} bytes for a client that reads slowly");
    assert!(rest == flood_events(None).concat().as_bytes(), "every byte");
    assert_eq!(tenant.debit(&id).await.at("amount").nano(), GPT_4O_MINI.cost(USAGE));
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stalled_while_sending_holds_nothing_and_delays_nobody() {
    let fixture = Fixture::new(&[]).await;
    let requests = [
        fixture.partial_request(|_| 0).await,
        fixture.partial_request(|_| 1).await,
        fixture.partial_request(|_| 30).await,
        fixture.partial_request(|all| all / 2).await,
        fixture.partial_request(|all| all - 1).await,
    ];
    fixture.hundred_calls().await;
    let usage = fixture.tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.requestCount").count(), 100, "{usage}");
    assert_eq!(usage.at("dailyUsage.heldRequests").count(), 0, "{usage}");
    assert_eq!(fixture.provider.request_count(), 100, "partial requests are not forwarded");
    for PartialRequest { stream, rest } in requests {
        let answer = with_deadline("an answer", send_on(stream, &rest)).await.expect("an answer");
        assert_eq!(answer.status, 200);
        answer.text().await;
    }
    assert_eq!(fixture.provider.request_count(), 105);
    fixture.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stalled_beyond_the_timeout_counts_as_disconnected() {
    let timeouts = [
        ("METEOR__PROXY__CLIENT_IDLE_MS", "300"),
        ("METEOR__PROXY__HEADER_READ_TIMEOUT_MS", "300"),
    ];
    let fixture = Fixture::new(&timeouts).await;
    let PartialRequest { mut stream, .. } = fixture.partial_request(|_| 30).await;
    let mut received = Vec::new();
    let ended = with_deadline("the end of half a head", stream.read_to_end(&mut received)).await;
    assert!(ended.is_ok() && received.is_empty(), "closed: {received:?}");
    let PartialRequest { stream, .. } = fixture.partial_request(|all| all / 2).await;
    let response = with_deadline("an answer", send_on(stream, b"")).await.expect("an answer");
    assert_eq!(response.status, 400);
    let response = response.json().await;
    assert!(response.at("error.message").text().contains("did not arrive in time"), "{response}");
    fixture.tenant.assert_settled().await;

    let mut stalled = fixture.flooded_client().await;
    fixture.provider.wait_for_disconnect(0).await;
    let id = stalled.id();
    eventually("the hold ends", async || fixture.tenant.holds().await.is_empty().then_some(()))
        .await;
    let cost = fixture.tenant.debit(&id).await.at("amount").nano();
    assert!(0 < cost, "received output is charged");
    assert!(!stalled.read_to_end().await.1, "the response is cut");
    fixture.tenant.assert_settled().await;
}
