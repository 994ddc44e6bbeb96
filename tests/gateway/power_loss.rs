//! Power that fails at any moment: the disk is left with what was synced, and with any part of what
//! was not.

use std::collections::HashSet;
use std::time::Duration;

use crate::disk_faults::{
    CallerResults, FUNDS, FaultyGateway, Load, USAGE, config_rows, debits_by_call,
};
use crate::harness::fault_shim::{EIO, FaultShim, Random};
use crate::harness::openai::reply;
use crate::harness::serve::{Place, Served};
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

/// So often the power fails, unless the variable says otherwise.
const CYCLES: usize = 3;
/// After so many another organization calls, so that lists stay short.
const CYCLES_PER_TENANT: usize = 5;

fn cycles() -> usize {
    let asked = std::env::var("METEOR_POWER").ok();
    asked.map_or(CYCLES, |cycles| cycles.parse().expect("METEOR_POWER is a number"))
}

/// Segments go soon after they are projected, so that some come back with the power.
async fn start_fixture(durability: &str) -> FaultyGateway {
    let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let journal = format!("durability = \"{durability}\"\nkeep_ms = 500\n");
    let (shim, place) = FaultShim::with_power_loss(Place::new(&config_rows(&journal, &provider)));
    let served = Served::start(place).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    FaultyGateway { upstream: provider, server: served, tenant, shim }
}

/// Calls until the power fails, and starts again with what the disk has; what callers saw.
///
/// In turn: a few calls; more than a segment of them, with a database that has none of them; and
/// a few until old segments are removed, with a start before the power fails: what it has forgotten
/// must not come back.
async fn power_cycle(
    mut scene: FaultyGateway,
    turn: usize,
    chance: &mut Random,
) -> (FaultyGateway, CallerResults) {
    scene.tenant.recharge(1).await;
    if turn % 3 == 1 {
        scene.shim.inject(&[("sync", ".db-wal", EIO)]);
    }
    let load = Load::start(&scene.tenant);
    let segments = || scene.shim.list_files("journal");
    match turn % 3 {
        1 => {
            // While the second is written, the third is ready.
            let third = |name: &String| name.ends_with("-00000002.journal");
            eventually("a second segment is begun", async || {
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
    let calls = 10 + chance.below(150);
    load.wait_completed(usize::try_from(calls).expect("a few")).await;
    scene.server.kill();
    let seen = load.stop().await;
    scene.shim.clear();
    if turn % 3 == 2 {
        scene = scene.restart().await;
        scene.server.kill();
    }
    scene.shim.lose_power(chance);
    (scene.restart().await, seen)
}

/// Every recharge that was answered is there.
async fn expect_recharges(scene: &FaultyGateway, many: usize) {
    let records = scene.tenant.records().await;
    let own = records.iter().filter(|record| record.at("type").text() == "Recharge").count();
    assert_eq!(own, 1 + many);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_durability_loses_no_completed_call() {
    let mut chance = Random::from_env("METEOR_POWER_SEED");
    let mut scene = start_fixture("power").await;
    let (mut all, mut own) = (CallerResults::default(), 0);
    for turn in 0..cycles() {
        if turn > 0 && turn.is_multiple_of(CYCLES_PER_TENANT) {
            let tenant = scene.tenant.create_tenant(&scene.server, FUNDS, "{}").await;
            (scene, all, own) = (FaultyGateway { tenant, ..scene }, CallerResults::default(), 0);
        }
        let seen;
        (scene, seen) = power_cycle(scene, turn, &mut chance).await;
        all.completed.extend(seen.completed);
        own += 1;
        scene.assert_reconciled(&all).await;
        expect_recharges(&scene, own).await;
    }
}

/// Only what was never synced is lost, and the books are whole without it. What the database had
/// does not come again.
#[tokio::test(flavor = "multi_thread")]
async fn process_durability_loses_only_the_unsynced_tail() {
    let mut chance = Random::from_env("METEOR_POWER_SEED");
    let mut scene = start_fixture("process").await;
    let mut known = debits_by_call(&scene.tenant).await;
    for turn in 0..cycles() {
        (scene, _) = power_cycle(scene, turn, &mut chance).await;
        scene.assert_reconciled(&CallerResults::default()).await;
        expect_recharges(&scene, turn % CYCLES_PER_TENANT + 1).await;
        let now = debits_by_call(&scene.tenant).await;
        for id in known.keys() {
            assert!(now.contains_key(id), "a debit that was seen is gone: {id}");
        }
        known = now;
        if turn % CYCLES_PER_TENANT == CYCLES_PER_TENANT - 1 {
            let tenant = scene.tenant.create_tenant(&scene.server, FUNDS, "{}").await;
            scene = FaultyGateway { tenant, ..scene };
            known = debits_by_call(&scene.tenant).await;
        }
    }
}
