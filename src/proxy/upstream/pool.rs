//! A worker's own connections to upstreams: no lock, last in first out, one lane an upstream.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio_rustls::TlsConnector;

use crate::proxy::upstream::connect::{ConnectError, connect};
use crate::proxy::upstream::provider_endpoint::Upstream;
use crate::proxy::upstream::upstream_body::UpstreamBody;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke after the request was begun: the upstream may have acted on it.
    #[error("no answer came: {0}")]
    Broken(hyper::Error),
    /// The connection was closed before a byte of the request was sent: here it is again.
    #[error("the connection was stale")]
    Stale(Box<Request<UpstreamBody>>),
    /// The same of a connection that was new: another one would fare no better.
    #[error("a new connection was closed before anything was sent")]
    Closed,
    /// Nobody is left who could use an answer, and nothing was sent.
    #[error("the client left before it was sent")]
    ClientDisconnected,
    /// The head of the answer took too long.
    #[error("the first byte took too long")]
    TimedOut,
}

/// How long a connection whose last answer was read may take to be ready again. One that is not
/// has something left to write, and is left alone.
const READY_TIMEOUT: Duration = Duration::from_millis(50);

/// The idle connections of one worker.
#[derive(Clone)]
pub struct Pool {
    slots: Rc<RefCell<Vec<IdleConnections>>>,
    tls: TlsConnector,
}

type IdleConnections = Vec<SendRequest<UpstreamBody>>;

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// A connection in use. Given back when its answer was read to the end; else it closes.
#[derive(Debug)]
pub struct Lease {
    sender: SendRequest<UpstreamBody>,
    pool: Pool,
    slot: usize,
    idle_max: usize,
    is_new: bool,
}

impl Lease {
    /// Whether no call has been sent on it.
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Sends a request. It goes out once: whoever wants it sent again decides so.
    pub async fn send(
        mut self,
        request: Request<UpstreamBody>,
    ) -> Result<(Response<Incoming>, Self), CallError> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((response, self)),
            Err(mut unsent) => Err(match unsent.take_message() {
                Some(request) => CallError::Stale(Box::new(request)),
                None => CallError::Broken(unsent.into_error()),
            }),
        }
    }

    /// Makes the connection ready for another call.
    pub fn return_to_pool(self) {
        let slots = &mut *self.pool.slots.borrow_mut();
        if let Some(idle) = slots.get_mut(self.slot)
            && idle.len() < self.idle_max
            && !self.sender.is_closed()
        {
            idle.push(self.sender);
        }
    }
}

impl Pool {
    /// A pool without connections.
    pub fn new(tls: TlsConnector) -> Self {
        Self { slots: Rc::default(), tls }
    }

    /// Closes what is idle and leads to no upstream of those lanes.
    pub fn retain(&self, is_used: impl Fn(usize) -> bool) {
        for (slot, idle) in self.slots.borrow_mut().iter_mut().enumerate() {
            if !is_used(slot) {
                idle.clear();
            }
        }
    }

    /// A connection to the upstream: the one that was used last, or a new one.
    pub async fn lease(&self, upstream: &Upstream) -> Result<Lease, ConnectError> {
        let slot = upstream.pool_slot;
        let idle_max = upstream.settings.idle_connections_max;
        while let Some(mut sender) = self.pop_idle(slot) {
            if let Ok(Ok(())) = tokio::time::timeout(READY_TIMEOUT, sender.ready()).await {
                return Ok(Lease { sender, pool: self.clone(), slot, idle_max, is_new: false });
            }
        }
        let sender = connect(upstream, &self.tls).await?;
        Ok(Lease { sender, pool: self.clone(), slot, idle_max, is_new: true })
    }

    fn pop_idle(&self, slot: usize) -> Option<SendRequest<UpstreamBody>> {
        let slots = &mut *self.slots.borrow_mut();
        if slots.len() <= slot {
            slots.resize_with(slot + 1, Vec::new);
        }
        slots[slot].pop()
    }
}
