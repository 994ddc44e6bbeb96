//! Admits or refuses a call in the node and compares the decision with the model.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use meteor::accounting::admit::{AdmissionError, admit};
use meteor::accounting::permit::AdmissionRequest;
use meteor::dialect::endpoint::Endpoint;
use meteor::domain::catalog::{Model as CatalogModel, Target, TargetRank};
use meteor::domain::ids::RequestLogId;
use meteor::domain::limit::Level;
use meteor::domain::price::PriceTable;
use meteor::domain::service_tier::ServiceTier;
use meteor::domain::settlement::Bound as TokenBound;
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

static MODELS: LazyLock<Vec<Arc<CatalogModel>>> = LazyLock::new(|| {
    let model = |(number, tariff): (usize, &crate::price::Tariff)| {
        let priced = |prices: PriceTable, unit, nano| prices.with(unit, nano).expect("in range");
        let mut prices = priced(PriceTable::default(), Unit::InputTokens, tariff.input);
        prices = priced(prices, Unit::OutputTokens, tariff.output);
        if let Some(cached) = tariff.cached {
            prices = priced(prices, Unit::CachedInputTokens, cached);
        }
        let schedule = PriceSchedule::always(Tariff::flat(prices, "v".into()));
        Arc::new(CatalogModel {
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
    TARIFFS.iter().enumerate().map(model).collect()
});

/// Makes a call of random owner and size.
pub async fn make_call(world: &mut World, random: &mut Random) {
    let (owner, worker) = (random.pick(&KEYS), random.index(4) / 3 % usize::from(WORKERS));
    let tariff = random.index(TARIFFS.len() * 2) % TARIFFS.len();
    let bound = Bound { input: random.between(0, 20), output: random.between(0, 30) };
    let usage = KnownUsage { counted_input: random.between(0, 14), ..KnownUsage::default() };
    let id = world.next_id;
    world.next_id += 1;
    let (tokens, money) = (bound.input + bound.output, TARIFFS[tariff].max_cost(bound));

    let process = world.node.process();
    let (context, caller) = (&process.contexts[worker], process.caller(owner.key));
    let request = admission_request(id, world.now, (tariff, bound, usage));
    let admitted = admit(context, &caller, request, || Some(Arc::clone(&caller))).await;
    if matches!(admitted, Err(AdmissionError::JournalFull)) {
        let behind = process.journal.chains()[worker].backlog_bytes();
        let backlog_max = world.node.backlog_bytes_max;
        assert!(backlog_max <= behind, "the journal has room: {behind} bytes behind");
        world.trace(format!("{id}: the journal is full"));
        if random.one_in(2) {
            world.node.project(1_000, i64::MAX).await.expect("projected");
        }
        return;
    }
    let at = world.model.advance_time(&owner.all(), world.now);
    let obstacles = world.model.obstacles(owner, tokens, money);
    let decision = if admitted.is_ok() { "admitted" } else { "refused" };
    world.trace(format!("{id} of {} takes {tokens} and {money}: {decision};", owner.key));
    match admitted {
        Ok(permit) => {
            assert!(obstacles.is_empty(), "{id} is admitted in spite of {obstacles:?}");
            world.model.calls.push(Call { id, owner, at, tokens, money, end: None });
            let open = OpenCall { id, worker, tariff, bound, usage, forwarded: false, permit };
            world.open.push(open);
            world.append(worker, ModelEntry::Held(id));
        }
        Err(refusal) => {
            assert!(!obstacles.is_empty(), "{id} is refused although it fits: {refusal:?}");
            assert_explained(world, owner, money, &refusal, &obstacles);
        }
    }
}

/// Asserts that the refusal names a real reason with its current amounts.
fn assert_explained(
    world: &World,
    owner: Owner,
    money: i64,
    refusal: &AdmissionError,
    obstacles: &[Obstacle],
) {
    let reason = match *refusal {
        AdmissionError::Limit { level, exceeded } => {
            let subject = match level {
                Level::Project => owner.project,
                Level::Key => owner.key,
                Level::Organization => owner.organization,
            };
            let (rule, used, held) = (exceeded.limit as usize, exceeded.used, exceeded.held);
            let value = world.model.quota(subject).limits[rule];
            assert_eq!(Some(exceeded.value), value, "{refusal:?}");
            Obstacle::Limit { subject, rule, used, held }
        }
        AdmissionError::Wallet { shortfall: WalletShortfall::Inactive, .. } => {
            Obstacle::WalletInactive
        }
        AdmissionError::Wallet { shortfall: short, .. } => {
            let on_hold = money <= world.model.balance(owner.organization);
            assert_eq!(short == WalletShortfall::OnHold, on_hold, "{refusal:?}");
            Obstacle::InsufficientFunds
        }
        _ => panic!("no call waits and no key is revoked: {refusal:?}"),
    };
    assert!(obstacles.contains(&reason), "{refusal:?} is not in the way, but {obstacles:?}");
}

fn admission_request(
    id: u64,
    now: i64,
    (tariff, bound, usage): (usize, Bound, KnownUsage),
) -> AdmissionRequest {
    let backlog_max = TokenBound {
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
        bound: backlog_max,
        item_units_max: UnitCounts::default(),
        pricing: HoldPricing::new(vec![Arc::clone(tariff)], ServiceTier::DEFAULT),
        choices: 1,
        output_unbounded: false,
        body: Bytes::from_static(b"{}"),
        // The body refers to external content, so only the bound of the input is known.
        has_external_content: true,
        counted_input: usage.counted_input.unsigned_abs(),
        usage_is_hidden: false,
        claim: None,
        stream: false,
        address: std::net::IpAddr::from([127, 0, 0, 1]),
    }
}
