//! Replays exchanges through the gateway and reports every difference.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::compression::{encode, encoding_token};
use crate::harness::client::Request;
use crate::harness::exchange::{
    Exchange, ReplayMode, expected_request, expected_response, is_decompressed, respace, split,
};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

/// The result of one replay.
pub struct ReplayResult {
    pub exchange: usize,
    pub mode: ReplayMode,
    /// The request log id.
    pub id: String,
    /// Differences between what was sent and what was received; empty if there are none.
    pub differences: Vec<String>,
}

/// Headers that must pass to the upstream, including an unknown future one.
const PASSED_HEADERS: [(&str, &str); 8] = [
    ("user-agent", "claude-cli/2.0.1 (external, cli)"),
    ("x-stainless-lang", "js"),
    ("x-claude-code-session-id", "0b3e5c1e-5d0b-4a0c-a8a5-4ad7a5a1f9c1"),
    ("openai-beta", "assistants=v2, realtime=v1"),
    ("x-goog-api-client", "google-genai-sdk/1.2.3 gl-python/3.12"),
    ("anthropic-dangerous-direct-browser-access", "true"),
    ("anthropic-future-header", "\"value\"; q=1"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

/// Headers about the client's account and network path, which must not pass.
const STRIPPED_HEADERS: [(&str, &str); 4] = [
    ("cookie", "session=1"),
    ("openai-organization", "org-client"),
    ("anthropic-workspace-id", "wrkspc_client"),
    ("x-forwarded-for", "192.0.2.1"),
];

/// The headers that can carry the API key.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "x-goog-api-key", "api-key"];

/// Identifies the replay of a request: index and mode.
const REPLAY_HEADER: &str = "x-stainless-replay";
const CREDENTIAL: &str = "gateway-credential";
const CONCURRENCY: usize = 4;

/// A gateway in front of an upstream that responds to each request with its exchange.
pub struct ReplayGateway {
    pub tenant: Tenant,
    exchanges: Arc<Vec<Exchange>>,
    provider: Upstream,
    _server: Server,
}

impl ReplayGateway {
    /// `seed` determines how responses are split.
    pub async fn start(exchanges: Vec<Exchange>, seed: u64) -> Self {
        let exchanges = Arc::new(exchanges);
        let planned_exchanges = Arc::clone(&exchanges);
        let provider = Upstream::start(move |seen| plan(seen, &planned_exchanges, seed)).await;
        let row = upstream("all", &provider.url)
            + "dialects = [\"openai\", \"anthropic\", \"gemini\"]\ndedicated = true\n\
               auth = { kind = \"header\", header = \"x-gateway-credential\", \
               secret = { env = \"CREDENTIAL\" } }\n";
        let model = model("*", "upstream = \"all\"");
        let model = model.replacen("prices = { ", "prices = { webSearches = \"0.01\", ", 1);
        let config_dir = ConfigDir::new(&(row + &model));
        let server = Server::start(config_dir.with_env("CREDENTIAL", CREDENTIAL)).await;
        server.forbid_in_log(CREDENTIAL);
        let tenant = server.tenant(1_000_000_000_000, "{}").await;
        Self { tenant, exchanges, provider, _server: server }
    }

    /// Replays each exchange, a few at a time, and compares what arrived with what was sent.
    pub async fn replay(
        &self,
        replays: impl Iterator<Item = (usize, ReplayMode)>,
    ) -> Vec<ReplayResult> {
        let (mut running, mut finished) = (JoinSet::new(), Vec::new());
        for (exchange, mode) in replays {
            if running.len() == CONCURRENCY {
                finished.extend(running.join_next().await);
            }
            let exchanges = Arc::clone(&self.exchanges);
            let (key, proxy) = (self.tenant.key.clone(), self.tenant.proxy.clone());
            running.spawn(async move {
                let sent = SentRequest::new(&exchanges[exchange], exchange, mode, &key);
                let (id, differences) = sent.send(&exchanges[exchange], &proxy).await;
                (sent, ReplayResult { exchange, mode, id, differences })
            });
        }
        finished.extend(running.join_all().await.into_iter().map(Ok));
        let seen = self.provider.requests().into_iter();
        let seen: HashMap<String, ReceivedRequest> =
            seen.filter_map(|seen| Some((seen.header(REPLAY_HEADER)?.to_owned(), seen))).collect();
        let checked = finished.into_iter().map(|finished| {
            let (sent, mut replayed) = finished.expect("a replay does not panic");
            match seen.get(&sent.replay_id) {
                None => {
                    replayed.differences.push("the request did not reach the upstream".to_owned());
                }
                Some(seen) => {
                    let exchange = &self.exchanges[replayed.exchange];
                    replayed.differences.extend(sent.request_differences(
                        exchange,
                        seen,
                        &self.tenant.key,
                    ));
                }
            }
            replayed
        });
        checked.collect()
    }
}

fn plan(request: &ReceivedRequest, exchanges: &[Exchange], seed: u64) -> Plan {
    let replay_id = request.header(REPLAY_HEADER).expect("the replay id passes");
    let (index, mode) = replay_id.split_once(' ').expect("an index and a mode");
    let index: usize = index.parse().expect("an index");
    let exchange = &exchanges[index];
    let bytes = encoded_body(exchange, mode == "Compressed");
    let mut plan = Plan::json(exchange.status, &*bytes);
    plan.headers.clone_from(&exchange.response_headers);
    if mode == "Compressed" {
        plan.headers.push(("content-encoding", encoding_token(exchange.encoding).to_owned()));
    }
    if mode != "Whole" {
        let split_seed = (mode != "Bytes").then_some(seed.wrapping_add(index as u64));
        let pieces = split(&bytes, split_seed).into_iter();
        plan = Plan { chunked: true, steps: pieces.map(Step::Send).collect(), ..plan };
    }
    plan
}

/// The response body as the upstream sends it.
fn encoded_body(exchange: &Exchange, is_coded: bool) -> Cow<'_, [u8]> {
    let text = exchange.response_body.as_bytes();
    if is_coded { Cow::Owned(encode(exchange.encoding, text)) } else { Cow::Borrowed(text) }
}

/// A request that was sent.
struct SentRequest {
    replay_id: String,
    is_compressed: bool,
    body: String,
    request: Request,
}

impl SentRequest {
    fn new(exchange: &Exchange, index: usize, mode: ReplayMode, key: &str) -> Self {
        let replay_id = format!("{index} {mode:?}");
        let body = respace(&exchange.body, mode);
        let mut request = Request::post(&exchange.target, &body).header(REPLAY_HEADER, &replay_id);
        for (name, value) in PASSED_HEADERS.iter().chain(&STRIPPED_HEADERS) {
            request = request.header(name, value);
        }
        for (name, value) in &exchange.headers {
            request = request.without_header(name).header(name, value);
        }
        let header = KEY_HEADERS[index % KEY_HEADERS.len()];
        request = match header {
            "authorization" => request.bearer(key),
            header => request.header(header, key),
        };
        Self { replay_id, is_compressed: mode == ReplayMode::Compressed, body, request }
    }

    /// Sends the request; returns the id of the call and the differences in the response.
    async fn send(&self, exchange: &Exchange, proxy: &str) -> (String, Vec<String>) {
        let mut response = self.request.send(proxy).await;
        let mut differences = Differences::default();
        differences.expect("status", response.status.to_string(), exchange.status.to_string());
        for (name, value) in &exchange.response_headers {
            differences.expect(name, response.header(name).unwrap_or("none"), value);
        }
        let id = response.id();
        let (body, complete) = response.read_to_end().await;
        differences.expect("end", if complete { "complete" } else { "cut" }, "complete");
        let as_text = !self.is_compressed || is_decompressed(exchange, &self.body);
        let coding = if as_text { "none" } else { encoding_token(exchange.encoding) };
        differences.expect("coding", response.header("content-encoding").unwrap_or("none"), coding);
        if as_text {
            differences.expect("answer", &body, expected_response(exchange, &self.body));
        } else {
            differences.expect("answer", &body, encoded_body(exchange, true));
        }
        (id, differences.0)
    }

    /// The differences in the request that the upstream received.
    fn request_differences(
        &self,
        exchange: &Exchange,
        seen: &ReceivedRequest,
        key: &str,
    ) -> Vec<String> {
        let mut differences = Differences::default();
        let value = |name: &str| seen.header(name).unwrap_or("none");
        differences.expect("target", &seen.target, &exchange.target);
        differences.expect("request", &seen.body, expected_request(&exchange.target, &self.body));
        let client_headers = exchange.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, expected) in client_headers.chain(PASSED_HEADERS) {
            let expected = if name == "accept-encoding" { "identity" } else { expected };
            differences.expect(name, value(name), expected);
        }
        for name in STRIPPED_HEADERS.iter().map(|(name, _)| *name).chain(KEY_HEADERS) {
            differences.expect(name, value(name), "none");
        }
        differences.expect("x-gateway-credential", value("x-gateway-credential"), CREDENTIAL);
        if seen.head.contains(key) {
            differences.0.push("the client's key reached the upstream".to_owned());
        }
        differences.0
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn expect(&mut self, what: &str, actual: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        if actual.as_ref() != expected.as_ref() {
            self.0.push(difference(what, actual.as_ref(), expected.as_ref()));
        }
    }
}

/// The first position at which two texts differ, and some context.
fn difference(what: &str, actual: &[u8], expected: &[u8]) -> String {
    let same = actual.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let part = |text: &[u8]| {
        let bytes = &text[same.saturating_sub(20)..text.len().min(same + 100)];
        String::from_utf8_lossy(bytes).into_owned()
    };
    format!("{what} at byte {same}: got {:?}, wanted {:?}", part(actual), part(expected))
}
