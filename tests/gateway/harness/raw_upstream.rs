//! A provider without manners: it says on the wire exactly what it is told to, be it HTTP or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does next. After the last of them it closes the connection.
#[derive(Clone)]
pub enum WireAction {
    Send(Vec<u8>),
    /// The same, a byte at a time.
    Drip(Vec<u8>),
    /// The same for ever.
    Repeat(Vec<u8>),
    /// Nothing, until the other side closes the connection.
    AwaitClose,
}

pub fn send(bytes: impl Into<Vec<u8>>) -> WireAction {
    WireAction::Send(bytes.into())
}

/// It runs until the test ends.
pub struct RawUpstream {
    pub url: String,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl RawUpstream {
    /// With what it does on the connection of that number, counted from 0, once it was asked there:
    /// nothing is done on one that closes at once.
    pub async fn start(
        acts: impl Fn(usize) -> Option<Vec<WireAction>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let (asked, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let own = Self { url, requests: Arc::clone(&asked), connections: Arc::clone(&open) };
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                if let Some(acts) = acts(number) {
                    let (asked, open) = (Arc::clone(&asked), Arc::clone(&open));
                    tokio::spawn(async move {
                        open.fetch_add(1, SeqCst);
                        let _ = perform(stream, acts, &asked).await;
                        open.fetch_sub(1, SeqCst);
                    });
                } else {
                    asked.fetch_add(1, SeqCst);
                }
                number += 1;
            }
        });
        own
    }

    /// How many requests it has got.
    pub fn request_count(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

async fn perform(
    mut stream: TcpStream,
    acts: Vec<WireAction>,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    read_request(&mut stream).await?;
    asked.fetch_add(1, SeqCst);
    for act in acts {
        match act {
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
                let mut rest = [0; 64];
                while stream.read(&mut rest).await? > 0 {}
            }
        }
    }
    // What was said is to arrive: a close that discards unread bytes would take it back.
    stream.shutdown().await
}

/// Reads one request, whose body has a length.
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
