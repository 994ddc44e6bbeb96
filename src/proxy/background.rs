//! Background: calls that go on without their clients, on their worker's own thread.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use crate::accounting::presence::Presence;
use crate::proxy::open::Open;
use crate::tasks;

/// A worker's calls that go on without their clients.
#[derive(Debug, Clone)]
pub struct Background {
    /// For how long they do.
    time: Duration,
    open: Open,
    /// Those of them whose clients have left.
    left: Open,
}

impl Background {
    /// None yet; each goes on for `time` after its client has left.
    pub fn new(time: Duration) -> Self {
        Self { time, open: Open::new(Gauge::noop()), left: Open::new(Gauge::noop()) }
    }

    /// Those whose clients have left: each is a connection less, and yet costs what it did.
    pub const fn left(&self) -> &Open {
        &self.left
    }

    /// Resolves when all of them have ended.
    pub async fn ended(&self) {
        self.open.none().await;
    }

    /// What comes of `work`. If the caller vanishes meanwhile, its client has left: the work goes
    /// on for its time if the call was forwarded, and is dropped if not. `None` if it panics.
    pub async fn outlive<T: 'static>(
        &self,
        presence: Rc<Presence>,
        work: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let (mut tell, told) = oneshot::channel();
        let (time, left) = (self.time, self.left.clone());
        self.run(async move {
            let mut work = pin!(work);
            let done = tokio::select! {
                biased;
                done = &mut work => done,
                () = tell.closed() => {
                    presence.leave();
                    if presence.is_forwarded() {
                        let _guest = left.enter();
                        drop(timeout(time, work).await);
                    }
                    return;
                }
            };
            // What nobody takes is dropped, as if it had been taken and dropped.
            drop(tell.send(done));
        });
        told.await.ok()
    }

    /// Goes on with `work` now that the client has left, for what is left of the time.
    pub fn go_on(&self, presence: Rc<Presence>, work: impl Future<Output = ()> + 'static) {
        let (time, left) = (self.time, self.left.clone());
        self.run(async move {
            let _guest = left.enter();
            // A worker that is ended now drops this before it runs: no client has left it then.
            let until = presence.leave() + time;
            drop(timeout_at(until.into(), work).await);
        });
    }

    fn run(&self, work: impl Future<Output = ()> + 'static) {
        let guest = self.open.enter();
        tasks::spawn_here(async move {
            work.await;
            drop(guest);
        });
    }
}
