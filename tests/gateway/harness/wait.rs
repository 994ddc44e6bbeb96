//! Waiting for a condition with a deadline, never for a time.

use std::time::{Duration, Instant};

/// Far beyond what anything here takes on a slow machine; only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks until the answer is there; `what` says what was waited for in vain.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(asked.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Ends a wait that has no condition to ask for, such as a read.
pub async fn with_deadline<T>(what: &str, work: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(DEADLINE, work).await;
    ended.unwrap_or_else(|_| panic!("took longer than {DEADLINE:?}: {what}"))
}
