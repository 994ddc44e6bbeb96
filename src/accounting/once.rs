//! Once: a call that carries an `Idempotency-Key` is done once, however often it is sent.
//!
//! In memory are the keys of calls that are open, and of those that ended and are not projected
//! yet; the others are in the database. Calls without such a key never come here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState as FastHash;

use crate::domain::ids::RequestLogId;
use crate::domain::once::{Digest, Done, Once};
use crate::domain::time::UnixMs;
use crate::journal::keeper::ChainState;
use crate::journal::writer::Position;
use crate::store::database::Database;
use crate::store::once;

/// How long the database may take to say whether a call was done.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many keys may be in memory before it is looked for some that need not be.
const SWEPT_AT_MIN: usize = 1_024;

/// Why a call may not run under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// That call has it, and is still open.
    InFlight(RequestLogId),
    /// This one was done under it.
    Done(Box<Done>),
    /// That call has or had it, and asked for something else.
    Mismatch(RequestLogId),
    /// Nobody can say at the moment.
    Unknown,
}

/// The keys of this node's calls.
#[derive(Debug)]
pub struct OnceKeys {
    database: Database,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    known: HashMap<Digest, Known, FastHash>,
    swept_at: usize,
}

/// A call that has a key.
#[derive(Debug)]
struct Known {
    id: RequestLogId,
    body: Digest,
    end: Option<End>,
}

#[derive(Debug)]
struct End {
    done: Done,
    chain: Arc<ChainState>,
    position: Position,
}

impl Known {
    /// Whether the database has it.
    fn is_projected(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.position.0 <= end.chain.projected())
    }

    /// How it came out, once that cannot be lost any more. Until then the call is open: another
    /// client must not be told of an end that a restart may undo.
    fn done(&self) -> Option<Box<Done>> {
        let end = self.end.as_ref().filter(|end| end.chain.is_durable(end.position.0));
        end.map(|end| Box::new(end.done))
    }
}

impl Calls {
    /// Drops those that the database has, whenever there are twice as many as were left last time.
    fn sweep(&mut self) {
        if self.swept_at <= self.known.len() {
            self.known.retain(|_, known| !known.is_projected());
            self.swept_at = SWEPT_AT_MIN.max(2 * self.known.len());
        }
    }
}

/// The call that has a key which another wants.
struct Holder {
    id: RequestLogId,
    body: Digest,
    done: Option<Box<Done>>,
}

impl Holder {
    /// What one is told that asks for `body` under the same key.
    fn told(self, body: Digest) -> Taken {
        match self.done {
            _ if body != self.body => Taken::Mismatch(self.id),
            Some(done) => Taken::Done(done),
            None => Taken::InFlight(self.id),
        }
    }
}

/// A call's own right to its key. Dropped, it frees the key: the call was refused, or cost nothing.
#[derive(Debug)]
pub struct Claim {
    keys: Arc<OnceKeys>,
    once: Once,
    is_open: bool,
}

impl OnceKeys {
    /// The keys of a node that has just begun: all that were used are in its database.
    pub fn new(database: Database) -> Arc<Self> {
        let calls = Calls { known: HashMap::default(), swept_at: SWEPT_AT_MIN };
        Arc::new(Self { database, calls: Mutex::new(calls) })
    }

    /// Takes a key for a call. Of many that want it at once, one gets it.
    ///
    /// First it is taken in memory, then the database is asked. A call that was done is in one or
    /// the other at any time, so none is missed; and while one asks, no other can run.
    pub async fn claim(
        self: &Arc<Self>,
        once: Once,
        id: RequestLogId,
        now: UnixMs,
    ) -> Result<Claim, Taken> {
        let taken = self.take(once, id);
        if let Err(holder @ Holder { done: Some(_), .. }) = taken {
            return Err(holder.told(once.body));
        }
        // Also where the key is taken: by one, perhaps, that is about to be told of a third.
        let found = once::find(self.database.reader(), once.key, now);
        let holder = match tokio::time::timeout(PATIENCE, found).await {
            Ok(Ok(Some((body, done)))) => Holder { id: done.id, body, done: Some(Box::new(done)) },
            Ok(Ok(None)) => match taken {
                Ok(claim) => return Ok(claim),
                Err(holder) => holder,
            },
            Ok(Err(fault)) => {
                tracing::warn!(%fault, "whether a call was done cannot be read");
                return Err(Taken::Unknown);
            }
            Err(_) => {
                tracing::warn!("whether a call was done could not be read in time");
                return Err(Taken::Unknown);
            }
        };
        Err(holder.told(once.body))
    }

    fn take(self: &Arc<Self>, once: Once, id: RequestLogId) -> Result<Claim, Holder> {
        let calls = &mut *self.lock();
        calls.sweep();
        let holder = calls.known.get(&once.key).filter(|known| !known.is_projected());
        if let Some(known) = holder {
            return Err(Holder { id: known.id, body: known.body, done: known.done() });
        }
        calls.known.insert(once.key, Known { id, body: once.body, end: None });
        Ok(Claim { keys: Arc::clone(self), once, is_open: true })
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// What the call is known by.
    pub const fn once(&self) -> Once {
        self.once
    }

    /// The call ended and is charged, by an entry before `position` of that chain: it is done.
    pub fn settled(mut self, done: Done, chain: Arc<ChainState>, position: Position) {
        self.is_open = false;
        if let Some(known) = self.keys.lock().known.get_mut(&self.once.key) {
            known.end = Some(End { done, chain, position });
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_open {
            self.keys.lock().known.remove(&self.once.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Nano;
    use crate::domain::usage::Usage;
    use crate::journal::keeper::{Durability, Journal, JournalSettings};
    use crate::tasks;

    const NOW: UnixMs = UnixMs(0);
    const ONCE: Once = Once { key: [1; 16], body: [2; 16] };
    const OTHER_BODY: Once = Once { key: [1; 16], body: [3; 16] };

    struct Scene {
        keys: Arc<OnceKeys>,
        chain: Arc<ChainState>,
        database: Database,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("gateway.db");
            let database = Database::open(&file).await.expect("a database");
            let settings = JournalSettings {
                folder: folder.path().to_owned(),
                durability: Durability::Process,
                segment_bytes: 1 << 16,
                keep: Duration::from_mins(1),
                backlog_bytes_max: 1 << 20,
            };
            let journal = Journal::open(settings, 1, 1).expect("a journal");
            let chain = Arc::clone(&journal.chains()[0]);
            let keys = OnceKeys::new(database.clone());
            Self { keys, chain, database, _folder: folder }
        }

        async fn claim(&self, once: Once, id: u128) -> Result<Claim, Taken> {
            self.keys.claim(once, RequestLogId(id), NOW).await
        }

        async fn no(&self, once: Once) -> Taken {
            self.claim(once, 99).await.expect_err("the key is taken")
        }

        /// The key of that number, which is free.
        fn take(&self, call: u64) -> Claim {
            let mut key = Digest::default();
            key[..8].copy_from_slice(&call.to_le_bytes());
            let taken = self.keys.take(Once { key, ..ONCE }, RequestLogId(call.into()));
            taken.unwrap_or_else(|_| panic!("free"))
        }

        fn settle(&self, claim: Claim, id: u128, position: u64) {
            claim.settled(done(id), Arc::clone(&self.chain), Position(position));
        }
    }

    fn done(id: u128) -> Done {
        let (usage, cost) = (Usage::tokens_of(1, 2), Nano(3));
        Done { id: RequestLogId(id), status: 200, usage, cost }
    }

    #[tokio::test]
    async fn a_key_is_one_calls_until_that_is_refused() {
        let scene = Scene::new().await;
        let claim = scene.claim(ONCE, 1).await.expect("free");
        assert_eq!(scene.no(ONCE).await, Taken::InFlight(RequestLogId(1)));
        assert_eq!(scene.no(OTHER_BODY).await, Taken::Mismatch(RequestLogId(1)));
        let other_key = scene.claim(Once { key: [4; 16], ..ONCE }, 2).await.expect("free");
        drop(claim);
        let again = scene.claim(OTHER_BODY, 3).await.expect("free again, for any body");
        assert_eq!(scene.no(OTHER_BODY).await, Taken::InFlight(RequestLogId(3)));
        drop((again, other_key));
    }

    #[tokio::test]
    async fn a_call_that_was_done_is_not_told_of_before_its_end_is_written() {
        let scene = Scene::new().await;
        let claim = scene.claim(ONCE, 1).await.expect("free");
        scene.settle(claim, 1, 100);
        assert_eq!(scene.no(ONCE).await, Taken::InFlight(RequestLogId(1)));
        scene.chain.publish(100);
        assert_eq!(scene.no(ONCE).await, Taken::Done(Box::new(done(1))));
        assert_eq!(scene.no(OTHER_BODY).await, Taken::Mismatch(RequestLogId(1)));
    }

    #[tokio::test]
    async fn what_is_projected_is_asked_of_the_database_alone() {
        let scene = Scene::new().await;
        let claim = scene.claim(ONCE, 1).await.expect("free");
        scene.settle(claim, 1, 100);
        scene.chain.publish(100);
        scene.chain.report_projected(100, 0);
        // As if its day were over.
        let claim = scene.claim(ONCE, 2).await.expect("the database has none");
        let mut tx = scene.database.begin().await.expect("a transaction");
        sqlx::query("INSERT INTO once_keys VALUES ($1, $2, $3, 200, $4, 3, 1)")
            .bind(&ONCE.key[..])
            .bind(&ONCE.body[..])
            .bind(uuid::Uuid::from_u128(7))
            .bind(once::json(&done(7).usage))
            .execute(&mut *tx)
            .await
            .expect("a row");
        tx.commit().await.expect("committed");
        let (same, other) = (scene.no(ONCE).await, scene.no(OTHER_BODY).await);
        assert_eq!(same, Taken::Done(Box::new(done(7))), "not of the one that asks");
        assert_eq!(other, Taken::Mismatch(RequestLogId(7)));
        drop(claim);
        assert_eq!(scene.no(ONCE).await, Taken::Done(Box::new(done(7))));
        scene.database.close().await;
        assert_eq!(scene.no(ONCE).await, Taken::Unknown);
        assert_eq!(scene.keys.lock().known.len(), 0, "nor is it taken then");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_that_come_at_once_one_runs() {
        let scene = Scene::new().await;
        let asked = (0..64).map(|id| {
            let keys = Arc::clone(&scene.keys);
            tasks::spawn("claim", async move { keys.claim(ONCE, RequestLogId(id), NOW).await })
        });
        let (mut runs, mut told) = (Vec::new(), Vec::new());
        for claim in asked.collect::<Vec<_>>() {
            match claim.await.expect("no panic") {
                Ok(claim) => runs.push(claim),
                Err(taken) => told.push(taken),
            }
        }
        assert_eq!((runs.len(), told.len()), (1, 63));
        assert!(told.iter().all(|taken| *taken == told[0]), "all of the same call: {told:?}");
    }

    #[tokio::test]
    async fn memory_holds_what_is_open_or_not_projected() {
        let scene = Scene::new().await;
        let (mut open, most) = (Vec::new(), SWEPT_AT_MIN as u64);
        for call in 0..4 * most {
            let claim = scene.take(call);
            if call < 10 {
                open.push(claim);
            } else {
                scene.settle(claim, call.into(), call);
                scene.chain.report_projected(call.saturating_sub(100), 0);
            }
            assert!(scene.keys.lock().known.len() <= SWEPT_AT_MIN);
        }
        drop(open);
    }

    #[tokio::test]
    async fn memory_is_swept_when_twice_as_many_are_known_as_were_left() {
        let scene = Scene::new().await;
        let mut open = Vec::new();
        for call in 0..3_000_u64 {
            open.push(scene.take(call));
        }
        assert_eq!(scene.keys.lock().swept_at, 4 * SWEPT_AT_MIN, "at 1,024 and at 2,048");
    }
}
