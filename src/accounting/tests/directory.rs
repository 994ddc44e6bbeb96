//! The directory: loading from the database and refreshing after changes.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::accounting::key_directory::{Caller, Directory, KEY_BYTES};
use crate::clock;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::money::Nano;
use crate::settings::admission::AdmissionSettings;
use crate::store::database::Database;
use crate::store::provider_states;

/// Runs each query with an id for `?1` and the time for `?2`.
async fn edit(database: &Database, id: u128, queries: &[&str]) {
    let mut tx = database.begin().await.expect("a transaction");
    for query in queries {
        let query = sqlx::query(AssertSqlSafe((*query).to_owned()));
        let query = query.bind(Uuid::from_u128(id)).bind(clock::wall_now().0);
        query.execute(&mut *tx).await.expect("an edit");
    }
    tx.commit().await.expect("committed");
}

/// Organizations 1 and 2, each with one project and one key, of the same id.
async fn load_directory(folder: &tempfile::TempDir) -> (Database, Directory) {
    let database = Database::open(&folder.path().join("gateway.db")).await.expect("a database");
    for id in [1, 2] {
        let rows = [
            "INSERT INTO organizations (id, name, status, self_funding, on_disconnect,
                output_clamp, created_at, updated_at, version)
             VALUES (?1, '', 'Active', 1, 'drain', 0, ?2, ?2, 1)",
            "INSERT INTO wallets VALUES (?1, 5, 0, 1, 0, ?2)",
            "INSERT INTO projects (id, organization_id, name, status, created_by, created_at,
                updated_at, version) VALUES (?1, ?1, '', 'Active', ?1, ?2, ?2, 1)",
            "INSERT INTO api_keys (id, project_id, name, secret_hash, last4, enabled,
                allowed_models, allowed_cidrs, metadata, created_by, created_at, updated_at, version)
             VALUES (?1, ?1, '', CAST(?1 || ?1 AS BLOB), '', 1, '[\"gpt-*\"]', '[\"10.0.0.0/8\"]',
                '{}', ?1, ?2, ?2, 1)",
            "INSERT INTO usage_days VALUES (?1, ?2 / 86400000, 3, 1, 1, 4)",
        ];
        edit(&database, id, &rows).await;
    }
    let state = "INSERT INTO provider_states VALUES (?1, x'KEY', 'u', ?2)";
    let hex = format!("{:032x}", u128::from_be_bytes(provider_states::state_key("kept")));
    edit(&database, 1, &[&state.replace("KEY", &hex)]).await;
    let loaded = Directory::load(&database, AdmissionSettings::default(), clock::wall_now()).await;
    (database, loaded.expect("it loads"))
}

/// Calls `read` with the caller whose ids are all `id`.
fn with_caller<T>(directory: &Directory, id: u128, read: impl FnOnce(&Caller) -> T) -> T {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(&id.to_be_bytes());
    secret[16..].copy_from_slice(&id.to_be_bytes());
    read(directory.keys().find(&secret).expect("the key exists"))
}

#[tokio::test]
async fn live_state_is_loaded_from_the_database() {
    assert_eq!(KEY_BYTES, 56);
    let folder = tempfile::tempdir().expect("a folder");
    let (_database, directory) = load_directory(&folder).await;
    assert!(directory.keys().find(&[0; 32]).is_none());
    with_caller(&directory, 1, |caller| {
        assert!(caller.may_use_model("gpt-4o") && !caller.may_use_model("claude"));
        let from = |address: &str| caller.may_call_from(address.parse().expect("an address"));
        assert!(from("10.1.2.3") && !from("11.1.2.3"));
        let day = caller.project.usage_snapshot(clock::wall_now()).day;
        assert_eq!((day.used.requests, day.used.spend), (3, Nano(4)));
        assert_eq!(caller.organization.lock().wallet.balance(), Nano(5));
        assert_eq!(caller.project.state_upstream("kept", clock::wall_now()).as_deref(), Some("u"));
    });
    assert!(directory.live_state().organization(OrganizationId(2)).is_some());
}

#[tokio::test]
async fn a_refresh_reads_only_its_subject_and_keeps_usage_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let (database, directory) = load_directory(&folder).await;
    let enabled = |id| with_caller(&directory, id, |caller| caller.enabled);
    for id in [1, 2] {
        edit(&database, id, &["UPDATE api_keys SET enabled = 0 WHERE id = ?1 AND ?2"]).await;
    }
    let now = clock::wall_now();
    directory.refresh_project(&database, ProjectId(1), now).await.expect("read");
    assert_eq!((enabled(1), enabled(2)), (false, true));
    directory.refresh_organization(&database, OrganizationId(2), now).await.expect("read");
    assert_eq!((enabled(1), enabled(2)), (false, false));
    for id in [1, 2] {
        edit(&database, id, &["DELETE FROM api_keys WHERE id = ?1 AND ?2"]).await;
    }
    let count = || {
        [1_u128, 2].map(|id| {
            let half = id.to_be_bytes();
            let secret = [half, half].concat().try_into().expect("32 bytes");
            directory.keys().find(&secret).is_some()
        })
    };
    directory.refresh_project(&database, ProjectId(1), now).await.expect("read");
    assert_eq!(count(), [false, true]);
    directory.refresh_organization(&database, OrganizationId(2), now).await.expect("read");
    assert_eq!(count(), [false, false]);
}
