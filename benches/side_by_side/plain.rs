//! A minimal hyper proxy: the lowest cost of a correct proxy on hyper. `bare`, the gateway's own
//! proxy without policy, should cost at most 10 % more.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};

use crate::sockets;

pub fn run(threads: usize, upstream: SocketAddr) -> Result<()> {
    sockets::serve_on_threads(threads, move |listener| {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(accept(listener, upstream))
    })
}

async fn accept(listener: TcpListener, upstream: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let pool = Pool { upstream, idle: Rc::default() };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        let service = hyper::service::service_fn(move |request| forward(pool.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30))
            .serve_connection(TokioIo::new(stream), service);
        // The load generator notices a broken client connection and voids the window.
        tokio::task::spawn_local(async { drop(connection.await) });
    }
}

async fn forward(pool: Pool, request: Request<Incoming>) -> Result<Response<Pooled>> {
    let mut sender = pool.take().await?;
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Pooled { body, sender: Some(sender), ended: false, pool }))
}

/// The keep-alive connections of this thread. The one used last is taken first, because its caches
/// are warm.
#[derive(Clone)]
struct Pool {
    upstream: SocketAddr,
    idle: Rc<RefCell<Vec<SendRequest<Incoming>>>>,
}

impl Pool {
    async fn take(&self) -> Result<SendRequest<Incoming>> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async { drop(connection.await) });
        Ok(sender)
    }
}

/// A response body that returns its connection to the pool when it has been read completely.
struct Pooled {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
    ended: bool,
    pool: Pool,
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take().filter(|_| self.ended || self.is_end_stream()) {
            self.pool.idle.borrow_mut().push(sender);
        }
    }
}
