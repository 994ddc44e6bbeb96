//! Power loss at random moments: the disk keeps what was synced and any part of what was not.

use std::collections::HashSet;
use std::time::Duration;

use crate::disk_faults::{
    CallerResults, FUNDS, FaultyGateway, Load, USAGE, config_rows, debits_by_call,
};
use crate::harness::fault_shim::{EIO, FaultShim, Random};
use crate::harness::openai::reply;
use crate::harness::serve::{ConfigDir, Server};
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

/// Number of power losses unless `METEOR_POWER` sets another.
const CYCLES: usize = 3;
/// Power losses per organization, so that its lists stay short.
const CYCLES_PER_TENANT: usize = 5;

fn cycles() -> usize {
    let variable = std::env::var("METEOR_POWER").ok();
    variable.map_or(CYCLES, |cycles| cycles.parse().expect("METEOR_POWER is a number"))
}

/// Starts a gateway that deletes segments soon after projection, so that some reappear after a
/// power loss.
async fn start_fixture(durability: &str) -> FaultyGateway {
    let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let journal = format!("durability = \"{durability}\"\nkeep_ms = 500\n");
    let (shim, config_dir) =
        FaultShim::with_power_loss(ConfigDir::new(&config_rows(&journal, &provider)));
    let served = Server::start(config_dir).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    FaultyGateway { upstream: provider, server: served, tenant, shim }
}

/// Makes calls until the power fails and restarts from the disk. Returns what the callers observed.
///
/// Alternates by `index`: a few calls; more than a segment of calls while the database cannot
/// commit; and calls until old segments are deleted, with a restart before the power loss, after
/// which the deleted entries must not reappear.
async fn power_cycle(
    mut fixture: FaultyGateway,
    index: usize,
    random: &mut Random,
) -> (FaultyGateway, CallerResults) {
    fixture.tenant.recharge(1).await;
    if index % 3 == 1 {
        fixture.shim.inject(&[("sync", ".db-wal", EIO)]);
    }
    let load = Load::start(&fixture.tenant);
    let segments = || fixture.shim.list_files("journal");
    match index % 3 {
        1 => {
            // The third segment is prepared while the second is written.
            let third = |name: &String| name.ends_with("-00000002.journal");
            eventually("a second segment is started", async || {
                segments().iter().any(third).then_some(())
            })
            .await;
        }
        2 => {
            let run = |name: &String| name.split('-').next().map(str::to_owned);
            eventually("old segments are removed", async || {
                let runs: HashSet<_> = segments().iter().filter_map(run).collect();
                (runs.len() == 1).then_some(())
            })
            .await;
        }
        _ => {}
    }
    let calls = 10 + random.below(150);
    load.wait_completed(usize::try_from(calls).expect("a few")).await;
    fixture.server.kill();
    let seen = load.stop().await;
    fixture.shim.clear();
    if index % 3 == 2 {
        fixture = fixture.restart().await;
        fixture.server.kill();
    }
    fixture.shim.lose_power(random);
    (fixture.restart().await, seen)
}

/// Asserts that every answered recharge is recorded.
async fn assert_recharges(fixture: &FaultyGateway, many: usize) {
    let records = fixture.tenant.records().await;
    let recharges = records.iter().filter(|record| record.at("type").text() == "Recharge").count();
    assert_eq!(recharges, 1 + many);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_durability_loses_no_completed_call() {
    let mut random = Random::from_env("METEOR_POWER_SEED");
    let mut fixture = start_fixture("power").await;
    let (mut completed, mut rounds) = (CallerResults::default(), 0);
    for index in 0..cycles() {
        if index > 0 && index.is_multiple_of(CYCLES_PER_TENANT) {
            let tenant = fixture.tenant.create_tenant(&fixture.server, FUNDS, "{}").await;
            (fixture, completed, rounds) =
                (FaultyGateway { tenant, ..fixture }, CallerResults::default(), 0);
        }
        let seen;
        (fixture, seen) = power_cycle(fixture, index, &mut random).await;
        completed.completed.extend(seen.completed);
        rounds += 1;
        fixture.assert_reconciled(&completed).await;
        assert_recharges(&fixture, rounds).await;
    }
}

/// Only entries that were never synced are lost, and the ledger stays consistent. Entries that the
/// database has are not applied again.
#[tokio::test(flavor = "multi_thread")]
async fn process_durability_loses_only_the_unsynced_tail() {
    let mut random = Random::from_env("METEOR_POWER_SEED");
    let mut fixture = start_fixture("process").await;
    let mut previous = debits_by_call(&fixture.tenant).await;
    for index in 0..cycles() {
        (fixture, _) = power_cycle(fixture, index, &mut random).await;
        fixture.assert_reconciled(&CallerResults::default()).await;
        assert_recharges(&fixture, index % CYCLES_PER_TENANT + 1).await;
        let now = debits_by_call(&fixture.tenant).await;
        for id in previous.keys() {
            assert!(now.contains_key(id), "an observed debit is gone: {id}");
        }
        previous = now;
        if index % CYCLES_PER_TENANT == CYCLES_PER_TENANT - 1 {
            let tenant = fixture.tenant.create_tenant(&fixture.server, FUNDS, "{}").await;
            fixture = FaultyGateway { tenant, ..fixture };
            previous = debits_by_call(&fixture.tenant).await;
        }
    }
}
