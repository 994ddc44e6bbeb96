//! Background: calls that go on without their clients, on their worker's own thread.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::proxy::server::in_flight::InFlight;
use crate::tasks;

/// A worker's calls that go on without their clients.
#[derive(Debug, Clone)]
pub struct DetachedCalls {
    /// For how long they do.
    drain_timeout: Duration,
    running: InFlight,
    /// Those of them whose clients have left.
    disconnected: InFlight,
}

impl DetachedCalls {
    /// None yet; each goes on for `time` after its client has left.
    pub fn new(drain_timeout: Duration) -> Self {
        Self {
            drain_timeout,
            running: InFlight::new(Gauge::noop()),
            disconnected: InFlight::new(Gauge::noop()),
        }
    }

    /// Those whose clients have left: each is a connection less, and yet costs what it did.
    pub const fn disconnected(&self) -> &InFlight {
        &self.disconnected
    }

    /// Resolves when all of them have ended.
    pub async fn drained(&self) {
        self.running.drained().await;
    }

    /// What comes of `work`. If the caller vanishes meanwhile, its client has left: the work goes
    /// on for its time if the call was forwarded, and is dropped if not. `None` if it panics.
    pub async fn run_detached<T: 'static>(
        &self,
        tracker: Rc<DisconnectTracker>,
        work: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let (mut sender, receiver) = oneshot::channel();
        let (drain_timeout, disconnected) = (self.drain_timeout, self.disconnected.clone());
        self.spawn(async move {
            let mut work = pin!(work);
            let done = tokio::select! {
                biased;
                done = &mut work => done,
                () = sender.closed() => {
                    tracker.mark_disconnected();
                    if tracker.is_forwarded() {
                        let _guard = disconnected.enter();
                        drop(timeout(drain_timeout, work).await);
                    }
                    return;
                }
            };
            // What nobody takes is dropped, as if it had been taken and dropped.
            drop(sender.send(done));
        });
        receiver.await.ok()
    }

    /// Goes on with `work` now that the client has left, for what is left of the time.
    pub fn drain(&self, tracker: Rc<DisconnectTracker>, work: impl Future<Output = ()> + 'static) {
        let (drain_timeout, disconnected) = (self.drain_timeout, self.disconnected.clone());
        self.spawn(async move {
            let _guard = disconnected.enter();
            // A worker that is ended now drops this before it runs: no client has left it then.
            let deadline = tracker.mark_disconnected() + drain_timeout;
            drop(timeout_at(deadline.into(), work).await);
        });
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let guard = self.running.enter();
        tasks::spawn_local(async move {
            work.await;
            drop(guard);
        });
    }
}
