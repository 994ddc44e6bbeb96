//! Open: how many of something a worker has open, and when one of them ends.

use std::cell::Cell;
use std::rc::Rc;

use metrics::Gauge;
use tokio::sync::Notify;

/// Counts what a worker has open.
#[derive(Debug, Clone)]
pub struct InFlight {
    count: Rc<Cell<usize>>,
    changed: Rc<Notify>,
    gauge: Gauge,
}

/// One of them; it is open until this is dropped.
#[derive(Debug)]
pub struct InFlightGuard(InFlight);

impl InFlight {
    /// None yet. `gauge` shows those of all workers.
    pub fn new(gauge: Gauge) -> Self {
        Self { count: Rc::default(), changed: Rc::default(), gauge }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// One more.
    pub fn enter(&self) -> InFlightGuard {
        self.count.set(self.count.get() + 1);
        self.gauge.increment(1.0);
        InFlightGuard(self.clone())
    }

    /// Resolves when one of them has ended.
    pub async fn decreased(&self) {
        self.changed.notified().await;
    }

    /// Resolves when all of them have ended.
    pub async fn drained(&self) {
        while 0 < self.count() {
            self.decreased().await;
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.gauge.decrement(1.0);
        self.0.changed.notify_one();
    }
}
