//! A crowd: callers of three dialects and many habits, each call known by the address it comes from.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::harness::client::{Request, Response, send_on};
use crate::harness::openai::{Usage, chat};
use crate::harness::price::{CLAUDE_HAIKU, GEMINI_FLASH, GPT_4O, GPT_4O_MINI, Price};
use crate::harness::tenant::Tenant;
use crate::harness::{anthropic, gemini};

/// Numbers that look random, and are the same again from the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

/// How a call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallPlan {
    Whole,
    Stream,
    /// A stream of so many tokens that its progress is written.
    LongStream,
    /// The same from the view of the provider; its client leaves after the first piece.
    Disconnect,
    /// The provider answers with an error.
    UpstreamError,
    /// The model has the longest name that the journal keeps.
    LongModelName,
}

/// What the one prompt of all calls is counted as: one body has one count, which the gateway learns.
const PROMPT: u64 = 9;
/// The most output that a call asks for.
const SHORT_MAX: u64 = 30;
const LONG_MAX: u64 = 3_000;
/// A piece of a long stream, in bytes; four of them are a token.
pub const PIECE_BYTES: usize = 1_600;
pub const PIECES: usize = 14;
/// The header by which the provider knows a call, and what to say to it.
pub const PLAN_HEADER: &str = "x-told";

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct PlannedCall {
    /// Also the address that it comes from.
    pub marker: u32,
    pub tenant: usize,
    pub dialect: Dialect,
    pub plan: CallPlan,
    /// What the provider will report.
    pub usage: Usage,
    /// Before each piece but the first, in milliseconds.
    pub pace_ms: u64,
}

/// What its client has seen.
#[derive(Clone, Debug)]
pub struct ClientView {
    pub call: PlannedCall,
    /// Of the head, if one came.
    pub head: Option<(u16, String)>,
    /// Bytes of the body.
    pub bytes: usize,
    /// Whether the dialect's terminator was among them.
    pub ended: bool,
}

impl PlannedCall {
    pub fn random(dice: &mut Random, marker: u32, tenant: usize, ways: &[CallPlan]) -> Self {
        let dialects = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];
        let plan = ways[usize::try_from(dice.below(ways.len() as u64)).expect("an index")];
        let dialect = match plan {
            CallPlan::LongModelName => Dialect::OpenAi,
            _ => dialects[usize::try_from(dice.below(3)).expect("an index")],
        };
        let completion = match plan {
            CallPlan::LongStream | CallPlan::Disconnect => LONG_MAX - dice.below(1_000),
            _ => 1 + dice.below(SHORT_MAX),
        };
        // Cached input has no price of its own where the model is not listed.
        let cached = if plan == CallPlan::LongModelName { 0 } else { dice.below(5) };
        let usage = Usage { cached, ..Usage::of(PROMPT, completion) };
        Self { marker, tenant, dialect, plan, usage, pace_ms: 20 + dice.below(60) }
    }

    pub fn price(&self) -> &'static Price {
        match self.dialect {
            Dialect::OpenAi if self.plan == CallPlan::LongModelName => &GPT_4O,
            Dialect::OpenAi => &GPT_4O_MINI,
            Dialect::Anthropic => &CLAUDE_HAIKU,
            Dialect::Gemini => &GEMINI_FLASH,
        }
    }

    pub fn cost(&self) -> i128 {
        self.price().cost(self.usage)
    }

    pub fn is_long(&self) -> bool {
        matches!(self.plan, CallPlan::LongStream | CallPlan::Disconnect)
    }

    fn is_streamed(&self) -> bool {
        self.is_long() || self.plan == CallPlan::Stream
    }

    fn request(&self, key: &str) -> Request {
        let most = if self.is_long() { LONG_MAX } else { SHORT_MAX };
        let (model, stream) = (self.price().model, self.is_streamed());
        let bulky = "m".repeat(512);
        let model = if self.plan == CallPlan::LongModelName { &bulky } else { model };
        let request = match self.dialect {
            Dialect::OpenAi => Request::chat(key, chat(model, most, stream)),
            Dialect::Anthropic => {
                let body = anthropic::message(model, Some(most), stream);
                Request::post("/v1/messages", body).bearer(key)
            }
            Dialect::Gemini => {
                let body = gemini::contents(Some(most));
                Request::post(&gemini::target(model, stream), body).bearer(key)
            }
        };
        let Usage { prompt, completion, cached, .. } = self.usage;
        let pieces = if self.is_long() { PIECES } else { 3 };
        let fails = u8::from(self.plan == CallPlan::UpstreamError);
        let told = [self.marker.into(), prompt, completion, cached, pieces as u64, self.pace_ms];
        let told = told.map(|number| number.to_string()).join(" ");
        request.header(PLAN_HEADER, &format!("{told} {fails}"))
    }

    fn has_terminator(&self, body: &[u8], whole: bool) -> bool {
        let terminator: &[u8] = match self.dialect {
            Dialect::OpenAi if self.is_streamed() => b"data: [DONE]",
            Dialect::Anthropic if self.is_streamed() => b"event: message_delta",
            _ => return whole,
        };
        body.windows(terminator.len()).any(|bytes| bytes == terminator)
    }
}

/// The address of a call: one of loopback's, and no other's.
fn address(marker: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x7F01_0000 + marker), 0))
}

/// The marker of an address as the request log tells it.
pub fn marker_of(address: &str) -> u32 {
    let address: Ipv4Addr = address.parse().expect("an address of IPv4");
    u32::from(address) - 0x7F01_0000
}

/// How many calls are at which stage, and whether more are to come.
#[derive(Default)]
pub struct CallerState {
    pub next_marker: AtomicU32,
    /// Calls that have seen a good head, and no end.
    pub open_calls: AtomicUsize,
    pub stop: AtomicBool,
}

/// Makes one call, up to its end, its cut, or its client's leaving.
pub async fn make_call(ask: PlannedCall, tenant: &Tenant, tally: &CallerState) -> ClientView {
    let mut heard = ClientView { call: ask, head: None, bytes: 0, ended: false };
    let Some(mut answer) = send(&ask, tenant).await else { return heard };
    heard.head = Some((answer.status, answer.id().replace('-', "")));
    let open = answer.status == 200;
    tally.open_calls.fetch_add(open.into(), Ordering::SeqCst);
    let mut body = Vec::new();
    let whole = loop {
        match answer.piece().await {
            Ok(Some(piece)) => body.extend(piece),
            Ok(None) => break true,
            Err(_) => break false,
        }
        if ask.plan == CallPlan::Disconnect {
            break false;
        }
    };
    tally.open_calls.fetch_sub(open.into(), Ordering::SeqCst);
    heard.bytes = body.len();
    heard.ended = open && ask.has_terminator(&body, whole);
    heard
}

async fn send(ask: &PlannedCall, tenant: &Tenant) -> Option<Response> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(address(ask.marker)).expect("an address of loopback");
    let to = tenant.proxy.parse().expect("an address");
    let begun = async {
        let stream = socket.connect(to).await?;
        send_on(stream, &ask.request(&tenant.key).to_bytes()).await
    };
    crate::harness::wait::with_deadline("an answer", begun).await.ok()
}

/// Callers at work.
pub struct RandomCallers {
    pub state: Arc<CallerState>,
    callers: Vec<JoinHandle<Vec<ClientView>>>,
}

impl RandomCallers {
    /// A caller for each of `places`, which say whose; `first` is the first marker.
    pub fn start(
        tenants: &[Tenant],
        places: &[(usize, &'static [CallPlan])],
        first: u32,
        seed: u64,
    ) -> Self {
        let state =
            Arc::new(CallerState { next_marker: AtomicU32::new(first), ..CallerState::default() });
        let caller = |(number, (tenant, ways)): (u64, (usize, &'static [CallPlan]))| {
            let (own, tally) = (tenants[tenant].clone(), Arc::clone(&state));
            let mut dice = Random::new(seed ^ number.wrapping_mul(0xA076_1D64_78BD_642F));
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !tally.stop.load(Ordering::Relaxed) {
                    let marker = tally.next_marker.fetch_add(1, Ordering::Relaxed);
                    let heard = make_call(
                        PlannedCall::random(&mut dice, marker, tenant, ways),
                        &own,
                        &tally,
                    );
                    let heard = heard.await;
                    let (gone, refused) = match &heard.head {
                        None => (true, false),
                        Some((status, _)) => (false, *status != 200),
                    };
                    all.push(heard);
                    if gone {
                        break;
                    }
                    if refused {
                        tokio::time::sleep(Duration::from_millis(50 + dice.below(100))).await;
                    }
                }
                all
            })
        };
        let callers = (0..).zip(places.iter().copied()).map(caller).collect();
        Self { state, callers }
    }

    /// All that they have seen; they end with the gateway, or when they are told to.
    pub async fn join(self) -> Vec<ClientView> {
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.expect("no caller fails"));
        }
        all
    }
}
