//! A provider that does as it is told: waits, stalls, cuts, garbles; and notes what reached it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::harness::json::Json;
use crate::harness::wait::eventually;

/// What the provider does with one request. Waits before the first `Send` hold back the head.
#[derive(Clone)]
pub struct Plan {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Chunked, one `Send` a chunk; else under one content-length.
    pub chunked: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub enum Step {
    Wait(Duration),
    /// Waits until the test says `release`.
    Stall,
    Send(Vec<u8>),
    /// The same again and again, as fast as it can, until the test says `release`.
    Repeat(Vec<u8>),
    /// Tells the test how far it has come.
    Notify(Arc<dyn Fn() + Send + Sync>),
    /// Closes the connection in the midst of things.
    Cut,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub target: String,
    pub head: String,
    pub body: String,
    /// Which connection it came by, counted from 0.
    pub connection: usize,
    /// When the peer closed the connection before the answer was complete.
    pub disconnected_at: Option<Instant>,
}

impl ReceivedRequest {
    pub fn json(&self) -> Json {
        Json::new(&self.body)
    }

    /// The value of a header, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn is_set(&self, path: &str) -> bool {
        self.json().find(path).is_some_and(|value| value.is_true())
    }
}

type Planner = dyn Fn(&ReceivedRequest) -> Plan + Send + Sync;

struct UpstreamState {
    requests: Mutex<Vec<ReceivedRequest>>,
    planner: Box<Planner>,
    released: watch::Sender<bool>,
    /// How often it has hung up.
    close_idle: watch::Sender<usize>,
}

/// A running provider; it ends with the test.
pub struct Upstream {
    pub url: String,
    state: Arc<UpstreamState>,
}

impl Upstream {
    pub async fn start(planner: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static) -> Self {
        Self::start_with(None, Box::new(planner)).await
    }

    /// By HTTPS, under the name `localhost`.
    pub async fn start_tls(
        acceptor: TlsAcceptor,
        planner: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Some(acceptor), Box::new(planner)).await
    }

    async fn start_with(acceptor: Option<TlsAcceptor>, planner: Box<Planner>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let url = match acceptor {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let desk = Arc::new(UpstreamState {
            requests: Mutex::default(),
            planner,
            released: watch::Sender::new(false),
            close_idle: watch::Sender::new(0),
        });
        let served = Arc::clone(&desk);
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(Arc::clone(&served).serve_connection(
                    number,
                    stream,
                    acceptor.clone(),
                ));
                number += 1;
            }
        });
        Self { url, state: desk }
    }

    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.requests.lock().expect("no test panics while it notes").clone()
    }

    pub fn request_count(&self) -> usize {
        self.state.requests.lock().expect("no test panics while it notes").len()
    }

    /// Waits until this many requests have come.
    pub async fn wait_for_requests(&self, requests: usize) {
        eventually(&format!("{requests} requests reach the provider"), async || {
            (requests <= self.request_count()).then_some(())
        })
        .await;
    }

    /// When the peer closed the connection of request `index`.
    pub async fn wait_for_disconnect(&self, index: usize) -> Instant {
        eventually("the gateway leaves the provider", async || {
            self.requests().get(index)?.disconnected_at
        })
        .await
    }

    /// Ends every stall, and those to come.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Stalls again from now on.
    pub fn stall_again(&self) {
        self.state.released.send_replace(false);
    }

    /// Closes every connection as soon as nothing is asked on it, and waits until that is done.
    pub async fn close_idle_connections(&self) {
        self.state.close_idle.send_modify(|times| *times += 1);
        eventually("every connection is closed", async || {
            (self.state.close_idle.receiver_count() == 0).then_some(())
        })
        .await;
    }
}

/// Bound and not listening: nobody else can take the port, and it refuses connections.
pub fn closed_port() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("a bound address"));
    (socket, url)
}

impl UpstreamState {
    async fn serve_connection(
        self: Arc<Self>,
        number: usize,
        tcp: TcpStream,
        tls: Option<TlsAcceptor>,
    ) {
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(tcp),
            // A peer that does not believe the certificate has seen nothing of what follows.
            Some(acceptor) => match acceptor.accept(tcp).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
        };
        let mut line = Connection { stream, unread: Vec::new(), number };
        let mut hung_up = self.close_idle.subscribe();
        loop {
            // A request that has begun to come is no idle connection.
            let begun = !line.unread.is_empty()
                || tokio::select! {
                    biased;
                    more = line.read_more() => more.is_some(),
                    _ = hung_up.changed() => false,
                };
            if !begun || self.serve_request(&mut line).await.is_none() {
                return;
            }
        }
    }

    /// One request and its answer; nothing when the connection can serve no other.
    async fn serve_request(&self, line: &mut Connection) -> Option<()> {
        let seen = line.read_request().await?;
        let plan = (self.planner)(&seen);
        let index = {
            let mut all = self.requests.lock().expect("no test panics while it notes");
            all.push(seen);
            all.len() - 1
        };
        match self.respond(line, &plan).await {
            ResponseEnd::Complete => Some(()),
            ResponseEnd::Cut => None,
            ResponseEnd::Disconnected(at) => {
                self.requests.lock().expect("no test panics while it notes")[index]
                    .disconnected_at = Some(at);
                None
            }
        }
    }

    async fn respond(&self, line: &mut Connection, plan: &Plan) -> ResponseEnd {
        let mut head = Some(plan.head());
        for step in &plan.steps {
            match step {
                Step::Wait(time) => {
                    if let Some(at) = line.disconnected_during(tokio::time::sleep(*time)).await {
                        return ResponseEnd::Disconnected(at);
                    }
                }
                Step::Stall => {
                    let mut released = self.released.subscribe();
                    let release = async { drop(released.wait_for(|released| *released).await) };
                    if let Some(at) = line.disconnected_during(release).await {
                        return ResponseEnd::Disconnected(at);
                    }
                }
                Step::Cut => return ResponseEnd::Cut,
                Step::Notify(tell) => tell(),
                Step::Send(bytes) | Step::Repeat(bytes) => loop {
                    let size = format!("{:x}\r\n", bytes.len());
                    let (size, end) = if plan.chunked { (&*size, "\r\n") } else { ("", "") };
                    let head = head.take().unwrap_or_default();
                    let wire = [&head, size.as_bytes(), bytes, end.as_bytes()].concat();
                    if line.send(&wire).await.is_err() {
                        return ResponseEnd::Disconnected(Instant::now());
                    }
                    if matches!(step, Step::Send(_)) || *self.released.borrow() {
                        break;
                    }
                },
            }
        }
        let mut wire = head.take().unwrap_or_default();
        if plan.chunked {
            wire.extend(b"0\r\n\r\n");
        }
        let written = line.send(&wire).await;
        if written.is_ok() {
            ResponseEnd::Complete
        } else {
            ResponseEnd::Disconnected(Instant::now())
        }
    }
}

impl Plan {
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, chunked: false, steps: vec![Step::Send(body.into())] }
    }

    /// A stream that takes `pace` before each piece but the first.
    pub fn stream(pieces: impl IntoIterator<Item: Into<Vec<u8>>>, pace: Duration) -> Self {
        let pause = || (!pace.is_zero()).then_some(Step::Wait(pace));
        let steps = pieces.into_iter().enumerate().flat_map(|(index, piece)| {
            [pause().filter(|_| index > 0), Some(Step::Send(piece.into()))]
        });
        let headers = vec![("content-type", "text/event-stream; charset=utf-8".to_owned())];
        Self { status: 200, headers, chunked: true, steps: steps.flatten().collect() }
    }

    /// The same after a time in which nothing is answered.
    pub fn with_latency(mut self, latency: Duration) -> Self {
        if !latency.is_zero() {
            self.steps.insert(0, Step::Wait(latency));
        }
        self
    }

    /// The same up to piece `sent`, then `step`, then the rest.
    pub fn insert_step(mut self, sent: usize, step: Step) -> Self {
        let sends = self.steps.iter().enumerate().filter(|(_, s)| matches!(s, Step::Send(_)));
        let at = sends.map(|(index, _)| index).nth(sent).unwrap_or(self.steps.len());
        self.steps.insert(at, step);
        self
    }

    /// How many pieces it sends.
    pub fn send_count(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Send(_))).count()
    }

    fn head(&self) -> Vec<u8> {
        let sizes = self.steps.iter().map(|step| match step {
            Step::Send(bytes) => bytes.len(),
            _ => 0,
        });
        let framing = if self.chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {}", sizes.sum::<usize>())
        };
        let mut head = format!("HTTP/1.1 {} Planned\r\n{framing}\r\n", self.status);
        for (name, value) in &self.headers {
            head.extend([*name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

enum ResponseEnd {
    Complete,
    Cut,
    Disconnected(Instant),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    number: usize,
}

impl Connection {
    async fn read_request(&mut self) -> Option<ReceivedRequest> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let mut body = Vec::new();
        let mut used = end;
        if field("transfer-encoding").is_some() {
            loop {
                let line = loop {
                    let rest = &self.unread[used..];
                    if let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
                        break line;
                    }
                    self.read_more().await?;
                };
                let size = std::str::from_utf8(&self.unread[used..used + line]).ok()?;
                let size = usize::from_str_radix(size, 16).ok()?;
                used += line + 2;
                while self.unread.len() < used + size + 2 {
                    self.read_more().await?;
                }
                body.extend_from_slice(&self.unread[used..used + size]);
                used += size + 2;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length: usize =
                field("content-length").map_or(Some(0), |text| text.parse().ok())?;
            used += length;
            while self.unread.len() < used {
                self.read_more().await?;
            }
            body.extend_from_slice(&self.unread[end..used]);
        }
        self.unread.drain(..used);
        let target = head.split(' ').nth(1)?.to_owned();
        let body = String::from_utf8_lossy(&body).into_owned();
        Some(ReceivedRequest { target, head, body, connection: self.number, disconnected_at: None })
    }

    /// TLS may hold bytes back until it is told to flush.
    async fn send(&mut self, wire: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(wire).await?;
        self.stream.flush().await
    }

    async fn read_more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.unread).await;
        read.ok().filter(|bytes| *bytes > 0).map(drop)
    }

    /// Does `work`, and tells when the peer closed the connection meanwhile.
    async fn disconnected_during(&mut self, work: impl Future<Output = ()>) -> Option<Instant> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return None,
                more = self.read_more() => if more.is_none() { return Some(Instant::now()) },
            }
        }
    }
}
