//! A fake upstream that waits, stalls, cuts or corrupts responses as planned, and records requests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::harness::json::Json;
use crate::harness::upstream_connection::{Connection, Stream};
use crate::harness::wait::eventually;

/// How the upstream responds to one request. Steps before the first `Send` delay the head.
#[derive(Clone)]
pub struct Plan {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// If true, each `Send` is one chunk; otherwise the body has a content-length.
    pub chunked: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub enum Step {
    Wait(Duration),
    /// Waits until the test calls `release`.
    Stall,
    Send(Vec<u8>),
    /// Sends the bytes repeatedly, as fast as possible, until the test calls `release`.
    Repeat(Vec<u8>),
    /// Calls back into the test when this step is reached.
    Notify(Arc<dyn Fn() + Send + Sync>),
    /// Closes the connection at once.
    Cut,
}

/// A request as received.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub target: String,
    pub head: String,
    pub body: String,
    /// Index of the connection, counted from 0.
    pub connection: usize,
    /// When the peer closed the connection before the response was complete.
    pub disconnected_at: Option<Instant>,
}

impl ReceivedRequest {
    pub fn json(&self) -> Json {
        Json::new(&self.body)
    }

    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
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
    /// Incremented to close idle connections.
    close_idle: watch::Sender<usize>,
}

/// A running fake upstream. It stops with the test.
pub struct Upstream {
    pub url: String,
    state: Arc<UpstreamState>,
}

impl Upstream {
    pub async fn start(planner: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static) -> Self {
        Self::start_with(None, Box::new(planner)).await
    }

    /// Like [`Self::start`], over HTTPS as `localhost`.
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
        let state = Arc::new(UpstreamState {
            requests: Mutex::default(),
            planner,
            released: watch::Sender::new(false),
            close_idle: watch::Sender::new(0),
        });
        let server = Arc::clone(&state);
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(Arc::clone(&server).serve_connection(
                    number,
                    stream,
                    acceptor.clone(),
                ));
                number += 1;
            }
        });
        Self { url, state }
    }

    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.requests.lock().expect("the lock is not poisoned").clone()
    }

    pub fn request_count(&self) -> usize {
        self.state.requests.lock().expect("the lock is not poisoned").len()
    }

    /// Waits until this many requests have been received.
    pub async fn wait_for_requests(&self, requests: usize) {
        eventually(&format!("{requests} requests reach the upstream"), async || {
            (requests <= self.request_count()).then_some(())
        })
        .await;
    }

    /// Waits until the peer disconnects during request `index`; returns when.
    pub async fn wait_for_disconnect(&self, index: usize) -> Instant {
        eventually("the gateway disconnects from the upstream", async || {
            self.requests().get(index)?.disconnected_at
        })
        .await
    }

    /// Ends every current and future stall.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Makes `Step::Stall` stall again.
    pub fn stall_again(&self) {
        self.state.released.send_replace(false);
    }

    /// Closes every connection once it is idle, and waits until all are closed.
    pub async fn close_idle_connections(&self) {
        self.state.close_idle.send_modify(|times| *times += 1);
        eventually("every connection is closed", async || {
            (self.state.close_idle.receiver_count() == 0).then_some(())
        })
        .await;
    }
}

/// A port that is bound and not listening: nothing else can take it, and it refuses connections.
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
            // A peer that rejects the certificate has sent no request.
            Some(acceptor) => match acceptor.accept(tcp).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
        };
        let mut connection = Connection { stream, unread: Vec::new() };
        let mut closing = self.close_idle.subscribe();
        loop {
            // A partly received request is completed before the connection closes.
            let has_request = !connection.unread.is_empty()
                || tokio::select! {
                    biased;
                    more = connection.read_more() => more.is_some(),
                    _ = closing.changed() => false,
                };
            if !has_request || self.serve_request(number, &mut connection).await.is_none() {
                return;
            }
        }
    }

    /// Serves one request. Returns `None` if the connection cannot be reused.
    async fn serve_request(&self, number: usize, connection: &mut Connection) -> Option<()> {
        let (head, body) = connection.read_request().await?;
        let target = head.split(' ').nth(1)?.to_owned();
        let request =
            ReceivedRequest { target, head, body, connection: number, disconnected_at: None };
        let plan = (self.planner)(&request);
        let index = {
            let mut requests = self.requests.lock().expect("the lock is not poisoned");
            requests.push(request);
            requests.len() - 1
        };
        match self.respond(connection, &plan).await {
            ResponseEnd::Complete => Some(()),
            ResponseEnd::Cut => None,
            ResponseEnd::Disconnected(at) => {
                self.requests.lock().expect("the lock is not poisoned")[index].disconnected_at =
                    Some(at);
                None
            }
        }
    }

    async fn respond(&self, connection: &mut Connection, plan: &Plan) -> ResponseEnd {
        let mut head = Some(plan.head());
        for step in &plan.steps {
            match step {
                Step::Wait(time) => {
                    if let Some(at) =
                        connection.disconnected_during(tokio::time::sleep(*time)).await
                    {
                        return ResponseEnd::Disconnected(at);
                    }
                }
                Step::Stall => {
                    let mut released = self.released.subscribe();
                    let release = async { drop(released.wait_for(|released| *released).await) };
                    if let Some(at) = connection.disconnected_during(release).await {
                        return ResponseEnd::Disconnected(at);
                    }
                }
                Step::Cut => return ResponseEnd::Cut,
                Step::Notify(notify) => notify(),
                Step::Send(bytes) | Step::Repeat(bytes) => loop {
                    let size = format!("{:x}\r\n", bytes.len());
                    let (size, end) = if plan.chunked { (&*size, "\r\n") } else { ("", "") };
                    let head = head.take().unwrap_or_default();
                    let wire = [&head, size.as_bytes(), bytes, end.as_bytes()].concat();
                    if connection.send(&wire).await.is_err() {
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
        let written = connection.send(&wire).await;
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

    /// A stream that waits for `pace` before each piece but the first.
    pub fn stream(pieces: impl IntoIterator<Item: Into<Vec<u8>>>, pace: Duration) -> Self {
        let pause = || (!pace.is_zero()).then_some(Step::Wait(pace));
        let steps = pieces.into_iter().enumerate().flat_map(|(index, piece)| {
            [pause().filter(|_| index > 0), Some(Step::Send(piece.into()))]
        });
        let headers = vec![("content-type", "text/event-stream; charset=utf-8".to_owned())];
        Self { status: 200, headers, chunked: true, steps: steps.flatten().collect() }
    }

    /// Delays the response by `latency`.
    pub fn with_latency(mut self, latency: Duration) -> Self {
        if !latency.is_zero() {
            self.steps.insert(0, Step::Wait(latency));
        }
        self
    }

    /// Inserts `step` before the piece with index `sent`, or at the end.
    pub fn insert_step(mut self, sent: usize, step: Step) -> Self {
        let sends = self.steps.iter().enumerate().filter(|(_, s)| matches!(s, Step::Send(_)));
        let at = sends.map(|(index, _)| index).nth(sent).unwrap_or(self.steps.len());
        self.steps.insert(at, step);
        self
    }

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
