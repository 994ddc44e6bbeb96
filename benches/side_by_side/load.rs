//! The load generator. Each keep-alive connection sends its next request when the last response is
//! complete. Requests are built once and responses are only framed, so that the generator is cheap.
//! Any status but 200 ends the run, because a figure that includes errors is useless.

use std::collections::VecDeque;
use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::sockets;
use crate::wire::{Part, Reader};

const WARM_UP: Duration = Duration::from_millis(500);
/// How long outstanding responses may take after the last request.
const DRAIN_MAX: Duration = Duration::from_secs(15);

pub struct Settings {
    pub target: SocketAddr,
    pub threads: usize,
    pub connections: usize,
    pub window: Duration,
    pub body_bytes: usize,
    pub keys: Vec<String>,
    /// Request streams, and spread their start over this interval.
    pub stream_pace: Option<Duration>,
}

/// One line of JSON on standard output for the warm-up and for the window.
#[derive(Serialize, Deserialize, Clone, Default)]
pub struct Report {
    pub completed: u64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub first_byte_p50_us: f64,
    pub first_byte_p99_us: f64,
    pub error: Option<String>,
}

/// Runs the warm-up, reports, waits for a line on standard input, runs the window and reports. Then
/// waits until standard input is closed, so that nothing is in flight while the parent reads CPU
/// times.
pub fn run(settings: Settings) -> Result<()> {
    let requests = Requests::new(&settings);
    let settings = Arc::new(settings);
    let gate = Arc::new(Barrier::new(settings.threads + 1));
    let (sender, results) = std::sync::mpsc::sync_channel(settings.threads);
    for number in 0..settings.threads {
        let (settings, gate, sender) = (settings.clone(), gate.clone(), sender.clone());
        let requests = requests.clone();
        let thread = std::thread::Builder::new().name(format!("load-{number}"));
        thread.spawn(move || {
            let mut load = Load::connect(&settings, number, requests);
            for window in [WARM_UP, settings.window] {
                gate.wait();
                let phase = match &mut load {
                    Ok(load) => load.phase(window).map_err(|error| format!("{error:#}")),
                    Err(error) => Err(format!("{error:#}")),
                };
                drop(sender.send(phase));
            }
        })?;
    }
    let mut input = std::io::stdin().lock();
    for _ in 0..2 {
        let start = Instant::now();
        gate.wait();
        let phases =
            (0..settings.threads).map(|_| results.recv()).collect::<Result<Vec<_>, _>>()?;
        println!("{}", serde_json::to_string(&report(phases, start.elapsed()))?);
        input.read_line(&mut String::new())?;
    }
    Ok(())
}

fn report(phases: Vec<Result<Phase, String>>, time: Duration) -> Report {
    let mut all = Phase::default();
    let mut error = None;
    for phase in phases {
        match phase {
            Ok(phase) => {
                all.whole.add_all(&phase.whole);
                all.first_byte.add_all(&phase.first_byte);
            }
            Err(text) => error = Some(text),
        }
    }
    Report {
        completed: all.whole.count(),
        seconds: time.as_secs_f64(),
        p50_us: all.whole.percentile_us(50),
        p99_us: all.whole.percentile_us(99),
        first_byte_p50_us: all.first_byte.percentile_us(50),
        first_byte_p99_us: all.first_byte.percentile_us(99),
        error,
    }
}

/// Results of one thread in one phase.
#[derive(Default)]
struct Phase {
    whole: Histogram,
    first_byte: Histogram,
}

/// The bytes of requests: one head per key, one body for all.
#[derive(Clone)]
struct Requests {
    heads: Arc<Vec<Vec<u8>>>,
    body: Arc<Vec<u8>>,
}

impl Requests {
    fn new(settings: &Settings) -> Self {
        let stream = match settings.stream_pace {
            Some(_) => r#""stream":true,"stream_options":{"include_usage":true},"#,
            None => "",
        };
        let start = format!(
            r#"{{"model":"gpt-4o-mini","max_tokens":16,{stream}"messages":[{{"role":"user","content":""#
        );
        let end = r#""}]}"#;
        let text = "The quick brown fox jumps over the lazy dog. ";
        let text_bytes = settings.body_bytes.saturating_sub(start.len() + end.len());
        let text: String = text.chars().cycle().take(text_bytes).collect();
        let body = format!("{start}{text}{end}");
        let head = |key: &String| {
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nAccept: application/json\r\nUser-Agent: load/1\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes()
        };
        let heads = settings.keys.iter().map(head).collect();
        Self { heads: Arc::new(heads), body: Arc::new(body.into_bytes()) }
    }
}

struct Connection {
    stream: TcpStream,
    reader: Reader,
    head: usize,
    sent: usize,
    started: Instant,
    waiting: bool,
    first_byte_seen: bool,
}

struct Load {
    poll: Poll,
    connections: Vec<Connection>,
    requests: Requests,
    next_head: usize,
    buffer: Vec<u8>,
    pace: Duration,
}

impl Load {
    fn connect(settings: &Settings, number: usize, requests: Requests) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for slot in 0..settings.connections.div_ceil(settings.threads) {
            let stream = std::net::TcpStream::connect(settings.target).context("connect")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(slot), both)?;
            connections.push(Connection {
                stream,
                reader: Reader::default(),
                head: 0,
                sent: 0,
                started: Instant::now(),
                waiting: false,
                first_byte_seen: false,
            });
        }
        let next_head = number * requests.heads.len() / settings.threads;
        let pace = settings.stream_pace.unwrap_or_default();
        Ok(Self { poll, connections, requests, next_head, buffer: vec![0; 64 * 1024], pace })
    }

    fn phase(&mut self, window: Duration) -> Result<Phase> {
        let mut phase = Phase::default();
        let start = Instant::now();
        let end = start + window;
        let count = u32::try_from(self.connections.len())?;
        let mut to_start: VecDeque<_> =
            (0..count).map(|slot| (start + self.pace * slot / count, slot as usize)).collect();
        let mut events = Events::with_capacity(1024);
        let mut busy = 0;
        loop {
            let now = Instant::now();
            while let Some((_, slot)) = to_start.pop_front_if(|(at, _)| *at <= now) {
                self.send_next(slot, now)?;
                busy += 1;
            }
            if busy == 0 && to_start.is_empty() {
                return Ok(phase);
            }
            ensure!(now < end + DRAIN_MAX, "{busy} requests got no response");
            let until = to_start.front().map_or(Duration::from_secs(1), |(at, _)| *at - now);
            sockets::wait(&mut self.poll, &mut events, Some(until))?;
            for event in &events {
                let slot = event.token().0;
                if self.connections[slot].sent < self.request_bytes(slot) {
                    self.write(slot)?;
                }
                let ended = self.read(slot, &mut phase, event.is_read_closed())?;
                let Some(now) = ended else { continue };
                if now < end {
                    self.send_next(slot, now)?;
                } else {
                    busy -= 1;
                }
            }
        }
    }

    fn request_bytes(&self, slot: usize) -> usize {
        self.requests.heads[self.connections[slot].head].len() + self.requests.body.len()
    }

    fn send_next(&mut self, slot: usize, now: Instant) -> Result<()> {
        let connection = &mut self.connections[slot];
        connection.head = self.next_head % self.requests.heads.len();
        self.next_head += 1;
        connection.sent = 0;
        connection.started = now;
        connection.waiting = true;
        connection.first_byte_seen = false;
        self.write(slot)
    }

    fn write(&mut self, slot: usize) -> Result<()> {
        let connection = &mut self.connections[slot];
        if connection.waiting {
            let head = &self.requests.heads[connection.head];
            let sent =
                sockets::write(&connection.stream, head, &self.requests.body, connection.sent);
            connection.sent += sent.context("write")?;
        }
        Ok(())
    }

    /// Returns when the response completed, if it did.
    fn read(&mut self, slot: usize, phase: &mut Phase, closing: bool) -> Result<Option<Instant>> {
        let connection = &mut self.connections[slot];
        let mut ended = None;
        loop {
            let Some(count) = sockets::read(&connection.stream, &mut self.buffer) else {
                return Ok(ended);
            };
            ensure!(count > 0, "the server closed a connection");
            let (waiting, started) = (&mut connection.waiting, connection.started);
            let first_byte_seen = &mut connection.first_byte_seen;
            connection.reader.feed(&self.buffer[..count], |part| {
                ensure!(*waiting, "response without a request");
                match part {
                    Part::Head(head) => check_status(head)?,
                    Part::Body(_) if *first_byte_seen => {}
                    Part::Body(_) => {
                        *first_byte_seen = true;
                        phase.first_byte.add(started.elapsed());
                    }
                    Part::End => {
                        let now = Instant::now();
                        phase.whole.add(now - started);
                        *waiting = false;
                        ended = Some(now);
                    }
                }
                Ok(())
            })?;
            // The socket is empty if the read did not fill the buffer. The next edge wakes this
            // thread.
            if count < self.buffer.len() && !closing {
                return Ok(ended);
            }
        }
    }
}

fn check_status(head: &[u8]) -> Result<()> {
    if head.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let line = head
        .split(|byte| *byte == b'\r')
        .next()
        .ok_or_else(|| anyhow!("response without a status"))?;
    bail!("unexpected status: {}", String::from_utf8_lossy(line));
}
