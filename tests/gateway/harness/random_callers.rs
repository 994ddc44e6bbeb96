//! Concurrent callers that make random calls in three dialects. Each call has its own loopback
//! address, by which the request log identifies it.

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

/// A reproducible random number generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
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

/// The course of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallPlan {
    Whole,
    Stream,
    /// A stream with enough tokens that its progress is checkpointed.
    LongStream,
    /// A long stream whose client disconnects after the first piece.
    Disconnect,
    /// The upstream responds with an error.
    UpstreamError,
    /// The model has the longest name that the journal stores.
    LongModelName,
}

/// The input tokens of every call. All calls have one prompt, whose count the gateway caches.
const PROMPT: u64 = 9;
/// The output limit of short calls.
const SHORT_MAX: u64 = 30;
const LONG_MAX: u64 = 3_000;
/// Size of a piece of a long stream; four bytes count as one token.
pub const PIECE_BYTES: usize = 1_600;
pub const PIECES: usize = 14;
/// The header that identifies a call to the upstream and controls its response.
pub const PLAN_HEADER: &str = "x-plan";

/// A call to make.
#[derive(Clone, Copy, Debug)]
pub struct PlannedCall {
    /// Also encoded in its client address.
    pub marker: u32,
    pub tenant: usize,
    pub dialect: Dialect,
    pub plan: CallPlan,
    /// The usage that the upstream will report.
    pub usage: Usage,
    /// Delay before each piece but the first.
    pub pace_ms: u64,
}

/// What the client has seen of a call.
#[derive(Clone, Debug)]
pub struct ClientView {
    pub call: PlannedCall,
    /// Status and request id, if a head arrived.
    pub head: Option<(u16, String)>,
    /// Bytes of the body.
    pub bytes: usize,
    /// True if the dialect's terminator arrived.
    pub ended: bool,
}

impl PlannedCall {
    pub fn random(random: &mut Random, marker: u32, tenant: usize, plans: &[CallPlan]) -> Self {
        let dialects = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];
        let plan = plans[usize::try_from(random.below(plans.len() as u64)).expect("an index")];
        let dialect = match plan {
            CallPlan::LongModelName => Dialect::OpenAi,
            _ => dialects[usize::try_from(random.below(3)).expect("an index")],
        };
        let completion = match plan {
            CallPlan::LongStream | CallPlan::Disconnect => LONG_MAX - random.below(1_000),
            _ => 1 + random.below(SHORT_MAX),
        };
        // A model that is not listed has no price for cached input.
        let cached = if plan == CallPlan::LongModelName { 0 } else { random.below(5) };
        let usage = Usage { cached, ..Usage::of(PROMPT, completion) };
        Self { marker, tenant, dialect, plan, usage, pace_ms: 20 + random.below(60) }
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
        let output_max = if self.is_long() { LONG_MAX } else { SHORT_MAX };
        let (model, stream) = (self.price().model, self.is_streamed());
        let long_name = "m".repeat(512);
        let model = if self.plan == CallPlan::LongModelName { &long_name } else { model };
        let request = match self.dialect {
            Dialect::OpenAi => Request::chat(key, chat(model, output_max, stream)),
            Dialect::Anthropic => {
                let body = anthropic::message(model, Some(output_max), stream);
                Request::post("/v1/messages", body).bearer(key)
            }
            Dialect::Gemini => {
                let body = gemini::contents(Some(output_max));
                Request::post(&gemini::target(model, stream), body).bearer(key)
            }
        };
        let Usage { prompt, completion, cached, .. } = self.usage;
        let pieces = if self.is_long() { PIECES } else { 3 };
        let fails = u8::from(self.plan == CallPlan::UpstreamError);
        let numbers = [self.marker.into(), prompt, completion, cached, pieces as u64, self.pace_ms];
        let numbers = numbers.map(|number| number.to_string()).join(" ");
        request.header(PLAN_HEADER, &format!("{numbers} {fails}"))
    }

    fn has_terminator(&self, body: &[u8], complete: bool) -> bool {
        let terminator: &[u8] = match self.dialect {
            Dialect::OpenAi if self.is_streamed() => b"data: [DONE]",
            Dialect::Anthropic if self.is_streamed() => b"event: message_delta",
            _ => return complete,
        };
        body.windows(terminator.len()).any(|bytes| bytes == terminator)
    }
}

/// The client address of a call: a loopback address that no other call has.
fn address(marker: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x7F01_0000 + marker), 0))
}

/// The marker of a client address in the request log.
pub fn marker_of(address: &str) -> u32 {
    let address: Ipv4Addr = address.parse().expect("an address of IPv4");
    u32::from(address) - 0x7F01_0000
}

/// State shared by all callers.
#[derive(Default)]
pub struct CallerState {
    pub next_marker: AtomicU32,
    /// Calls with a status of 200 whose body has not ended.
    pub open_calls: AtomicUsize,
    pub stop: AtomicBool,
}

/// Makes one call until its end, its cut or its planned disconnect.
pub async fn make_call(call: PlannedCall, tenant: &Tenant, state: &CallerState) -> ClientView {
    let mut view = ClientView { call, head: None, bytes: 0, ended: false };
    let Some(mut response) = send(&call, tenant).await else { return view };
    view.head = Some((response.status, response.id().replace('-', "")));
    let open = response.status == 200;
    state.open_calls.fetch_add(open.into(), Ordering::SeqCst);
    let mut body = Vec::new();
    let complete = loop {
        match response.piece().await {
            Ok(Some(piece)) => body.extend(piece),
            Ok(None) => break true,
            Err(_) => break false,
        }
        if call.plan == CallPlan::Disconnect {
            break false;
        }
    };
    state.open_calls.fetch_sub(open.into(), Ordering::SeqCst);
    view.bytes = body.len();
    view.ended = open && call.has_terminator(&body, complete);
    view
}

async fn send(call: &PlannedCall, tenant: &Tenant) -> Option<Response> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(address(call.marker)).expect("an address of loopback");
    let to = tenant.proxy.parse().expect("an address");
    let connected = async {
        let stream = socket.connect(to).await?;
        send_on(stream, &call.request(&tenant.key).to_bytes()).await
    };
    crate::harness::wait::with_deadline("a response", connected).await.ok()
}

/// Running callers.
pub struct RandomCallers {
    pub state: Arc<CallerState>,
    callers: Vec<JoinHandle<Vec<ClientView>>>,
}

impl RandomCallers {
    /// Starts one caller per entry of `assignments` (tenant index, plans). `first` is the first
    /// marker.
    pub fn start(
        tenants: &[Tenant],
        assignments: &[(usize, &'static [CallPlan])],
        first: u32,
        seed: u64,
    ) -> Self {
        let state =
            Arc::new(CallerState { next_marker: AtomicU32::new(first), ..CallerState::default() });
        let caller = |(number, (tenant, plans)): (u64, (usize, &'static [CallPlan]))| {
            let (caller_tenant, state) = (tenants[tenant].clone(), Arc::clone(&state));
            let mut random = Random::new(seed ^ number.wrapping_mul(0xA076_1D64_78BD_642F));
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !state.stop.load(Ordering::Relaxed) {
                    let marker = state.next_marker.fetch_add(1, Ordering::Relaxed);
                    let view = make_call(
                        PlannedCall::random(&mut random, marker, tenant, plans),
                        &caller_tenant,
                        &state,
                    );
                    let view = view.await;
                    let (disconnected, refused) = match &view.head {
                        None => (true, false),
                        Some((status, _)) => (false, *status != 200),
                    };
                    all.push(view);
                    if disconnected {
                        break;
                    }
                    if refused {
                        tokio::time::sleep(Duration::from_millis(50 + random.below(100))).await;
                    }
                }
                all
            })
        };
        let callers = (0..).zip(assignments.iter().copied()).map(caller).collect();
        Self { state, callers }
    }

    /// Waits until the gateway is gone or `stop` is set; returns what all callers saw.
    pub async fn join(self) -> Vec<ClientView> {
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.expect("no caller fails"));
        }
        all
    }
}
