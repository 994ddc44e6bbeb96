//! The state of a worker thread. A call is handled by one worker from start to end.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::Counter;

use crate::accounting::idempotency::IdempotencyKeys;
use crate::accounting::key_directory::Directory;
use crate::accounting::permit::AdmissionContext;
use crate::proxy::catalog::Catalog;
use crate::proxy::refusal::refusal_log::RefusalLog;
use crate::proxy::request_context::RequestIds;
use crate::proxy::server::detached_calls::DetachedCalls;
use crate::proxy::upstreams::pool::Pool;

#[derive(Debug, Clone)]
pub struct ProxySettings {
    pub body_bytes_max: usize,
    /// Request line and all headers.
    pub header_bytes_max: usize,
    pub header_read_timeout: Duration,
    /// A client that accepts or sends no byte for this long counts as disconnected.
    pub client_idle: Duration,
    /// How long a response is read for its usage after its client has disconnected.
    pub drain_after_disconnect: Duration,
    /// Per worker, including calls that continue without a client.
    pub connections_max: usize,
}

/// State shared by all workers.
#[derive(Debug)]
pub struct SharedState {
    pub directory: Arc<Directory>,
    pub idempotency_keys: Arc<IdempotencyKeys>,
    pub catalog: ArcSwap<Catalog>,
    pub settings: ProxySettings,
    /// Set on shutdown: new calls are refused.
    pub draining: AtomicBool,
}

impl SharedState {
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Worker {
    pub shared: Arc<SharedState>,
    pub admission: Rc<AdmissionContext>,
    pub pool: Pool,
    pub detached: DetachedCalls,
    pub request_ids: RequestIds,
    pub refusal_log: RefusalLog,
    /// Counts requests without a valid API key.
    pub unauthenticated: Counter,
}
