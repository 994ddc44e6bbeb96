//! A crowd: callers of three dialects and many habits, each call known by the address it comes from.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::client::{Answer, Request, exchange_on};
use crate::openai::{Usage, chat};
use crate::price::{CLAUDE_HAIKU, GEMINI_FLASH, GPT_4O, GPT_4O_MINI, Price};
use crate::tenant::Tenant;
use crate::{anthropic, gemini};

/// Numbers that look random, and are the same again from the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `limit`.
    pub fn roll(&mut self, limit: u64) -> u64 {
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
pub enum Way {
    Whole,
    Stream,
    /// A stream of so many tokens that its progress is written.
    Long,
    /// The same from the view of the provider; its client leaves after the first piece.
    Leave,
    /// The provider answers with an error.
    Fail,
    /// The model has the longest name that the journal keeps.
    Bulky,
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
pub const TOLD: &str = "x-told";

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Also the address that it comes from.
    pub marker: u32,
    pub tenant: usize,
    pub dialect: Dialect,
    pub way: Way,
    /// What the provider will report.
    pub usage: Usage,
    /// Before each piece but the first, in milliseconds.
    pub pace: u64,
}

/// What its client has seen.
#[derive(Clone, Debug)]
pub struct Heard {
    pub ask: Ask,
    /// Of the head, if one came.
    pub head: Option<(u16, String)>,
    /// Bytes of the body.
    pub bytes: usize,
    /// Whether the dialect's terminator was among them.
    pub ended: bool,
}

impl Ask {
    pub fn at_random(dice: &mut Dice, marker: u32, tenant: usize, ways: &[Way]) -> Self {
        let dialects = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];
        let way = ways[usize::try_from(dice.roll(ways.len() as u64)).expect("an index")];
        let dialect = match way {
            Way::Bulky => Dialect::OpenAi,
            _ => dialects[usize::try_from(dice.roll(3)).expect("an index")],
        };
        let completion = match way {
            Way::Long | Way::Leave => LONG_MAX - dice.roll(1_000),
            _ => 1 + dice.roll(SHORT_MAX),
        };
        // Cached input has no price of its own where the model is not listed.
        let cached = if way == Way::Bulky { 0 } else { dice.roll(5) };
        let usage = Usage { cached, ..Usage::of(PROMPT, completion) };
        Self { marker, tenant, dialect, way, usage, pace: 20 + dice.roll(60) }
    }

    pub fn price(&self) -> &'static Price {
        match self.dialect {
            Dialect::OpenAi if self.way == Way::Bulky => &GPT_4O,
            Dialect::OpenAi => &GPT_4O_MINI,
            Dialect::Anthropic => &CLAUDE_HAIKU,
            Dialect::Gemini => &GEMINI_FLASH,
        }
    }

    pub fn cost(&self) -> i128 {
        self.price().cost(self.usage)
    }

    pub fn is_long(&self) -> bool {
        matches!(self.way, Way::Long | Way::Leave)
    }

    fn streams(&self) -> bool {
        self.is_long() || self.way == Way::Stream
    }

    fn request(&self, key: &str) -> Request {
        let most = if self.is_long() { LONG_MAX } else { SHORT_MAX };
        let (model, stream) = (self.price().model, self.streams());
        let bulky = "m".repeat(512);
        let model = if self.way == Way::Bulky { &bulky } else { model };
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
        let fails = u8::from(self.way == Way::Fail);
        let told = [self.marker.into(), prompt, completion, cached, pieces as u64, self.pace];
        let told = told.map(|number| number.to_string()).join(" ");
        request.header(TOLD, &format!("{told} {fails}"))
    }

    fn is_end(&self, body: &[u8], whole: bool) -> bool {
        let terminator: &[u8] = match self.dialect {
            Dialect::OpenAi if self.streams() => b"data: [DONE]",
            Dialect::Anthropic if self.streams() => b"event: message_delta",
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
pub struct Tally {
    pub markers: AtomicU32,
    /// Calls that have seen a good head, and no end.
    pub open: AtomicUsize,
    pub stop: AtomicBool,
}

/// Makes one call, up to its end, its cut, or its client's leaving.
pub async fn call(ask: Ask, tenant: &Tenant, tally: &Tally) -> Heard {
    let mut heard = Heard { ask, head: None, bytes: 0, ended: false };
    let Some(mut answer) = begin(&ask, tenant).await else { return heard };
    heard.head = Some((answer.status, answer.id().replace('-', "")));
    let open = answer.status == 200;
    tally.open.fetch_add(open.into(), Ordering::SeqCst);
    let mut body = Vec::new();
    let whole = loop {
        match answer.piece().await {
            Ok(Some(piece)) => body.extend(piece),
            Ok(None) => break true,
            Err(_) => break false,
        }
        if ask.way == Way::Leave {
            break false;
        }
    };
    tally.open.fetch_sub(open.into(), Ordering::SeqCst);
    heard.bytes = body.len();
    heard.ended = open && ask.is_end(&body, whole);
    heard
}

async fn begin(ask: &Ask, tenant: &Tenant) -> Option<Answer> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(address(ask.marker)).expect("an address of loopback");
    let to = tenant.proxy.parse().expect("an address");
    let begun = async {
        let stream = socket.connect(to).await?;
        exchange_on(stream, &ask.request(&tenant.key).wire()).await
    };
    crate::wait::in_time("an answer", begun).await.ok()
}

/// Callers at work.
pub struct Crowd {
    pub tally: Arc<Tally>,
    callers: Vec<JoinHandle<Vec<Heard>>>,
}

impl Crowd {
    /// A caller for each of `places`, which say whose; `first` is the first marker.
    pub fn begin(
        tenants: &[Tenant],
        places: &[(usize, &'static [Way])],
        first: u32,
        seed: u64,
    ) -> Self {
        let tally = Arc::new(Tally { markers: AtomicU32::new(first), ..Tally::default() });
        let caller = |(number, (tenant, ways)): (u64, (usize, &'static [Way]))| {
            let (own, tally) = (tenants[tenant].clone(), Arc::clone(&tally));
            let mut dice = Dice::new(seed ^ number.wrapping_mul(0xA076_1D64_78BD_642F));
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !tally.stop.load(Ordering::Relaxed) {
                    let marker = tally.markers.fetch_add(1, Ordering::Relaxed);
                    let heard = call(Ask::at_random(&mut dice, marker, tenant, ways), &own, &tally);
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
                        tokio::time::sleep(Duration::from_millis(50 + dice.roll(100))).await;
                    }
                }
                all
            })
        };
        let callers = (0..).zip(places.iter().copied()).map(caller).collect();
        Self { tally, callers }
    }

    /// All that they have seen; they end with the gateway, or when they are told to.
    pub async fn end(self) -> Vec<Heard> {
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.expect("no caller fails"));
        }
        all
    }
}
