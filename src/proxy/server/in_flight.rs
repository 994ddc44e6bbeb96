//! Counts the connections or calls that a worker has in flight and signals when one ends.

use std::cell::Cell;
use std::rc::Rc;

use metrics::Gauge;
use tokio::sync::Notify;

#[derive(Debug, Clone)]
pub struct InFlight {
    count: Rc<Cell<usize>>,
    changed: Rc<Notify>,
    gauge: Gauge,
}

/// Keeps the count incremented until dropped.
#[derive(Debug)]
pub struct InFlightGuard(InFlight);

impl InFlight {
    /// `gauge` sums over all workers.
    pub fn new(gauge: Gauge) -> Self {
        Self { count: Rc::default(), changed: Rc::default(), gauge }
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Increments the count until the guard is dropped.
    pub fn enter(&self) -> InFlightGuard {
        self.count.set(self.count.get() + 1);
        self.gauge.increment(1.0);
        InFlightGuard(self.clone())
    }

    /// Resolves when the count has decreased.
    pub async fn decreased(&self) {
        self.changed.notified().await;
    }

    /// Resolves when the count is 0.
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
