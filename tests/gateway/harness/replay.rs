//! Replays exchanges through the gateway, and says what did not come through as it was sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::compression::{encode, encoding_token};
use crate::harness::client::Request;
use crate::harness::exchange::{
    Exchange, ReplayMode, expected_request, expected_response, is_decompressed, respace, split,
};
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

/// What became of one replay.
pub struct ReplayResult {
    pub exchange: usize,
    pub mode: ReplayMode,
    /// The id under which the request log has it.
    pub id: String,
    /// What did not come through; nothing if all did.
    pub differences: Vec<String>,
}

/// Headers of the kinds that must pass; one of tomorrow among them.
const PASSED_HEADERS: [(&str, &str); 8] = [
    ("user-agent", "claude-cli/2.0.1 (external, cli)"),
    ("x-stainless-lang", "js"),
    ("x-claude-code-session-id", "0b3e5c1e-5d0b-4a0c-a8a5-4ad7a5a1f9c1"),
    ("openai-beta", "assistants=v2, realtime=v1"),
    ("x-goog-api-client", "google-genai-sdk/1.2.3 gl-python/3.12"),
    ("anthropic-dangerous-direct-browser-access", "true"),
    ("anthropic-of-tomorrow", "\"kept\"; q=1"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

/// Headers about the client's own account and way here, which must not pass.
const STRIPPED_HEADERS: [(&str, &str); 4] = [
    ("cookie", "session=1"),
    ("openai-organization", "org-client"),
    ("anthropic-workspace-id", "wrkspc_client"),
    ("x-forwarded-for", "192.0.2.1"),
];

/// Where clients put their key.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "x-goog-api-key", "api-key"];

/// Which replay a request belongs to.
const REPLAY_HEADER: &str = "x-stainless-replay";
const CREDENTIAL: &str = "the-gateways-own";
const CONCURRENCY: usize = 4;

/// A gateway before a provider that answers each request with the bytes of its exchange.
pub struct ReplayGateway {
    pub tenant: Tenant,
    exchanges: Arc<Vec<Exchange>>,
    provider: Upstream,
    _server: Served,
}

impl ReplayGateway {
    /// `seed` decides where answers are cut.
    pub async fn start(exchanges: Vec<Exchange>, seed: u64) -> Self {
        let exchanges = Arc::new(exchanges);
        let answers = Arc::clone(&exchanges);
        let provider = Upstream::start(move |seen| plan(seen, &answers, seed)).await;
        let row = upstream("all", &provider.url)
            + "dialects = [\"openai\", \"anthropic\", \"gemini\"]\ndedicated = true\n\
               auth = { kind = \"header\", header = \"x-gateway-credential\", \
               secret = { env = \"CREDENTIAL\" } }\n";
        let model = model("*", "upstream = \"all\"");
        let model = model.replacen("prices = { ", "prices = { webSearches = \"0.01\", ", 1);
        let place = Place::new(&(row + &model));
        let served = Served::start(place.with("CREDENTIAL", CREDENTIAL)).await;
        served.hides(CREDENTIAL);
        let tenant = served.tenant(1_000_000_000_000, "{}").await;
        Self { tenant, exchanges, provider, _server: served }
    }

    /// Sends each, a few at a time, and compares all that came through with all that was sent.
    pub async fn replay(
        &self,
        takes: impl Iterator<Item = (usize, ReplayMode)>,
    ) -> Vec<ReplayResult> {
        let (mut running, mut came) = (JoinSet::new(), Vec::new());
        for (exchange, cut) in takes {
            if running.len() == CONCURRENCY {
                came.extend(running.join_next().await);
            }
            let exchanges = Arc::clone(&self.exchanges);
            let (key, proxy) = (self.tenant.key.clone(), self.tenant.proxy.clone());
            running.spawn(async move {
                let sent = SentRequest::new(&exchanges[exchange], exchange, cut, &key);
                let (id, faults) = sent.send(&exchanges[exchange], &proxy).await;
                (sent, ReplayResult { exchange, mode: cut, id, differences: faults })
            });
        }
        came.extend(running.join_all().await.into_iter().map(Ok));
        let seen = self.provider.requests().into_iter();
        let seen: HashMap<String, ReceivedRequest> =
            seen.filter_map(|seen| Some((seen.header(REPLAY_HEADER)?.to_owned(), seen))).collect();
        let checked = came.into_iter().map(|came| {
            let (sent, mut replayed) = came.expect("a replay does not panic");
            match seen.get(&sent.mark) {
                None => replayed.differences.push("it did not reach the provider".to_owned()),
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
    let mark = request.header(REPLAY_HEADER).expect("the mark passes");
    let (index, cut) = mark.split_once(' ').expect("an index and a cut");
    let index: usize = index.parse().expect("an index");
    let exchange = &exchanges[index];
    let bytes = encoded_body(exchange, cut == "Coded");
    let mut plan = Plan::json(exchange.status, &*bytes);
    plan.headers.clone_from(&exchange.response_headers);
    if cut == "Coded" {
        plan.headers.push(("content-encoding", encoding_token(exchange.encoding).to_owned()));
    }
    if cut != "Whole" {
        let cuts = (cut != "Bytes").then_some(seed.wrapping_add(index as u64));
        let pieces = split(&bytes, cuts).into_iter();
        plan = Plan { chunked: true, steps: pieces.map(Step::Send).collect(), ..plan };
    }
    plan
}

/// The bytes of an answer as they leave the provider.
fn encoded_body(exchange: &Exchange, is_coded: bool) -> Cow<'_, [u8]> {
    let text = exchange.response_body.as_bytes();
    if is_coded { Cow::Owned(encode(exchange.encoding, text)) } else { Cow::Borrowed(text) }
}

/// A request as it was sent.
struct SentRequest {
    mark: String,
    is_compressed: bool,
    body: String,
    request: Request,
}

impl SentRequest {
    fn new(exchange: &Exchange, index: usize, cut: ReplayMode, key: &str) -> Self {
        let mark = format!("{index} {cut:?}");
        let body = respace(&exchange.body, cut);
        let mut request = Request::post(&exchange.target, &body).header(REPLAY_HEADER, &mark);
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
        Self { mark, is_compressed: cut == ReplayMode::Coded, body, request }
    }

    /// Sends it; the id of the call, and what is wrong with the answer.
    async fn send(&self, exchange: &Exchange, proxy: &str) -> (String, Vec<String>) {
        let mut answer = self.request.send(proxy).await;
        let mut faults = Differences::default();
        faults.expect("status", answer.status.to_string(), exchange.status.to_string());
        for (name, value) in &exchange.response_headers {
            faults.expect(name, answer.header(name).unwrap_or("none"), value);
        }
        let id = answer.id();
        let (body, whole) = answer.read_to_end().await;
        faults.expect("end", if whole { "whole" } else { "cut" }, "whole");
        let as_text = !self.is_compressed || is_decompressed(exchange, &self.body);
        let coding = if as_text { "none" } else { encoding_token(exchange.encoding) };
        faults.expect("coding", answer.header("content-encoding").unwrap_or("none"), coding);
        if as_text {
            faults.expect("answer", &body, expected_response(exchange, &self.body));
        } else {
            faults.expect("answer", &body, encoded_body(exchange, true));
        }
        (id, faults.0)
    }

    /// What is wrong with what the provider saw.
    fn request_differences(
        &self,
        exchange: &Exchange,
        seen: &ReceivedRequest,
        key: &str,
    ) -> Vec<String> {
        let mut faults = Differences::default();
        let value = |name: &str| seen.header(name).unwrap_or("none");
        faults.expect("target", &seen.target, &exchange.target);
        faults.expect("request", &seen.body, expected_request(&exchange.target, &self.body));
        let own = exchange.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, wanted) in own.chain(PASSED_HEADERS) {
            let wanted = if name == "accept-encoding" { "identity" } else { wanted };
            faults.expect(name, value(name), wanted);
        }
        for name in STRIPPED_HEADERS.iter().map(|(name, _)| *name).chain(KEY_HEADERS) {
            faults.expect(name, value(name), "none");
        }
        faults.expect("x-gateway-credential", value("x-gateway-credential"), CREDENTIAL);
        if seen.head.contains(key) {
            faults.0.push("the client's key reached the provider".to_owned());
        }
        faults.0
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn expect(&mut self, what: &str, got: impl AsRef<[u8]>, wanted: impl AsRef<[u8]>) {
        if got.as_ref() != wanted.as_ref() {
            self.0.push(difference(what, got.as_ref(), wanted.as_ref()));
        }
    }
}

/// Where two texts part, and a little of each from there on.
fn difference(what: &str, got: &[u8], wanted: &[u8]) -> String {
    let same = got.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let part = |text: &[u8]| {
        let bytes = &text[same.saturating_sub(20)..text.len().min(same + 100)];
        String::from_utf8_lossy(bytes).into_owned()
    };
    format!("{what} at byte {same}: got {:?}, wanted {:?}", part(got), part(wanted))
}
