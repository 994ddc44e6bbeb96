//! Calls that continue after their client has disconnected, on the thread of their worker.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use crate::accounting::disconnect_tracker::DisconnectTracker;
use crate::proxy::server::in_flight::InFlight;
use crate::tasks;

/// Calls of one worker that may outlive their client connection.
#[derive(Debug, Clone)]
pub struct DetachedCalls {
    /// How long a call continues after the disconnect.
    drain_timeout: Duration,
    running: InFlight,
    /// The part of `running` whose clients have disconnected.
    disconnected: InFlight,
}

impl DetachedCalls {
    pub fn new(drain_timeout: Duration) -> Self {
        Self {
            drain_timeout,
            running: InFlight::new(Gauge::noop()),
            disconnected: InFlight::new(Gauge::noop()),
        }
    }

    /// Calls without a client. They count towards `connections_max`, because each still uses the
    /// resources of a connection.
    pub const fn disconnected(&self) -> &InFlight {
        &self.disconnected
    }

    /// Resolves when all calls have ended.
    pub async fn drained(&self) {
        self.running.drained().await;
    }

    /// Runs `work` in a task of its own and returns its result; `None` if it panics. Dropping the
    /// returned future means that the client has disconnected: `work` then continues for
    /// `drain_timeout` if the call was forwarded, and is dropped otherwise.
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
            // If the receiver is gone, the result is dropped here; dropping a permit settles it.
            drop(sender.send(done));
        });
        receiver.await.ok()
    }

    /// Runs `work` after a disconnect, until `drain_timeout` after the client disconnected.
    pub fn drain(&self, tracker: Rc<DisconnectTracker>, work: impl Future<Output = ()> + 'static) {
        let (drain_timeout, disconnected) = (self.drain_timeout, self.disconnected.clone());
        self.spawn(async move {
            let _guard = disconnected.enter();
            // Marked inside the task: if the worker ends before the task runs, the client did not
            // disconnect.
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
