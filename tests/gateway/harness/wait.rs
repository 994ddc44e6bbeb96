//! Waits for a condition with a deadline instead of sleeping for a fixed time.

use std::time::{Duration, Instant};

/// Far longer than any step takes on a slow machine, so only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls `check` until it returns a value. Panics with `what` after `DEADLINE`.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "not reached within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs a future that cannot be polled for a condition, such as a read, with `DEADLINE` as its
/// timeout.
pub async fn with_deadline<T>(what: &str, work: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(DEADLINE, work).await;
    result.unwrap_or_else(|_| panic!("took longer than {DEADLINE:?}: {what}"))
}
