//! An HTTP/1.1 client that exposes every byte, reads piece by piece and can disconnect at any time.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::json::Json;
use crate::harness::wait::with_deadline;

/// A request; each is sent on a new connection.
#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &'static str, target: &str) -> Self {
        Self { method, target: target.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Self { body, ..Self::new("POST", target) }.header("content-type", "application/json")
    }

    pub fn put(target: &str, body: impl AsRef<[u8]>) -> Self {
        Self { method: "PUT", ..Self::post(target, body) }
    }

    /// A chat completion with this API key.
    pub fn chat(key: &str, body: impl AsRef<[u8]>) -> Self {
        Self::post("/v1/chat/completions", body).bearer(key)
    }

    /// Replaces the method and the target.
    pub fn with_target(self, method: &'static str, target: &str) -> Self {
        Self { method, target: target.to_owned(), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|(field, _)| field != name);
        self
    }

    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut wire = format!("{} {} HTTP/1.1\r\nhost: gateway\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            wire.extend([&**name, ": ", value, "\r\n"]);
        }
        let framed = self
            .headers
            .iter()
            .any(|(name, _)| name == "content-length" || name == "transfer-encoding");
        if !framed && self.method != "GET" {
            wire.extend(["content-length: ", &self.body.len().to_string(), "\r\n"]);
        }
        [wire.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// Sends the request and reads the response head. Panics if there is none.
    pub async fn send(&self, authority: &str) -> Response {
        let sent = self.try_send(authority).await;
        sent.unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.target))
    }

    pub async fn try_send(&self, authority: &str) -> Result<Response> {
        send_raw(authority, &self.to_bytes()).await
    }
}

/// Sends `wire` on a new connection and reads the response head. Reads while writing, because a
/// server may respond and stop reading before it has received everything.
pub async fn send_raw(authority: &str, wire: &[u8]) -> Result<Response> {
    with_deadline(&format!("a response from {authority}"), async {
        send_on(TcpStream::connect(authority).await?, wire).await
    })
    .await
}

/// Like [`send_raw`], on an open connection.
pub async fn send_on(stream: TcpStream, wire: &[u8]) -> Result<Response> {
    stream.set_nodelay(true)?;
    let (mut reads, mut writes) = stream.into_split();
    let writing = async {
        // A failed write shows up in the read.
        let _ = writes.write_all(wire).await;
        std::future::pending::<()>().await;
    };
    let mut response = tokio::select! {
        response = Response::read(&mut reads) => response?,
        () = writing => unreachable!("the write future never completes"),
    };
    response.stream = Some(reads.reunite(writes).expect("both halves are of one stream"));
    Ok(response)
}

enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// A response head, and the connection from which its body is read.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    framing: Framing,
    unread: Vec<u8>,
    stream: Option<TcpStream>,
}

impl Response {
    async fn read(reads: &mut (impl AsyncReadExt + Unpin)) -> Result<Self> {
        let mut unread = Vec::new();
        let end = loop {
            if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if reads.read_buf(&mut unread).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "closed without a response"));
            }
        };
        let head = String::from_utf8(unread[..end].to_vec()).map_err(Error::other)?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let value = |name: &str| headers.iter().find(|(field, _)| field == name).map(|(_, v)| &**v);
        let framing = match (value("transfer-encoding"), value("content-length")) {
            (Some("chunked"), _) => Framing::Chunked,
            (_, Some(length)) => Framing::Length(length.parse().map_err(Error::other)?),
            _ => Framing::Close,
        };
        let status = status.ok_or_else(|| Error::other("no status"))?;
        unread.drain(..end + 4);
        Ok(Self { status, headers, framing, unread, stream: None })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    /// The id of the call in the request log and the ledger.
    #[track_caller]
    pub fn id(&self) -> String {
        self.header("x-request-id").expect("every response has x-request-id").to_owned()
    }

    /// Returns the next piece of the body, `None` at its proper end, or an error if it was cut.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        with_deadline("a piece of the body", self.next_piece_unbounded()).await
    }

    async fn next_piece_unbounded(&mut self) -> Result<Option<Vec<u8>>> {
        match self.framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(remaining) => {
                self.fill(1).await?;
                let length = remaining.min(self.unread.len());
                self.framing = Framing::Length(remaining - length);
                Ok(Some(self.unread.drain(..length).collect()))
            }
            Framing::Chunked => {
                let line = loop {
                    if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                        break end;
                    }
                    self.fill(self.unread.len() + 1).await?;
                };
                let size = String::from_utf8_lossy(&self.unread[..line]).into_owned();
                let size = usize::from_str_radix(&size, 16).map_err(Error::other)?;
                self.fill(line + size + 4).await?;
                let piece = self.unread[line + 2..line + 2 + size].to_vec();
                self.unread.drain(..line + size + 4);
                if size == 0 {
                    self.framing = Framing::Length(0);
                }
                Ok((size > 0).then_some(piece))
            }
            Framing::Close => {
                let more = self.fill(1).await;
                Ok(more.is_ok().then(|| self.unread.drain(..).collect()))
            }
        }
    }

    async fn fill(&mut self, bytes: usize) -> Result<()> {
        let stream = self.stream.as_mut().expect("the head was read");
        while self.unread.len() < bytes {
            if stream.read_buf(&mut self.unread).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the body was cut"));
            }
        }
        Ok(())
    }

    /// Reads the rest of the body. The flag is true if the body came to its proper end.
    pub async fn read_to_end(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            match self.piece().await {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => return (body, true),
                Err(_) => return (body, false),
            }
        }
    }

    pub async fn text(mut self) -> String {
        let (body, complete) = self.read_to_end().await;
        let body = String::from_utf8(body).expect("the body is UTF-8");
        assert!(complete, "the body was cut after {body:?}");
        body
    }

    pub async fn json(self) -> Json {
        Json::new(&self.text().await)
    }
}
