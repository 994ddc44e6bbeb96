//! A worker's own connections to upstreams: no lock, last in first out, one lane an upstream.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio_rustls::TlsConnector;

use crate::proxy::connect::{ConnectError, connect};
use crate::proxy::outgoing::Outgoing;
use crate::proxy::upstream::Upstream;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the head of an answer came.
    #[error("no answer came: {0}")]
    Broken(hyper::Error),
    /// The head of the answer took too long.
    #[error("the first byte took too long")]
    TimedOut,
}

/// The idle connections of one worker.
#[derive(Clone)]
pub struct Pool {
    lanes: Rc<RefCell<Vec<Lane>>>,
    tls: TlsConnector,
}

type Lane = Vec<SendRequest<Outgoing>>;

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// A connection in use. Given back when its answer was read to the end; else it closes.
#[derive(Debug)]
pub struct Lease {
    sender: SendRequest<Outgoing>,
    pool: Pool,
    lane: usize,
    idle_max: usize,
}

impl Lease {
    /// Makes the connection ready for another call.
    pub fn give_back(self) {
        let lanes = &mut *self.pool.lanes.borrow_mut();
        if let Some(lane) = lanes.get_mut(self.lane)
            && lane.len() < self.idle_max
            && !self.sender.is_closed()
        {
            lane.push(self.sender);
        }
    }
}

impl Pool {
    /// A pool without connections.
    pub fn new(tls: TlsConnector) -> Self {
        Self { lanes: Rc::default(), tls }
    }

    /// Sends a request to the upstream at `lane`. A request that met a stale connection goes out
    /// again on another: `request` makes it anew.
    pub async fn call(
        &self,
        upstream: &Upstream,
        lane: usize,
        request: impl Fn() -> Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Lease), CallError> {
        let answer = self.answer(upstream, lane, request);
        let timed = tokio::time::timeout(upstream.settings.first_byte_timeout, answer);
        timed.await.map_err(|_| CallError::TimedOut)?
    }

    async fn answer(
        &self,
        upstream: &Upstream,
        lane: usize,
        request: impl Fn() -> Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Lease), CallError> {
        while let Some(mut sender) = self.take(lane) {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(request()).await {
                Ok(response) => return Ok((response, self.lease(sender, upstream, lane))),
                Err(fault) if is_stale(&fault) => {}
                Err(fault) => return Err(CallError::Broken(fault)),
            }
        }
        let mut sender = connect(upstream, &self.tls).await?;
        let response = sender.send_request(request()).await.map_err(CallError::Broken)?;
        Ok((response, self.lease(sender, upstream, lane)))
    }

    fn take(&self, lane: usize) -> Option<SendRequest<Outgoing>> {
        let lanes = &mut *self.lanes.borrow_mut();
        if lanes.len() <= lane {
            lanes.resize_with(lane + 1, Vec::new);
        }
        lanes[lane].pop()
    }

    fn lease(&self, sender: SendRequest<Outgoing>, upstream: &Upstream, lane: usize) -> Lease {
        Lease { sender, pool: self.clone(), lane, idle_max: upstream.settings.idle_connections_max }
    }
}

/// Whether a reused connection turned out to be closed by the other side.
fn is_stale(fault: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let cause = std::error::Error::source(fault).and_then(|cause| cause.downcast_ref());
    let broken = cause.is_some_and(|io: &std::io::Error| {
        matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
    });
    fault.is_canceled() || fault.is_closed() || fault.is_incomplete_message() || broken
}
