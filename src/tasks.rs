//! The one home of tasks: every task has a name that a log line can say.

#![expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]

use std::future::Future;

use tokio::task::{JoinError, JoinHandle};

/// Runs `work` beside the caller on a multi-threaded or current-thread runtime.
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "spawned");
    tokio::spawn(work)
}

/// Runs `work` beside the caller on the caller's own thread: a worker's tasks never leave it.
pub fn spawn_local<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(work)
}

/// Runs `work`, which takes its time, on a thread where nobody waits for it; `None` if it panics.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// A text that takes longer than a millisecond to look through, or two.
const OFFLOAD_BYTES_MIN: usize = 256 << 10;

/// Runs `work`, which looks through so many `bytes`: here, or, if they are many, on a thread where
/// nobody waits for it. Panics as it does.
pub async fn run_offloaded<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes < OFFLOAD_BYTES_MIN {
        return work();
    }
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and whoever waits with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Ends the process at once: for state that must not be trusted a moment longer.
pub fn stop_process(reason: &str) -> ! {
    tracing::error!(reason, "stopping: the state on disk is right, this process is not");
    std::process::exit(70)
}
