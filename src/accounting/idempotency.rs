//! Executes a call with an `Idempotency-Key` at most one time.
//!
//! Keys of open calls, and of ended calls that are not projected yet, are in memory; all others are
//! in the database. Calls without an idempotency key never use this module.

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

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Table size from which projected keys are removed.
const SWEEP_THRESHOLD_MIN: usize = 1_024;

/// Why a call may not run with its idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyConflict {
    /// The call with this id owns the key and is still open.
    InFlight(RequestLogId),
    /// A call with this key has completed and was charged.
    Completed(Box<CompletedCall>),
    /// The call with this id used the key for a different request.
    BodyMismatch(RequestLogId),
    /// The database lookup failed or timed out.
    Unavailable,
}

/// The idempotency keys of the calls of this node.
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

/// A call that owns a key.
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
    /// True if the database contains the completed call.
    fn is_projected(&self) -> bool {
        self.completion
            .as_ref()
            .is_some_and(|completion| completion.position.0 <= completion.chain.projected())
    }

    /// Returns the completed call once its settlement is durable. Until then the call counts as open,
    /// because a restart may still undo the settlement.
    fn completed(&self) -> Option<Box<CompletedCall>> {
        let completion = self
            .completion
            .as_ref()
            .filter(|completion| completion.chain.is_durable(completion.position.0));
        completion.map(|completion| Box::new(completion.call))
    }
}

impl KeyTable {
    /// Removes projected entries when the table has doubled since the last sweep.
    fn sweep(&mut self) {
        if self.sweep_threshold <= self.entries.len() {
            self.entries.retain(|_, entry| !entry.is_projected());
            self.sweep_threshold = SWEEP_THRESHOLD_MIN.max(2 * self.entries.len());
        }
    }
}

/// The call that owns a key which another call requested.
struct KeyOwner {
    id: RequestLogId,
    body: Digest,
    completed: Option<Box<CompletedCall>>,
}

impl KeyOwner {
    /// Returns the conflict for a call with the same key and this body.
    fn conflict_for(self, body: Digest) -> KeyConflict {
        match self.completed {
            _ if body != self.body => KeyConflict::BodyMismatch(self.id),
            Some(call) => KeyConflict::Completed(call),
            None => KeyConflict::InFlight(self.id),
        }
    }
}

/// Ownership of an idempotency key. Dropping it frees the key: the call was refused or not charged.
#[derive(Debug)]
pub struct IdempotencyClaim {
    keys: Arc<IdempotencyKeys>,
    key: IdempotencyKey,
    is_open: bool,
}

impl IdempotencyKeys {
    /// Returns an empty table for a node that has just started: all used keys are in its database.
    pub fn new(database: Database) -> Arc<Self> {
        let table = KeyTable { entries: HashMap::default(), sweep_threshold: SWEEP_THRESHOLD_MIN };
        Arc::new(Self { database, table: Mutex::new(table) })
    }

    /// Claims a key for a call. One of several concurrent calls gets it.
    ///
    /// The key is inserted in memory before the database is queried. A completed call is in at least
    /// one of them at any time, so none is missed, and no other call can run during the query.
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
        // Query the database even if another call owns the key in memory: that call may itself lose to
        // an older completed call.
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
                tracing::warn!(%fault, "idempotency lookup failed");
                return Err(KeyConflict::Unavailable);
            }
            Err(_) => {
                tracing::warn!("idempotency lookup timed out");
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
    pub const fn key(&self) -> IdempotencyKey {
        self.key
    }

    /// Records that the call was charged by the entry that ends at `position` of `chain`.
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

        /// Claims the free key with this number.
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
    async fn a_completed_call_is_reported_only_after_its_settlement_is_durable() {
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
            "not the call that asks"
        );
        assert_eq!(other, KeyConflict::BodyMismatch(RequestLogId(7)));
        drop(claim);
        assert_eq!(
            fixture.conflict(KEY).await,
            KeyConflict::Completed(Box::new(completed_call(7)))
        );
        fixture.database.close().await;
        assert_eq!(fixture.conflict(KEY).await, KeyConflict::Unavailable);
        assert_eq!(fixture.keys.lock().entries.len(), 0, "the key is free again");
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
