//! Spawning of tasks and blocking work; no other module calls the runtime's spawn functions.

#![expect(clippy::disallowed_methods, reason = "this module alone spawns tasks")]

use std::future::Future;

use tokio::task::{JoinError, JoinHandle};

/// Spawns `work` as a task. `name` appears in trace logs.
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "spawned");
    tokio::spawn(work)
}

/// Spawns `work` on the current thread, so that a worker's tasks stay on its thread.
pub fn spawn_local<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(work)
}

/// Runs blocking `work` on the blocking thread pool. Returns `None` if `work` panics.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Scanning more bytes than this takes about a millisecond or longer.
const OFFLOAD_BYTES_MIN: usize = 256 << 10;

/// Runs `work`, which scans `bytes` bytes: inline if they are few, otherwise on the blocking thread
/// pool. Propagates a panic of `work`.
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
        // The runtime shuts down, and this task with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Exits the process immediately, because its in-memory state can no longer be trusted.
pub fn stop_process(reason: &str) -> ! {
    tracing::error!(
        reason,
        "exiting: the in-memory state is inconsistent; a restart recovers from disk"
    );
    std::process::exit(70)
}
