//! A worker's own connections to upstreams: no lock, last in first out, one lane an upstream.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

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
    /// The connection broke after the request was begun: the upstream may have acted on it.
    #[error("no answer came: {0}")]
    Broken(hyper::Error),
    /// The connection was closed before a byte of the request was sent: here it is again.
    #[error("the connection was stale")]
    Stale(Box<Request<Outgoing>>),
    /// The same of a connection that was new: another one would fare no better.
    #[error("a new connection was closed before anything was sent")]
    Closed,
    /// Nobody is left who could use an answer, and nothing was sent.
    #[error("the client left before it was sent")]
    Left,
    /// The head of the answer took too long.
    #[error("the first byte took too long")]
    TimedOut,
}

/// How long a connection whose last answer was read may take to be ready again. One that is not
/// has something left to write, and is left alone.
const READY_WAIT: Duration = Duration::from_millis(50);

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
        request: Request<Outgoing>,
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

    /// Closes what is idle and leads to no upstream of those lanes.
    pub fn keep(&self, is_kept: impl Fn(usize) -> bool) {
        for (lane, idle) in self.lanes.borrow_mut().iter_mut().enumerate() {
            if !is_kept(lane) {
                idle.clear();
            }
        }
    }

    /// A connection to the upstream: the one that was used last, or a new one.
    pub async fn lease(&self, upstream: &Upstream) -> Result<Lease, ConnectError> {
        let lane = upstream.lane;
        let idle_max = upstream.settings.idle_connections_max;
        while let Some(mut sender) = self.take(lane) {
            if let Ok(Ok(())) = tokio::time::timeout(READY_WAIT, sender.ready()).await {
                return Ok(Lease { sender, pool: self.clone(), lane, idle_max, is_new: false });
            }
        }
        let sender = connect(upstream, &self.tls).await?;
        Ok(Lease { sender, pool: self.clone(), lane, idle_max, is_new: true })
    }

    fn take(&self, lane: usize) -> Option<SendRequest<Outgoing>> {
        let lanes = &mut *self.lanes.borrow_mut();
        if lanes.len() <= lane {
            lanes.resize_with(lane + 1, Vec::new);
        }
        lanes[lane].pop()
    }
}
