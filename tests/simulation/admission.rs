//! A call comes: the node admits or denies it, and so does the model.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use meteor::accounting::admit::{AdmissionError, admit};
use meteor::accounting::permit::AdmissionRequest;
use meteor::dialect::endpoint::Endpoint;
use meteor::domain::catalog::{Model as Served, Target, TargetRank};
use meteor::domain::ids::RequestLogId;
use meteor::domain::limit::Level;
use meteor::domain::price::PriceTable;
use meteor::domain::service_tier::ServiceTier;
use meteor::domain::settlement::Bound as Most;
use meteor::domain::tariff::{HoldPricing, PriceSchedule, Tariff};
use meteor::domain::time::UnixMs;
use meteor::domain::unit_counts::UnitCounts;
use meteor::domain::usage::Unit;
use meteor::domain::wallet::WalletShortfall;

use crate::history::Random;
use crate::model::{Call, ModelEntry, Obstacle, Owner};
use crate::node::{KEYS, WORKERS};
use crate::price::{Bound, KnownUsage, TARIFFS};
use crate::world::{OpenCall, World};

static MODELS: LazyLock<Vec<Arc<Served>>> = LazyLock::new(|| {
    let served = |(number, tariff): (usize, &crate::price::Tariff)| {
        let priced = |prices: PriceTable, unit, nano| prices.with(unit, nano).expect("in range");
        let mut prices = priced(PriceTable::default(), Unit::InputTokens, tariff.input);
        prices = priced(prices, Unit::OutputTokens, tariff.output);
        if let Some(cached) = tariff.cached {
            prices = priced(prices, Unit::CachedInputTokens, cached);
        }
        let schedule = PriceSchedule::always(Tariff::flat(prices, "v".into()));
        Arc::new(Served {
            name: format!("m{number}").into(),
            aliases: Vec::new(),
            max_output_tokens: 1_000,
            output_field: "max_tokens",
            hidden_output: false,
            max_input_tokens: None,
            targets: vec![Target {
                upstream: 0,
                upstream_model: None,
                rank: TargetRank::default(),
                schedule,
            }],
        })
    };
    TARIFFS.iter().enumerate().map(served).collect()
});

/// A call of anybody, of any size.
pub async fn make_call(world: &mut World, dice: &mut Random) {
    let (who, worker) = (dice.pick(&KEYS), dice.index(4) / 3 % usize::from(WORKERS));
    let tariff = dice.index(TARIFFS.len() * 2) % TARIFFS.len();
    let bound = Bound { input: dice.between(0, 20), output: dice.between(0, 30) };
    let known = KnownUsage { counted_input: dice.between(0, 14), ..KnownUsage::default() };
    let id = world.next_id;
    world.next_id += 1;
    let (tokens, money) = (bound.input + bound.output, TARIFFS[tariff].max_cost(bound));

    let process = world.node.process();
    let (desk, caller) = (&process.contexts[worker], process.caller(who.key));
    let demand = admission_request(id, world.now, (tariff, bound, known));
    let admitted = admit(desk, &caller, demand, || Some(Arc::clone(&caller))).await;
    if matches!(admitted, Err(AdmissionError::JournalFull)) {
        let behind = process.journal.chains()[worker].backlog_bytes();
        let most = world.node.backlog_bytes_max;
        assert!(most <= behind, "the journal has room: {behind} bytes behind");
        world.trace(format!("{id}: the journal is full"));
        if dice.one_in(2) {
            world.node.project(1_000, i64::MAX).await.expect("projected");
        }
        return;
    }
    let at = world.model.advance_time(&who.all(), world.now);
    let obstacles = world.model.obstacles(who, tokens, money);
    let verdict = if admitted.is_ok() { "admitted" } else { "denied" };
    world.trace(format!("{id} of {} takes {tokens} and {money}: {verdict};", who.key));
    match admitted {
        Ok(permit) => {
            assert!(obstacles.is_empty(), "{id} is admitted in spite of {obstacles:?}");
            world.model.calls.push(Call { id, owner: who, at, tokens, money, end: None });
            let open = OpenCall { id, worker, tariff, bound, known, forwarded: false, permit };
            world.open.push(open);
            world.append(worker, ModelEntry::Held(id));
        }
        Err(denial) => {
            assert!(!obstacles.is_empty(), "{id} is denied though it fits: {denial:?}");
            assert_explained(world, who, money, &denial, &obstacles);
        }
    }
}

/// A denial names what is really in the way, as it really stands.
fn assert_explained(
    world: &World,
    who: Owner,
    money: i64,
    denial: &AdmissionError,
    obstacles: &[Obstacle],
) {
    let told = match *denial {
        AdmissionError::Limit { level, exceeded } => {
            let subject = match level {
                Level::Project => who.project,
                Level::Key => who.key,
                Level::Organization => who.organization,
            };
            let (rule, used, held) = (exceeded.limit as usize, exceeded.used, exceeded.held);
            let value = world.model.quota(subject).limits[rule];
            assert_eq!(Some(exceeded.value), value, "{denial:?}");
            Obstacle::Limit { subject, rule, used, held }
        }
        AdmissionError::Wallet { shortfall: WalletShortfall::Inactive, .. } => {
            Obstacle::WalletInactive
        }
        AdmissionError::Wallet { shortfall: short, .. } => {
            let on_hold = money <= world.model.balance(who.organization);
            assert_eq!(short == WalletShortfall::OnHold, on_hold, "{denial:?}");
            Obstacle::InsufficientFunds
        }
        _ => panic!("nobody waits and nothing is revoked: {denial:?}"),
    };
    assert!(obstacles.contains(&told), "{denial:?} is not in the way, but {obstacles:?}");
}

fn admission_request(
    id: u64,
    now: i64,
    (tariff, bound, known): (usize, Bound, KnownUsage),
) -> AdmissionRequest {
    let most = Most {
        input_tokens: bound.input.unsigned_abs(),
        output_tokens: bound.output.unsigned_abs(),
    };
    let model = &MODELS[tariff];
    let tariff = model.targets[0].schedule.effective_at(UnixMs(now));
    AdmissionRequest {
        id: RequestLogId(u128::from(id)),
        received_at: UnixMs(now),
        started_at: meteor::clock::monotonic_now(),
        now: UnixMs(now),
        endpoint: Endpoint::ChatCompletions,
        model: Arc::clone(model),
        bound: most,
        item_units_max: UnitCounts::default(),
        pricing: HoldPricing::new(vec![Arc::clone(tariff)], ServiceTier::DEFAULT),
        choices: 1,
        output_unbounded: false,
        body: Bytes::from_static(b"{}"),
        // Content that stands elsewhere: the bound is all that is known of the input.
        has_external_content: true,
        counted_input: known.counted_input.unsigned_abs(),
        usage_is_hidden: false,
        claim: None,
        stream: false,
        address: std::net::IpAddr::from([127, 0, 0, 1]),
    }
}
