//! What a committed batch leaves in the database and in the metrics.

use metrics_exporter_prometheus::PrometheusBuilder;

use crate::domain::idempotency::IdempotencyKey;
use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::time::{Minute, UnixMs};
use crate::journal::entry::Entry;
use crate::ledger::batch::Batch;
use crate::ledger::recovery::commit;
use crate::ledger::tests::recovery::{CallFixture, with_organizations};

/// A call of the first day.
pub const CALL: CallFixture = CallFixture {
    caller: (1, 11, 111),
    minute: Minute(3),
    used: Amounts { requests: 1, tokens: 7, spend: Nano(5) },
};

/// Returns the metrics recorded by `work`, in the Prometheus text format.
pub fn metrics_of(work: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, work);
    recorder.handle().render()
}

#[tokio::test]
async fn a_call_without_a_model_has_null_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let mut batch = Batch::restore("node_1", []);
    for (id, name) in [(1, ""), (2, "m")] {
        let mut hold = CALL.hold(id);
        if let Entry::Hold(hold) = &mut hold {
            name.clone_into(&mut hold.header.model);
        }
        batch.apply(hold);
        batch.apply(CALL.end(id));
    }
    commit(&database, &mut batch, &[], UnixMs(0)).await.expect("committed");
    let models = sqlx::query_scalar("SELECT model FROM request_logs ORDER BY id");
    let models: Vec<Option<String>> = models.fetch_all(database.reader()).await.expect("rows");
    assert_eq!(models, [None, Some("m".to_owned())]);
}

#[tokio::test]
async fn each_stored_idempotency_key_deletes_two_expired_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = with_organizations(&folder.path().join("gateway.db")).await;
    let mut batch = Batch::restore("node_1", []);
    let yesterday = CALL;
    let today = CallFixture { minute: Minute(2 * 1_440), ..CALL };
    for (call, ids, expected) in [(yesterday, 0..7, 7), (today, 10..13, 7 - 2 * 3 + 3)] {
        for id in ids {
            let mut hold = call.hold(id);
            if let Entry::Hold(hold) = &mut hold {
                hold.idempotency_key =
                    Some(IdempotencyKey { key_digest: id.to_be_bytes(), body_digest: [0; 16] });
            }
            batch.apply(hold);
            batch.apply(call.end(id));
        }
        let now = call.minute.start();
        commit(&database, &mut batch, &[], now).await.expect("committed");
        let keys = sqlx::query_scalar("SELECT count(*) FROM call_idempotency_keys");
        let keys: i64 = keys.fetch_one(database.reader()).await.expect("a count");
        assert_eq!(keys, expected);
    }
}
