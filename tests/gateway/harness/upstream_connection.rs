//! The server side of a connection: reads requests and notices disconnects.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of a client to the upstream.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    pub unread: Vec<u8>,
}

impl Connection {
    /// Reads one request; returns its head and body.
    pub async fn read_request(&mut self) -> Option<(String, String)> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields
                .find(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let mut body = Vec::new();
        let mut used = end;
        if field("transfer-encoding").is_some() {
            loop {
                let line = loop {
                    let remaining = &self.unread[used..];
                    if let Some(line) = remaining.windows(2).position(|two| two == b"\r\n") {
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
        Some((head, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Flushes, because TLS may buffer the bytes.
    pub async fn send(&mut self, wire: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(wire).await?;
        self.stream.flush().await
    }

    pub async fn read_more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.unread).await;
        read.ok().filter(|bytes| *bytes > 0).map(drop)
    }

    /// Runs `work`; returns the time at which the peer closed the connection, if it did.
    pub async fn disconnected_during(&mut self, work: impl Future<Output = ()>) -> Option<Instant> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return None,
                more = self.read_more() => if more.is_none() { return Some(Instant::now()) },
            }
        }
    }
}
