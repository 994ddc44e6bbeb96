//! Limits are exact: of 400 calls 64 abreast against room for 100, exactly 100 reach the provider.

use crate::harness::concurrent_load::{
    FUNDS, LoadGateway, LoadSpec, MAX_TOKENS, OUTPUT_MAX, Tenants, max_usage, within_one_minute,
};
use crate::harness::demo::Gateway;
use crate::harness::limit_assertions::{
    DAY_SECONDS, FullResponse, KEY_LIMIT_FIELDS, LIMITS, Level, Limit, MINUTE_SECONDS, Measure,
};
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;

const CALLS_ALLOWED: u64 = 100;

#[derive(Default, PartialEq, Debug)]
struct CountedUsage {
    requests: u64,
    minute_requests: u64,
    tokens: u64,
    spend: i128,
}

/// The sum over both projects, or what the one counts.
async fn counted_usage(cast: &Tenants, level: Level) -> CountedUsage {
    let mut sum = CountedUsage::default();
    let projects = if level == Level::Organization { 2 } else { 1 };
    for tenant in &cast.limited[..projects] {
        let usage = tenant.usage().await;
        let (day, month) = (usage.at("dailyUsage"), usage.at("monthlyUsage"));
        for count in ["requestCount", "tokenCount", "spend"] {
            assert_eq!(day.at(count), month.at(count), "{usage}");
        }
        sum.requests += day.at("requestCount").count();
        sum.minute_requests += usage.at("minuteUsage.requestCount").count();
        sum.tokens += day.at("tokenCount").count();
        sum.spend += day.at("spend").nano();
    }
    sum
}

/// Streamed and not, instant and slow, each way once; at the same time.
async fn two_rounds(round: impl AsyncFn(LoadSpec)) {
    tokio::join!(
        Box::pin(round(LoadSpec::at_max_usage(400, true, 0))),
        Box::pin(round(LoadSpec::at_max_usage(400, false, 200))),
    );
}

/// The same the other way about, and with fewer calls than fit.
async fn other_rounds(round: impl AsyncFn(LoadSpec)) {
    tokio::join!(
        Box::pin(round(LoadSpec::at_max_usage(400, false, 0))),
        Box::pin(round(LoadSpec::at_max_usage(400, true, 200))),
        Box::pin(round(LoadSpec::at_max_usage(60, true, 50))),
    );
}

async fn expect_exact_fit(scene: &LoadGateway, storm: LoadSpec, limit: &Limit, level: Level) {
    let each = limit.amount_for(storm.usage);
    let room = i128::from(CALLS_ALLOWED) * each;
    let (cast, outcome, counted, told) = within_one_minute(async || {
        let cast = Tenants::with_limit(limit, level, room, &scene.gateway).await;
        let outcome = scene.run(storm, &cast.limited).await;
        let counted = counted_usage(&cast, level).await;
        let mut told = Vec::new();
        for caller in &cast.limited {
            told.push(caller.limit_status(level.name(), limit.field).await);
        }
        (cast, outcome, counted, told)
    })
    .await;
    let expected = storm.calls.min(100);
    let what = format!("{} of the {}, {storm:?}", limit.field, level.name());
    assert_eq!(outcome.served, expected, "{what}; refused: {:?}", outcome.refused.first());
    assert_eq!(outcome.reached, expected, "reached the provider: {what}");
    for refusal in &outcome.refused {
        limit.assert_refused(level, refusal, (each, room));
    }

    let requests = expected as u64;
    let tokens = requests * storm.usage.total();
    let spend = GPT_4O_MINI.cost(storm.usage) * expected as i128;
    let all = CountedUsage { requests, minute_requests: requests, tokens, spend };
    assert_eq!(counted, all, "what was refused is not counted: {what}");
    for told in told {
        let number = |name: &str| limit.parse_amount(&told.at(name));
        let used = each * expected as i128;
        assert_eq!([number("limit"), number("used")], [room, used], "{told}");
        assert_eq!([number("held"), number("remaining")], [0, room - used], "{told}");
        assert!(told.at("enforced").is_true(), "{told}");
        assert!(told.at("resetAt").text().ends_with('Z'), "{told}");
    }
    cast.assert_settled().await;
    let balance = cast.limited[0].wallet().await.at("balance").nano();
    assert_eq!(balance, FUNDS - spend, "the refused calls cost nothing: {what}");
    if let Some(free) = cast.unlimited {
        let answer = storm.request(&free.key).send(&free.proxy).await;
        assert_eq!(answer.status, 200, "no limit of this caller: {what}");
        answer.text().await;
    }
}

async fn expect_exact_fit_of_each(level: Level, limits: impl Fn(&Limit) -> bool) {
    let scene = LoadGateway::new().await;
    for limit in LIMITS.iter().filter(|limit| limit.measure != Measure::Calls && limits(limit)) {
        let round = async |storm| expect_exact_fit(&scene, storm, limit, level).await;
        if level == Level::Project {
            other_rounds(round).await;
        }
        two_rounds(round).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_daily_project_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Project, |limit| limit.window_seconds == DAY_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_monthly_project_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Project, |limit| limit.window_seconds > DAY_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_minute_project_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Project, |limit| limit.window_seconds == MINUTE_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Key, |limit| KEY_LIMIT_FIELDS.contains(&limit.field)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_daily_organization_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Organization, |limit| limit.window_seconds == DAY_SECONDS)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_monthly_organization_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Organization, |limit| limit.window_seconds > DAY_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_minute_organization_limit_of_100_admits_exactly_100() {
    expect_exact_fit_of_each(Level::Organization, |limit| limit.window_seconds == MINUTE_SECONDS)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_for_exactly_100_calls_admits_exactly_100() {
    let scene = LoadGateway::new().await;
    let round = async |storm: LoadSpec| {
        expect_wallet_admits_100(&scene, storm, GPT_4O_MINI.cost(storm.usage) * 100).await;
    };
    two_rounds(round).await;
    other_rounds(round).await;
}

async fn expect_wallet_admits_100(scene: &LoadGateway, storm: LoadSpec, funds: i128) {
    let tenant = Tenant::new(&scene.gateway, funds, "{}").await;
    let outcome = scene.run(storm, std::slice::from_ref(&tenant)).await;
    let expected = storm.calls.min(100);
    assert_eq!(outcome.served, expected, "{storm:?}: {:?}", outcome.refused.first());
    assert_eq!(outcome.reached, expected, "{storm:?}");
    for refusal in &outcome.refused {
        expect_wallet_refusal(refusal);
    }
    tenant.assert_settled().await;
    let left = funds - GPT_4O_MINI.cost(storm.usage) * expected as i128;
    assert_eq!(tenant.wallet().await.at("balance").nano(), left, "all else was spent");
    let counted = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(counted, expected as u64);
    assert_eq!(tenant.records().await.len(), expected + 1, "one recharge and the debits");
}

/// Says what it needs, and never what there is: a key's holder need not know the balance.
#[track_caller]
fn expect_wallet_refusal(refusal: &FullResponse) {
    let error = refusal.assert_error(402, &["insufficient_balance", "balance_on_hold"]);
    assert_eq!(error.at("type").text(), "insufficient_quota");
    let told = error.find("limit").unwrap_or_else(|| error.clone());
    told.at("required");
    let on_hold = error.at("code").text() == "balance_on_hold";
    assert_eq!(told.at("transient").is_true(), on_hold, "{error}");
    assert_eq!(refusal.header("x-should-retry"), if on_hold { "true" } else { "false" });
    assert!(!on_hold || refusal.retry_after() <= MINUTE_SECONDS, "{refusal:?}");
    for secret in ["balance\":", "available", "frozen"] {
        assert!(!refusal.body.contains(secret), "the balance is nobody's business: {error}");
    }
}

/// Calls wait for what open ones hold and will not use: none is refused that would fit at rest.
#[tokio::test(flavor = "multi_thread")]
async fn calls_below_their_bound_are_refused_only_when_none_fits() {
    let scene = LoadGateway::new().await;
    let round = async |limit: Option<(usize, Level)>, storm: LoadSpec, said: u64| {
        let input = input_tokens_of(&scene.gateway, storm, MAX_TOKENS).await;
        let storm = LoadSpec { usage: Usage::of(input, said), ..storm };
        let bound = Usage::of(input, MAX_TOKENS);
        match limit {
            Some((at, level)) => {
                expect_no_headroom_left(&scene, storm, bound, (&LIMITS[at], level)).await
            }
            None => {
                let [each, most] = [storm.usage, bound].map(|usage| GPT_4O_MINI.cost(usage));
                expect_wallet_admits_100(&scene, storm, minimum_for_100(storm, each, most)).await;
            }
        }
    };
    let rounds = async |limit: Option<(usize, Level)>| {
        tokio::join!(
            Box::pin(round(limit, LoadSpec::at_max_usage(400, true, 0), 1)),
            Box::pin(round(limit, LoadSpec::at_max_usage(400, false, 100), 1)),
            Box::pin(round(limit, LoadSpec::at_max_usage(400, false, 50), MAX_TOKENS)),
        );
    };
    tokio::join!(
        Box::pin(rounds(Some((1, Level::Project)))),
        Box::pin(rounds(Some((5, Level::Organization)))),
        Box::pin(rounds(Some((8, Level::Key)))),
        Box::pin(rounds(None)),
    );
}

/// The least that 100 of these calls fit into, or the most that 101 do not: each may use `most`, of
/// which it gives back all but `each`.
fn minimum_for_100(storm: LoadSpec, each: i128, most: i128) -> i128 {
    if storm.stream { 99 * each + most } else { 100 * each + most - 1 }
}

/// Input tokens of a call that may say no less than this, as the gateway counts them near a limit.
async fn input_tokens_of(gateway: &Gateway, storm: LoadSpec, least: u64) -> u64 {
    let quota = LIMITS[1].quota_json(i128::from(least) + 1);
    let tenant = Tenant::new(gateway, FUNDS, &quota).await;
    let refusal = FullResponse::read(storm.request(&tenant.key).send(&tenant.proxy).await).await;
    let error = refusal.assert_error(429, &[LIMITS[1].code]);
    error.at("limit.requested").count() - least
}

async fn expect_no_headroom_left(
    scene: &LoadGateway,
    storm: LoadSpec,
    bound: Usage,
    (limit, level): (&Limit, Level),
) {
    let room = minimum_for_100(storm, limit.amount_for(storm.usage), limit.amount_for(bound));
    let (cast, outcome) = within_one_minute(async || {
        let cast = Tenants::with_limit(limit, level, room, &scene.gateway).await;
        let outcome = scene.run(storm, &cast.limited).await;
        (cast, outcome)
    })
    .await;
    let expected = storm.calls.min(100);
    let (what, first) = (limit.field, outcome.refused.first());
    assert_eq!(outcome.served, expected, "{what} {storm:?}: {first:?}");
    assert_eq!(outcome.reached, expected, "{what} {storm:?}");
    for refusal in &outcome.refused {
        limit.assert_refused(level, refusal, (limit.amount_for(max_usage(storm.stream)), room));
    }
    cast.assert_settled().await;
}

/// Calls that name no bound share what there is: they are given smaller answers, or wait.
#[tokio::test(flavor = "multi_thread")]
async fn unbounded_calls_never_exceed_a_limit_and_use_it_up() {
    const FLOOR: u64 = 256;
    let room = 20_000;
    let scene = LoadGateway::new().await;
    let storm = LoadSpec { bounded: false, ..LoadSpec::at_max_usage(400, true, 10) };
    let input = input_tokens_of(&scene.gateway, storm, FLOOR).await;
    let least = i128::from(input + FLOOR);
    for (level, at) in [(Level::Project, 1), (Level::Organization, 3)] {
        for said in [OUTPUT_MAX, 100] {
            let storm = LoadSpec { usage: Usage::of(input, said), ..storm };
            let cast = Tenants::with_limit(&LIMITS[at], level, room, &scene.gateway).await;
            let outcome = scene.run(storm, &cast.limited).await;
            let used = i128::from(counted_usage(&cast, level).await.tokens);
            let what = format!("{used} used, {} served: {storm:?}", outcome.served);
            assert_eq!(outcome.reached, outcome.served, "{what}");
            assert!(used <= room, "{what}");
            if said == OUTPUT_MAX {
                assert!(room - used < least, "room was left: {what}");
            } else {
                // The last one that fits leaves less than the least behind.
                let fit = (room - least) / i128::from(storm.usage.total()) + 1;
                assert_eq!(outcome.served as i128, fit, "{what}: {:?}", outcome.refused.first());
            }
            for refusal in &outcome.refused {
                LIMITS[at].assert_refused(level, refusal, (2 * i128::from(OUTPUT_MAX), room));
            }
            cast.assert_settled().await;
        }
    }
}
