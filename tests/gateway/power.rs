//! Power that fails at any moment: the disk is left with what was synced, and with any part of what
//! was not.

use std::collections::HashSet;
use std::time::Duration;

use crate::disk::{FUNDS, Load, Scene, Seen, USAGE, debits, rows};
use crate::openai::reply;
use crate::served::{Place, Served};
use crate::shim::{Chance, EIO, Shim};
use crate::upstream::Upstream;
use crate::wait::eventually;

/// So often the power fails, unless the variable says otherwise.
const CYCLES: usize = 3;
/// After so many another organization calls, so that lists stay short.
const CYCLES_EACH: usize = 5;

fn cycles() -> usize {
    let asked = std::env::var("METEOR_POWER").ok();
    asked.map_or(CYCLES, |cycles| cycles.parse().expect("METEOR_POWER is a number"))
}

/// Segments go soon after they are projected, so that some come back with the power.
async fn scene(durability: &str) -> Scene {
    let provider = Upstream::start(|seen| reply(seen, USAGE, Duration::ZERO)).await;
    let journal = format!("durability = \"{durability}\"\nkeep_ms = 500\n");
    let (shim, place) = Shim::with_power(Place::new(&rows(&journal, &provider)));
    let served = Served::start(place).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    Scene { provider, served, tenant, shim }
}

/// Calls until the power fails, and starts again with what the disk has; what callers saw.
///
/// In turn: a few calls; more than a segment of them, with a database that has none of them; and
/// a few until old segments are removed, with a start before the power fails: what it has forgotten
/// must not come back.
async fn cycle(mut scene: Scene, turn: usize, chance: &mut Chance) -> (Scene, Seen) {
    scene.tenant.recharge(1).await;
    if turn % 3 == 1 {
        scene.shim.fails(&[("sync", ".db-wal", EIO)]);
    }
    let load = Load::begin(&scene.tenant);
    let segments = || scene.shim.names_in("journal");
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
    load.ended(usize::try_from(calls).expect("a few")).await;
    scene.served.kill();
    let seen = load.stop().await;
    scene.shim.heals();
    if turn % 3 == 2 {
        scene = scene.again().await;
        scene.served.kill();
    }
    scene.shim.lose_power(chance);
    (scene.again().await, seen)
}

/// Every recharge that was answered is there.
async fn has_recharges(scene: &Scene, many: usize) {
    let records = scene.tenant.records().await;
    let own = records.iter().filter(|record| record.at("type").text() == "Recharge").count();
    assert_eq!(own, 1 + many);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_power_durability_nothing_whose_end_was_seen_is_lost_with_the_power() {
    let mut chance = Chance::seeded("METEOR_POWER_SEED");
    let mut scene = scene("power").await;
    let (mut all, mut own) = (Seen::default(), 0);
    for turn in 0..cycles() {
        if turn > 0 && turn.is_multiple_of(CYCLES_EACH) {
            let tenant = scene.tenant.found(&scene.served, FUNDS, "{}").await;
            (scene, all, own) = (Scene { tenant, ..scene }, Seen::default(), 0);
        }
        let seen;
        (scene, seen) = cycle(scene, turn, &mut chance).await;
        all.ended.extend(seen.ended);
        own += 1;
        scene.reconciles(&all).await;
        has_recharges(&scene, own).await;
    }
}

/// Only what was never synced is lost, and the books are whole without it. What the database had
/// does not come again.
#[tokio::test(flavor = "multi_thread")]
async fn with_process_durability_only_the_tail_is_lost_with_the_power() {
    let mut chance = Chance::seeded("METEOR_POWER_SEED");
    let mut scene = scene("process").await;
    let mut known = debits(&scene.tenant).await;
    for turn in 0..cycles() {
        (scene, _) = cycle(scene, turn, &mut chance).await;
        scene.reconciles(&Seen::default()).await;
        has_recharges(&scene, turn % CYCLES_EACH + 1).await;
        let now = debits(&scene.tenant).await;
        for id in known.keys() {
            assert!(now.contains_key(id), "a debit that was seen is gone: {id}");
        }
        known = now;
        if turn % CYCLES_EACH == CYCLES_EACH - 1 {
            let tenant = scene.tenant.found(&scene.served, FUNDS, "{}").await;
            scene = Scene { tenant, ..scene };
            known = debits(&scene.tenant).await;
        }
    }
}
