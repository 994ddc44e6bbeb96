//! Fresh reads: whoever saw the last byte of a call sees its record.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::domain::time::UnixMs;

/// How long a read waits for the projector before it answers with what there is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the journal ends and how far it is projected, summed over all chains.
///
/// Both only grow, so one sum of positions is enough to compare them.
#[derive(Debug)]
pub struct Freshness {
    projected: watch::Sender<u64>,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { projected: watch::Sender::new(0) }
    }
}

impl Freshness {
    /// The projector's word that everything before `position` is in the database.
    pub fn advance(&self, position: u64) {
        self.projected.send_if_modified(|known| {
            let moved = *known < position;
            *known = position.max(*known);
            moved
        });
    }

    /// Waits until everything before `position` is in the database, a second at most.
    ///
    /// `None` when it is; else the moment of the answer, for the field `asOf`.
    pub async fn wait_for(&self, position: u64) -> Option<UnixMs> {
        let mut projected = self.projected.subscribe();
        let reached = projected.wait_for(|known| position <= *known);
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(Ok(_)) => None,
            _ => Some(clock::now()),
        }
    }
}
