//! Open: how many of something a worker has open, and when one of them ends.

use std::cell::Cell;
use std::rc::Rc;

use metrics::Gauge;
use tokio::sync::Notify;

/// Counts what a worker has open.
#[derive(Debug, Clone)]
pub struct Open {
    count: Rc<Cell<usize>>,
    left: Rc<Notify>,
    gauge: Gauge,
}

/// One of them; it is open until this is dropped.
#[derive(Debug)]
pub struct Guest(Open);

impl Open {
    /// None yet. `gauge` shows those of all workers.
    pub fn new(gauge: Gauge) -> Self {
        Self { count: Rc::default(), left: Rc::default(), gauge }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// One more.
    pub fn enter(&self) -> Guest {
        self.count.set(self.count.get() + 1);
        self.gauge.increment(1.0);
        Guest(self.clone())
    }

    /// Resolves when one of them has ended.
    pub async fn fewer(&self) {
        self.left.notified().await;
    }

    /// Resolves when all of them have ended.
    pub async fn none(&self) {
        while 0 < self.count() {
            self.fewer().await;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.gauge.decrement(1.0);
        self.0.left.notify_one();
    }
}
