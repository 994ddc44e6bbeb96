//! The idle upstream connections of a worker: no lock, last in, first out, one slot per upstream.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio_rustls::TlsConnector;

use crate::proxy::upstreams::connect::{ConnectError, connect};
use crate::proxy::upstreams::request_body::UpstreamBody;
use crate::proxy::upstreams::upstream::Upstream;

/// Why an attempt brought no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke after a part of the request was sent; the upstream may have acted on it.
    #[error("connection broke before a response: {0}")]
    Broken(hyper::Error),
    /// The connection was closed before a byte of the request was sent. Returns the request.
    #[error("stale connection")]
    Stale(Box<Request<UpstreamBody>>),
    /// A new connection was closed before anything was sent, so another one would fail too.
    #[error("new connection closed before the request was sent")]
    Closed,
    /// Nothing was sent, because no client is left to read a response.
    #[error("client disconnected before the request was sent")]
    ClientDisconnected,
    /// The response head did not arrive in time.
    #[error("first byte timed out")]
    TimedOut,
}

/// How long an idle connection may take to become ready. A connection that does not still has data
/// to write and is dropped.
const READY_TIMEOUT: Duration = Duration::from_millis(50);

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

/// A connection in use. Closed on drop, unless it was returned to the pool.
#[derive(Debug)]
pub struct Lease {
    sender: SendRequest<UpstreamBody>,
    pool: Pool,
    slot: usize,
    idle_max: usize,
    is_new: bool,
}

impl Lease {
    /// True if no call has been sent on this connection.
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Sends a request one time. The caller decides whether to send it again.
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

    /// Makes the connection available to other calls. Its response must be read to the end.
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
    pub fn new(tls: TlsConnector) -> Self {
        Self { slots: Rc::default(), tls }
    }

    /// Closes the idle connections of slots that are no longer in use.
    pub fn retain(&self, is_used: impl Fn(usize) -> bool) {
        for (slot, idle) in self.slots.borrow_mut().iter_mut().enumerate() {
            if !is_used(slot) {
                idle.clear();
            }
        }
    }

    /// Returns the connection to `upstream` that was used last, or a new one.
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
