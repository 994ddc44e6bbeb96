//! The fake provider: sends a fixed chat completion at once, or a stream of events at a fixed pace.
//! It costs only a few system calls, so that it does not distort the measurement.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::Result;
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::sockets;
use crate::wire::{Part, Reader};

const LISTENER: Token = Token(usize::MAX);
/// Bytes of a body that are searched for `stream`. Large bodies are not searched to the end.
const SEARCHED_BYTES: usize = 512;

#[derive(Clone)]
pub struct Settings {
    pub threads: usize,
    pub chunks: usize,
    pub pace: Duration,
}

pub fn run(settings: &Settings) -> Result<()> {
    let answers = Answers::new(settings);
    sockets::serve_on_threads(settings.threads, move |listener| {
        Upstream::new(answers.clone(), listener)?.serve()
    })
}

#[derive(Clone)]
struct Answers {
    whole: Vec<u8>,
    stream_head_and_first: Vec<u8>,
    chunk: Vec<u8>,
    last_chunk: Vec<u8>,
    chunks: usize,
    pace: Duration,
}

struct Connection {
    stream: TcpStream,
    reader: Reader,
    is_stream: bool,
    searched: usize,
    unsent: Vec<u8>,
    /// Remaining chunks of the stream with this serial number.
    chunks_left: usize,
    serial: u64,
}

struct Due {
    at: Instant,
    slot: usize,
    serial: u64,
}

struct Upstream {
    answers: Answers,
    listener: mio::net::TcpListener,
    poll: Poll,
    connections: Vec<Option<Connection>>,
    /// Ordered by time, because all streams have the same pace.
    due: VecDeque<Due>,
    serials: u64,
}

impl Upstream {
    fn new(answers: Answers, listener: TcpListener) -> Result<Self> {
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (connections, due) = (Vec::new(), VecDeque::new());
        Ok(Self { answers, listener, poll, connections, due, serials: 0 })
    }

    fn serve(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let timeout =
                self.due.front().map(|due| due.at.saturating_duration_since(Instant::now()));
            sockets::wait(&mut self.poll, &mut events, timeout)?;
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                } else {
                    self.handle_event(event.token().0, &mut buffer, event.is_read_closed());
                }
            }
            self.send_due();
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((mut stream, _)) = self.listener.accept() {
            stream.set_nodelay(true)?;
            let slot = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(slot), both)?;
            self.connections[slot] = Some(Connection {
                stream,
                reader: Reader::default(),
                is_stream: false,
                searched: 0,
                unsent: Vec::new(),
                chunks_left: 0,
                serial: 0,
            });
        }
        Ok(())
    }

    fn handle_event(&mut self, slot: usize, buffer: &mut [u8], closing: bool) {
        let Some(connection) = self.connections[slot].as_mut() else { return };
        connection.flush();
        loop {
            let Some(count) = sockets::read(&connection.stream, buffer) else { return };
            let requests = connection.count_requests(&buffer[..count]);
            if count == 0 || requests.is_none() {
                self.connections[slot] = None;
                return;
            }
            for _ in 0..requests.unwrap_or(0) {
                if connection.is_stream {
                    self.serials += 1;
                    connection.serial = self.serials;
                    connection.chunks_left = self.answers.chunks - 1;
                    connection.send(&self.answers.stream_head_and_first);
                    let at = Instant::now() + self.answers.pace;
                    self.due.push_back(Due { at, slot, serial: self.serials });
                } else {
                    connection.send(&self.answers.whole);
                }
            }
            // The socket is empty if the read did not fill the buffer. The next edge wakes this
            // thread.
            if count < buffer.len() && !closing {
                return;
            }
        }
    }

    fn send_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let now = Instant::now();
        // Only entries queued before this call, so that sockets are served even without a pace.
        for _ in 0..self.due.len() {
            let Some(due) = self.due.pop_front_if(|due| due.at <= now) else { return };
            let Some(connection) = self.connections[due.slot].as_mut() else { continue };
            if connection.serial != due.serial {
                continue;
            }
            connection.chunks_left -= 1;
            if connection.chunks_left == 0 {
                connection.send(&self.answers.last_chunk);
            } else {
                connection.send(&self.answers.chunk);
                // Based on the planned time, so that delays do not add up over a stream.
                self.due.push_back(Due { at: due.at + self.answers.pace, ..due });
            }
        }
    }
}

impl Connection {
    /// Returns the number of requests that ended in these bytes; `None` if they are not HTTP.
    fn count_requests(&mut self, bytes: &[u8]) -> Option<usize> {
        let (wants_stream, searched) = (&mut self.is_stream, &mut self.searched);
        let mut ended = 0;
        let fed = self.reader.feed(bytes, |part| {
            match part {
                Part::Head(_) => (*wants_stream, *searched) = (false, 0),
                Part::Body(bytes) if *searched < SEARCHED_BYTES => {
                    let start = &bytes[..bytes.len().min(SEARCHED_BYTES)];
                    *searched += start.len();
                    *wants_stream |= memmem::find(start, br#""stream":true"#).is_some();
                }
                Part::Body(_) => {}
                Part::End => ended += 1,
            }
            Ok(())
        });
        fed.ok().map(|()| ended)
    }

    /// A failed write means that the peer has closed the connection, which the next read reports.
    fn send(&mut self, bytes: &[u8]) {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return;
        }
        let sent = sockets::write(&self.stream, bytes, b"", 0).unwrap_or(bytes.len());
        self.unsent.extend_from_slice(&bytes[sent..]);
    }

    fn flush(&mut self) {
        if !self.unsent.is_empty() {
            let sent = sockets::write(&self.stream, &self.unsent, b"", 0);
            self.unsent.drain(..sent.unwrap_or(self.unsent.len()));
        }
    }
}

impl Answers {
    fn new(settings: &Settings) -> Self {
        let usage = r#""usage":{"prompt_tokens":200,"completion_tokens":16,"total_tokens":216}"#;
        let text = "All good things are wild and free, said the walker, and went on his way. ";
        let body = format!(
            r#"{{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],{usage}}}"#,
            text.repeat(3)
        );
        let whole = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let event = |rest: &str| {
            format!(
                "data: {{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o-mini\",{rest}}}\n\n"
            )
        };
        let http_chunk = |data: &str| format!("{:x}\r\n{data}\r\n", data.len());
        let chunk = http_chunk(&event(
            r#""choices":[{"index":0,"delta":{"content":" wild"},"finish_reason":null}]"#,
        ));
        let finish = event(r#""choices":[{"index":0,"delta":{},"finish_reason":"stop"}]"#);
        let counted = event(&format!(r#""choices":[],{usage}"#));
        let last = http_chunk(&format!("{finish}{counted}data: [DONE]\n\n"));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
        Self {
            whole: whole.into_bytes(),
            stream_head_and_first: format!("{head}{chunk}").into_bytes(),
            chunk: chunk.into_bytes(),
            last_chunk: format!("{last}0\r\n\r\n").into_bytes(),
            chunks: settings.chunks.max(2),
            pace: settings.pace,
        }
    }
}
