//! Once: a call that carries an `Idempotency-Key` is done once, however often it is sent.
//!
//! In memory are the keys of calls that are open, and of those that ended and are not projected
//! yet; the others are in the database. Calls without such a key never come here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState as FastHash;

use crate::domain::idempotency::{CompletedCall, Digest, IdempotencyKey};
use crate::domain::ids::RequestLogId;
use crate::domain::time::UnixMs;
use crate::journal::chains::ChainState;
use crate::journal::writer::Position;
use crate::store::call_idempotency;
use crate::store::database::Database;

/// How long the database may take to say whether a call was done.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// How many keys may be in memory before it is looked for some that need not be.
const SWEEP_THRESHOLD_MIN: usize = 1_024;

/// Why a call may not run under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyConflict {
    /// That call has it, and is still open.
    InFlight(RequestLogId),
    /// This one was done under it.
    Completed(Box<CompletedCall>),
    /// That call has or had it, and asked for something else.
    BodyMismatch(RequestLogId),
    /// Nobody can say at the moment.
    Unavailable,
}

/// The keys of this node's calls.
#[derive(Debug)]
pub struct IdempotencyKeys {
    database: Database,
    table: Mutex<KeyTable>,
}

#[derive(Debug)]
struct KeyTable {
    entries: HashMap<Digest, KeyEntry, FastHash>,
    sweep_threshold: usize,
}

/// A call that has a key.
#[derive(Debug)]
struct KeyEntry {
    id: RequestLogId,
    body: Digest,
    completion: Option<KeyCompletion>,
}

#[derive(Debug)]
struct KeyCompletion {
    call: CompletedCall,
    chain: Arc<ChainState>,
    position: Position,
}

impl KeyEntry {
    /// Whether the database has it.
    fn is_projected(&self) -> bool {
        self.completion
            .as_ref()
            .is_some_and(|completion| completion.position.0 <= completion.chain.projected())
    }

    /// How it came out, once that cannot be lost any more. Until then the call is open: another
    /// client must not be told of an end that a restart may undo.
    fn completed(&self) -> Option<Box<CompletedCall>> {
        let completion = self
            .completion
            .as_ref()
            .filter(|completion| completion.chain.is_durable(completion.position.0));
        completion.map(|completion| Box::new(completion.call))
    }
}

impl KeyTable {
    /// Drops those that the database has, whenever there are twice as many as were left last time.
    fn sweep(&mut self) {
        if self.sweep_threshold <= self.entries.len() {
            self.entries.retain(|_, entry| !entry.is_projected());
            self.sweep_threshold = SWEEP_THRESHOLD_MIN.max(2 * self.entries.len());
        }
    }
}

/// The call that has a key which another wants.
struct KeyOwner {
    id: RequestLogId,
    body: Digest,
    completed: Option<Box<CompletedCall>>,
}

impl KeyOwner {
    /// What one is told that asks for `body` under the same key.
    fn conflict_for(self, body: Digest) -> KeyConflict {
        match self.completed {
            _ if body != self.body => KeyConflict::BodyMismatch(self.id),
            Some(call) => KeyConflict::Completed(call),
            None => KeyConflict::InFlight(self.id),
        }
    }
}

/// A call's own right to its key. Dropped, it frees the key: the call was refused, or cost nothing.
#[derive(Debug)]
pub struct IdempotencyClaim {
    keys: Arc<IdempotencyKeys>,
    key: IdempotencyKey,
    is_open: bool,
}

impl IdempotencyKeys {
    /// The keys of a node that has just begun: all that were used are in its database.
    pub fn new(database: Database) -> Arc<Self> {
        let table = KeyTable { entries: HashMap::default(), sweep_threshold: SWEEP_THRESHOLD_MIN };
        Arc::new(Self { database, table: Mutex::new(table) })
    }

    /// Takes a key for a call. Of many that want it at once, one gets it.
    ///
    /// First it is taken in memory, then the database is asked. A call that was done is in one or
    /// the other at any time, so none is missed; and while one asks, no other can run.
    pub async fn claim(
        self: &Arc<Self>,
        key: IdempotencyKey,
        id: RequestLogId,
        now: UnixMs,
    ) -> Result<IdempotencyClaim, KeyConflict> {
        let attempt = self.try_insert(key, id);
        if let Err(owner @ KeyOwner { completed: Some(_), .. }) = attempt {
            return Err(owner.conflict_for(key.body_digest));
        }
        // Also where the key is taken: by one, perhaps, that is about to be told of a third.
        let lookup = call_idempotency::find(self.database.reader(), key.key_digest, now);
        let owner = match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(Some((body, call)))) => {
                KeyOwner { id: call.id, body, completed: Some(Box::new(call)) }
            }
            Ok(Ok(None)) => match attempt {
                Ok(claim) => return Ok(claim),
                Err(owner) => owner,
            },
            Ok(Err(fault)) => {
                tracing::warn!(%fault, "whether a call was done cannot be read");
                return Err(KeyConflict::Unavailable);
            }
            Err(_) => {
                tracing::warn!("whether a call was done could not be read in time");
                return Err(KeyConflict::Unavailable);
            }
        };
        Err(owner.conflict_for(key.body_digest))
    }

    fn try_insert(
        self: &Arc<Self>,
        key: IdempotencyKey,
        id: RequestLogId,
    ) -> Result<IdempotencyClaim, KeyOwner> {
        let table = &mut *self.lock();
        table.sweep();
        let existing = table.entries.get(&key.key_digest).filter(|entry| !entry.is_projected());
        if let Some(entry) = existing {
            return Err(KeyOwner { id: entry.id, body: entry.body, completed: entry.completed() });
        }
        table
            .entries
            .insert(key.key_digest, KeyEntry { id, body: key.body_digest, completion: None });
        Ok(IdempotencyClaim { keys: Arc::clone(self), key, is_open: true })
    }

    fn lock(&self) -> MutexGuard<'_, KeyTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdempotencyClaim {
    /// What the call is known by.
    pub const fn key(&self) -> IdempotencyKey {
        self.key
    }

    /// The call ended and is charged, by an entry before `position` of that chain: it is done.
    pub fn complete(mut self, call: CompletedCall, chain: Arc<ChainState>, position: Position) {
        self.is_open = false;
        if let Some(entry) = self.keys.lock().entries.get_mut(&self.key.key_digest) {
            entry.completion = Some(KeyCompletion { call, chain, position });
        }
    }
}

impl Drop for IdempotencyClaim {
    fn drop(&mut self) {
        if self.is_open {
            self.keys.lock().entries.remove(&self.key.key_digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Nano;
    use crate::domain::usage::Usage;
    use crate::journal::chains::{Durability, Journal, JournalSettings};
    use crate::tasks;

    const NOW: UnixMs = UnixMs(0);
    const KEY: IdempotencyKey = IdempotencyKey { key_digest: [1; 16], body_digest: [2; 16] };
    const OTHER_BODY: IdempotencyKey = IdempotencyKey { key_digest: [1; 16], body_digest: [3; 16] };

    struct Fixture {
        keys: Arc<IdempotencyKeys>,
        chain: Arc<ChainState>,
        database: Database,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("gateway.db");
            let database = Database::open(&file).await.expect("a database");
            let settings = JournalSettings {
                folder: folder.path().to_owned(),
                durability: Durability::Process,
                segment_bytes: 1 << 16,
                retention: Duration::from_mins(1),
                backlog_bytes_max: 1 << 20,
            };
            let journal = Journal::open(settings, 1, 1).expect("a journal");
            let chain = Arc::clone(&journal.chains()[0]);
            let keys = IdempotencyKeys::new(database.clone());
            Self { keys, chain, database, _folder: folder }
        }

        async fn claim(
            &self,
            key: IdempotencyKey,
            id: u128,
        ) -> Result<IdempotencyClaim, KeyConflict> {
            self.keys.claim(key, RequestLogId(id), NOW).await
        }

        async fn conflict(&self, key: IdempotencyKey) -> KeyConflict {
            self.claim(key, 99).await.expect_err("the key is taken")
        }

        /// The key of that number, which is free.
        fn claim_free(&self, call: u64) -> IdempotencyClaim {
            let mut key = Digest::default();
            key[..8].copy_from_slice(&call.to_le_bytes());
            let claim = self
                .keys
                .try_insert(IdempotencyKey { key_digest: key, ..KEY }, RequestLogId(call.into()));
            claim.unwrap_or_else(|_| panic!("free"))
        }

        fn settle(&self, claim: IdempotencyClaim, id: u128, position: u64) {
            claim.complete(completed_call(id), Arc::clone(&self.chain), Position(position));
        }
    }

    fn completed_call(id: u128) -> CompletedCall {
        let (usage, cost) = (Usage::from_tokens(1, 2), Nano(3));
        CompletedCall { id: RequestLogId(id), status: 200, usage, cost }
    }

    #[tokio::test]
    async fn a_key_belongs_to_one_call_until_that_call_is_refused() {
        let fixture = Fixture::new().await;
        let claim = fixture.claim(KEY, 1).await.expect("free");
        assert_eq!(fixture.conflict(KEY).await, KeyConflict::InFlight(RequestLogId(1)));
        assert_eq!(fixture.conflict(OTHER_BODY).await, KeyConflict::BodyMismatch(RequestLogId(1)));
        let other_key =
            fixture.claim(IdempotencyKey { key_digest: [4; 16], ..KEY }, 2).await.expect("free");
        drop(claim);
        let again = fixture.claim(OTHER_BODY, 3).await.expect("free again, for any body");
        assert_eq!(fixture.conflict(OTHER_BODY).await, KeyConflict::InFlight(RequestLogId(3)));
        drop((again, other_key));
    }

    #[tokio::test]
    async fn a_completed_call_is_reported_only_once_its_settlement_is_durable() {
        let fixture = Fixture::new().await;
        let claim = fixture.claim(KEY, 1).await.expect("free");
        fixture.settle(claim, 1, 100);
        assert_eq!(fixture.conflict(KEY).await, KeyConflict::InFlight(RequestLogId(1)));
        fixture.chain.publish(100);
        assert_eq!(
            fixture.conflict(KEY).await,
            KeyConflict::Completed(Box::new(completed_call(1)))
        );
        assert_eq!(fixture.conflict(OTHER_BODY).await, KeyConflict::BodyMismatch(RequestLogId(1)));
    }

    #[tokio::test]
    async fn projected_calls_are_looked_up_in_the_database() {
        let fixture = Fixture::new().await;
        let claim = fixture.claim(KEY, 1).await.expect("free");
        fixture.settle(claim, 1, 100);
        fixture.chain.publish(100);
        fixture.chain.report_projected(100, 0);
        // As if its day were over.
        let claim = fixture.claim(KEY, 2).await.expect("the database has none");
        let mut tx = fixture.database.begin().await.expect("a transaction");
        sqlx::query("INSERT INTO call_idempotency_keys VALUES ($1, $2, $3, 200, $4, 3, 1)")
            .bind(&KEY.key_digest[..])
            .bind(&KEY.body_digest[..])
            .bind(uuid::Uuid::from_u128(7))
            .bind(call_idempotency::usage_json(&completed_call(7).usage))
            .execute(&mut *tx)
            .await
            .expect("a row");
        tx.commit().await.expect("committed");
        let (same, other) = (fixture.conflict(KEY).await, fixture.conflict(OTHER_BODY).await);
        assert_eq!(
            same,
            KeyConflict::Completed(Box::new(completed_call(7))),
            "not of the one that asks"
        );
        assert_eq!(other, KeyConflict::BodyMismatch(RequestLogId(7)));
        drop(claim);
        assert_eq!(
            fixture.conflict(KEY).await,
            KeyConflict::Completed(Box::new(completed_call(7)))
        );
        fixture.database.close().await;
        assert_eq!(fixture.conflict(KEY).await, KeyConflict::Unavailable);
        assert_eq!(fixture.keys.lock().entries.len(), 0, "nor is it taken then");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_many_concurrent_claims_succeeds() {
        let fixture = Fixture::new().await;
        let claims = (0..64).map(|id| {
            let keys = Arc::clone(&fixture.keys);
            tasks::spawn("claim", async move { keys.claim(KEY, RequestLogId(id), NOW).await })
        });
        let (mut runs, mut conflicts) = (Vec::new(), Vec::new());
        for claim in claims.collect::<Vec<_>>() {
            match claim.await.expect("no panic") {
                Ok(claim) => runs.push(claim),
                Err(conflict) => conflicts.push(conflict),
            }
        }
        assert_eq!((runs.len(), conflicts.len()), (1, 63));
        assert!(
            conflicts.iter().all(|conflict| *conflict == conflicts[0]),
            "all of the same call: {conflicts:?}"
        );
    }

    #[tokio::test]
    async fn the_table_holds_calls_that_are_open_or_not_projected() {
        let fixture = Fixture::new().await;
        let (mut open, count) = (Vec::new(), SWEEP_THRESHOLD_MIN as u64);
        for call in 0..4 * count {
            let claim = fixture.claim_free(call);
            if call < 10 {
                open.push(claim);
            } else {
                fixture.settle(claim, call.into(), call);
                fixture.chain.report_projected(call.saturating_sub(100), 0);
            }
            assert!(fixture.keys.lock().entries.len() <= SWEEP_THRESHOLD_MIN);
        }
        drop(open);
    }

    #[tokio::test]
    async fn the_table_is_swept_when_it_has_doubled() {
        let fixture = Fixture::new().await;
        let mut open = Vec::new();
        for call in 0..3_000_u64 {
            open.push(fixture.claim_free(call));
        }
        assert_eq!(
            fixture.keys.lock().sweep_threshold,
            4 * SWEEP_THRESHOLD_MIN,
            "at 1,024 and at 2,048"
        );
    }
}
