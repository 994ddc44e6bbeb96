//! A worker: one thread's share of the data plane. A call never leaves it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Counter;

use crate::accounting::directory::Directory;
use crate::accounting::idempotency::IdempotencyKeys;
use crate::accounting::permit::AdmissionContext;
use crate::proxy::catalog::Catalog;
use crate::proxy::refusal::refusal_log::RefusalLog;
use crate::proxy::request_context::RequestIds;
use crate::proxy::server::detached::DetachedCalls;
use crate::proxy::upstream::pool::Pool;

/// How calls are received.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// The longest request body.
    pub body_bytes_max: usize,
    /// The longest head of a request: its line and all headers.
    pub header_bytes_max: usize,
    /// How long the head of a request may take.
    pub header_read_timeout: Duration,
    /// How long a client may take no byte before it counts as gone.
    pub client_idle: Duration,
    /// How long an answer is read on for its usage after its client has left.
    pub drain_after_disconnect: Duration,
    /// How many connections each worker serves at once, with the calls that go on without theirs.
    pub connections_max: usize,
}

/// What all workers share.
#[derive(Debug)]
pub struct SharedState {
    /// Who may call.
    pub directory: Arc<Directory>,
    /// Which keys of calls that are to be done once are taken.
    pub idempotency_keys: Arc<IdempotencyKeys>,
    /// What may be called.
    pub catalog: ArcSwap<Catalog>,
    /// How calls are received.
    pub settings: ProxySettings,
    /// Whether no new call is taken.
    pub draining: AtomicBool,
}

impl SharedState {
    /// Whether no new call is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// One thread's share.
#[derive(Debug)]
pub struct Worker {
    /// What it shares with the others.
    pub shared: Arc<SharedState>,
    /// Where its calls are admitted and settled.
    pub admission: Rc<AdmissionContext>,
    /// Its connections to upstreams.
    pub pool: Pool,
    /// Its calls that go on without their clients.
    pub detached: DetachedCalls,
    /// Its ids of calls.
    pub request_ids: RequestIds,
    /// What it refused this second.
    pub refusal_log: RefusalLog,
    /// Requests without a valid key.
    pub unauthenticated: Counter,
}
