//! A fake upstream that writes arbitrary bytes, valid HTTP or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One step of a connection. After the last step the upstream closes the connection.
#[derive(Clone)]
pub enum WireAction {
    Send(Vec<u8>),
    /// Sends one byte at a time.
    Drip(Vec<u8>),
    /// Sends the bytes repeatedly until the peer closes the connection.
    Repeat(Vec<u8>),
    /// Sends nothing until the peer closes the connection.
    AwaitClose,
}

pub fn send(bytes: impl Into<Vec<u8>>) -> WireAction {
    WireAction::Send(bytes.into())
}

/// A running raw upstream. It stops with the test.
pub struct RawUpstream {
    pub url: String,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl RawUpstream {
    /// Starts the upstream. `actions` returns the steps for connection `number`, counted from 0,
    /// which run after one request has been read, or `None` to close that connection at once.
    pub async fn start(
        actions: impl Fn(usize) -> Option<Vec<WireAction>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let (requests, connections) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let upstream =
            Self { url, requests: Arc::clone(&requests), connections: Arc::clone(&connections) };
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                if let Some(actions) = actions(number) {
                    let (requests, connections) = (Arc::clone(&requests), Arc::clone(&connections));
                    tokio::spawn(async move {
                        connections.fetch_add(1, SeqCst);
                        let _ = perform(stream, actions, &requests).await;
                        connections.fetch_sub(1, SeqCst);
                    });
                } else {
                    requests.fetch_add(1, SeqCst);
                }
                number += 1;
            }
        });
        upstream
    }

    /// Number of requests received.
    pub fn request_count(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

async fn perform(
    mut stream: TcpStream,
    actions: Vec<WireAction>,
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    read_request(&mut stream).await?;
    requests.fetch_add(1, SeqCst);
    for action in actions {
        match action {
            WireAction::Send(bytes) => stream.write_all(&bytes).await?,
            WireAction::Drip(bytes) => {
                for (at, byte) in bytes.into_iter().enumerate() {
                    stream.write_all(&[byte]).await?;
                    if at % 32 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            WireAction::Repeat(bytes) => loop {
                stream.write_all(&bytes).await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            },
            WireAction::AwaitClose => {
                let mut buffer = [0; 64];
                while stream.read(&mut buffer).await? > 0 {}
            }
        }
    }
    // A close that discards unread bytes could also discard what was sent, so shut down the write
    // side.
    stream.shutdown().await
}

/// Reads one request. Its body must have a content-length.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let (_, length) = head.split_once("content-length: ").expect("a length");
        let length = length.split("\r\n").next().and_then(|length| length.parse::<usize>().ok());
        if end + 4 + length.expect("a number") <= read.len() {
            return Ok(());
        }
    }
}
