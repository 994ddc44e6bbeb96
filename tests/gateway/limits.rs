//! Limits are exact: of 400 calls, 64 concurrent, against a limit of 100, exactly 100 are
//! forwarded.

use crate::harness::concurrent_load::{
    FUNDS, LoadGateway, LoadSpec, MAX_TOKENS, OUTPUT_MAX, Tenants, max_usage, within_one_minute,
};
use crate::harness::demo::Gateway;
use crate::harness::limit_assertions::{
    DAY_SECONDS, FullResponse, KEY_LIMIT_FIELDS, LIMITS, Level, Limit, MINUTE_SECONDS, Measure,
    by_field,
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

/// The usage of the project, or the sum over both projects of the organization.
async fn counted_usage(tenants: &Tenants, level: Level) -> CountedUsage {
    let mut sum = CountedUsage::default();
    let projects = if level == Level::Organization { 2 } else { 1 };
    for tenant in &tenants.limited[..projects] {
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

/// Runs a streamed instant round and a plain slow round concurrently.
async fn two_rounds(round: impl AsyncFn(LoadSpec)) {
    tokio::join!(
        Box::pin(round(LoadSpec::at_max_usage(400, true, 0))),
        Box::pin(round(LoadSpec::at_max_usage(400, false, 200))),
    );
}

/// Runs a plain instant round, a streamed slow one and one with fewer calls than the limit.
async fn other_rounds(round: impl AsyncFn(LoadSpec)) {
    tokio::join!(
        Box::pin(round(LoadSpec::at_max_usage(400, false, 0))),
        Box::pin(round(LoadSpec::at_max_usage(400, true, 200))),
        Box::pin(round(LoadSpec::at_max_usage(60, true, 50))),
    );
}

async fn assert_exact_fit(load: &LoadGateway, spec: LoadSpec, limit: &Limit, level: Level) {
    let each = limit.amount_for(spec.usage);
    let limit_value = i128::from(CALLS_ALLOWED) * each;
    let (tenants, outcome, counted, status) = within_one_minute(async || {
        let tenants = Tenants::with_limit(limit, level, limit_value, &load.gateway).await;
        let outcome = load.run(spec, &tenants.limited).await;
        let counted = counted_usage(&tenants, level).await;
        let mut status = Vec::new();
        for caller in &tenants.limited {
            status.push(caller.limit_status(level.name(), limit.field).await);
        }
        (tenants, outcome, counted, status)
    })
    .await;
    let expected = spec.calls.min(100);
    let what = format!("{} of the {}, {spec:?}", limit.field, level.name());
    assert_eq!(outcome.served, expected, "{what}; refused: {:?}", outcome.refused.first());
    assert_eq!(outcome.reached, expected, "reached the provider: {what}");
    for refusal in &outcome.refused {
        limit.assert_refused(level, refusal, (each, limit_value));
    }

    let requests = expected as u64;
    let tokens = requests * spec.usage.total();
    let spend = GPT_4O_MINI.cost(spec.usage) * expected as i128;
    let all = CountedUsage { requests, minute_requests: requests, tokens, spend };
    assert_eq!(counted, all, "refused calls are not counted: {what}");
    for status in status {
        let number = |name: &str| limit.parse_amount(&status.at(name));
        let used = each * expected as i128;
        assert_eq!([number("limit"), number("used")], [limit_value, used], "{status}");
        assert_eq!([number("held"), number("remaining")], [0, limit_value - used], "{status}");
        assert!(status.at("enforced").is_true(), "{status}");
        assert!(status.at("resetAt").text().ends_with('Z'), "{status}");
    }
    tenants.assert_settled().await;
    let balance = tenants.limited[0].wallet().await.at("balance").nano();
    assert_eq!(balance, FUNDS - spend, "the refused calls cost nothing: {what}");
    if let Some(free) = tenants.unlimited {
        let answer = spec.request(&free.key).send(&free.proxy).await;
        assert_eq!(answer.status, 200, "the limit applies to others: {what}");
        answer.text().await;
    }
}

async fn assert_exact_fit_of_each(level: Level, limits: impl Fn(&Limit) -> bool) {
    let load = LoadGateway::new().await;
    for limit in LIMITS.iter().filter(|limit| limit.measure != Measure::Calls && limits(limit)) {
        let round = async |spec| assert_exact_fit(&load, spec, limit, level).await;
        if level == Level::Project {
            other_rounds(round).await;
        }
        two_rounds(round).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_daily_project_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Project, |limit| limit.window_seconds == DAY_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_monthly_project_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Project, |limit| limit.window_seconds > DAY_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_minute_project_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Project, |limit| limit.window_seconds == MINUTE_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Key, |limit| KEY_LIMIT_FIELDS.contains(&limit.field)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_daily_organization_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Organization, |limit| limit.window_seconds == DAY_SECONDS)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_monthly_organization_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Organization, |limit| limit.window_seconds > DAY_SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_minute_organization_limit_of_100_admits_exactly_100() {
    assert_exact_fit_of_each(Level::Organization, |limit| limit.window_seconds == MINUTE_SECONDS)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_for_exactly_100_calls_admits_exactly_100() {
    let load = LoadGateway::new().await;
    let round = async |spec: LoadSpec| {
        assert_wallet_admits_100(&load, spec, GPT_4O_MINI.cost(spec.usage) * 100).await;
    };
    two_rounds(round).await;
    other_rounds(round).await;
}

async fn assert_wallet_admits_100(load: &LoadGateway, spec: LoadSpec, funds: i128) {
    let tenant = Tenant::new(&load.gateway, funds, "{}").await;
    let outcome = load.run(spec, std::slice::from_ref(&tenant)).await;
    let expected = spec.calls.min(100);
    assert_eq!(outcome.served, expected, "{spec:?}: {:?}", outcome.refused.first());
    assert_eq!(outcome.reached, expected, "{spec:?}");
    for refusal in &outcome.refused {
        assert_wallet_refusal(refusal);
    }
    tenant.assert_settled().await;
    let balance = funds - GPT_4O_MINI.cost(spec.usage) * expected as i128;
    assert_eq!(tenant.wallet().await.at("balance").nano(), balance, "the rest was spent");
    let counted = tenant.usage().await.at("dailyUsage.requestCount").count();
    assert_eq!(counted, expected as u64);
    assert_eq!(tenant.records().await.len(), expected + 1, "one recharge and the debits");
}

/// Asserts that the refusal contains the required amount but not the balance, which a key holder
/// must not learn.
#[track_caller]
fn assert_wallet_refusal(refusal: &FullResponse) {
    let error = refusal.assert_error(402, &["insufficient_balance", "balance_on_hold"]);
    assert_eq!(error.at("type").text(), "insufficient_quota");
    let details = error.find("limit").unwrap_or_else(|| error.clone());
    details.at("required");
    let on_hold = error.at("code").text() == "balance_on_hold";
    assert_eq!(details.at("transient").is_true(), on_hold, "{error}");
    assert_eq!(refusal.header("x-should-retry"), if on_hold { "true" } else { "false" });
    assert!(!on_hold || refusal.retry_after() <= MINUTE_SECONDS, "{refusal:?}");
    for secret in ["balance\":", "available", "frozen"] {
        assert!(!refusal.body.contains(secret), "the balance is not disclosed: {error}");
    }
}

/// Calls wait for headroom that open calls hold and return; none is refused that would fit later.
#[tokio::test(flavor = "multi_thread")]
async fn calls_below_their_bound_are_refused_only_when_none_fits() {
    let load = LoadGateway::new().await;
    let round = async |limit: Option<(&str, Level)>, spec: LoadSpec, output_tokens: u64| {
        let input = input_tokens_of(&load.gateway, spec, MAX_TOKENS).await;
        let spec = LoadSpec { usage: Usage::of(input, output_tokens), ..spec };
        let bound = Usage::of(input, MAX_TOKENS);
        match limit {
            Some((field, level)) => {
                assert_no_headroom_left(&load, spec, bound, (by_field(field), level)).await;
            }
            None => {
                let [each, held] = [spec.usage, bound].map(|usage| GPT_4O_MINI.cost(usage));
                assert_wallet_admits_100(&load, spec, minimum_for_100(spec, each, held)).await;
            }
        }
    };
    let rounds = async |limit: Option<(&str, Level)>| {
        tokio::join!(
            Box::pin(round(limit, LoadSpec::at_max_usage(400, true, 0), 1)),
            Box::pin(round(limit, LoadSpec::at_max_usage(400, false, 100), 1)),
            Box::pin(round(limit, LoadSpec::at_max_usage(400, false, 50), MAX_TOKENS)),
        );
    };
    tokio::join!(
        Box::pin(rounds(Some(("dailyTokenLimit", Level::Project)))),
        Box::pin(rounds(Some(("tokensPerMinuteLimit", Level::Organization)))),
        Box::pin(rounds(Some(("monthlySpendLimit", Level::Key)))),
        Box::pin(rounds(None)),
    );
}

/// The smallest amount into which 100 of these calls fit, or the largest into which 101 do not.
/// Each call holds `held` and uses `each`.
fn minimum_for_100(spec: LoadSpec, each: i128, held: i128) -> i128 {
    if spec.stream { 99 * each + held } else { 100 * each + held - 1 }
}

/// Input tokens of a call whose smallest output bound is `output`, as the gateway counts them near
/// a limit.
async fn input_tokens_of(gateway: &Gateway, spec: LoadSpec, output: u64) -> u64 {
    let limit = by_field("dailyTokenLimit");
    let quota = limit.quota_json(i128::from(output) + 1);
    let tenant = Tenant::new(gateway, FUNDS, &quota).await;
    let refusal = FullResponse::read(spec.request(&tenant.key).send(&tenant.proxy).await).await;
    let error = refusal.assert_error(429, &[limit.code]);
    error.at("limit.requested").count() - output
}

async fn assert_no_headroom_left(
    load: &LoadGateway,
    spec: LoadSpec,
    bound: Usage,
    (limit, level): (&Limit, Level),
) {
    let limit_value = minimum_for_100(spec, limit.amount_for(spec.usage), limit.amount_for(bound));
    let (tenants, outcome) = within_one_minute(async || {
        let tenants = Tenants::with_limit(limit, level, limit_value, &load.gateway).await;
        let outcome = load.run(spec, &tenants.limited).await;
        (tenants, outcome)
    })
    .await;
    let expected = spec.calls.min(100);
    let (what, first) = (limit.field, outcome.refused.first());
    assert_eq!(outcome.served, expected, "{what} {spec:?}: {first:?}");
    assert_eq!(outcome.reached, expected, "{what} {spec:?}");
    for refusal in &outcome.refused {
        limit.assert_refused(
            level,
            refusal,
            (limit.amount_for(max_usage(spec.stream)), limit_value),
        );
    }
    tenants.assert_settled().await;
}

/// Calls without an output bound share the headroom: their output is clamped, or they wait.
#[tokio::test(flavor = "multi_thread")]
async fn unbounded_calls_never_exceed_a_limit_and_use_it_up() {
    const FLOOR: u64 = 256;
    let limit_value = 20_000;
    let load = LoadGateway::new().await;
    let spec = LoadSpec { bounded: false, ..LoadSpec::at_max_usage(400, true, 10) };
    let input = input_tokens_of(&load.gateway, spec, FLOOR).await;
    let min_call = i128::from(input + FLOOR);
    for (level, field) in
        [(Level::Project, "dailyTokenLimit"), (Level::Organization, "monthlyTokenLimit")]
    {
        let limit = by_field(field);
        for output_tokens in [OUTPUT_MAX, 100] {
            let spec = LoadSpec { usage: Usage::of(input, output_tokens), ..spec };
            let tenants = Tenants::with_limit(limit, level, limit_value, &load.gateway).await;
            let outcome = load.run(spec, &tenants.limited).await;
            let used = i128::from(counted_usage(&tenants, level).await.tokens);
            let what = format!("{used} used, {} served: {spec:?}", outcome.served);
            assert_eq!(outcome.reached, outcome.served, "{what}");
            assert!(used <= limit_value, "{what}");
            if output_tokens == OUTPUT_MAX {
                assert!(limit_value - used < min_call, "headroom was left: {what}");
            } else {
                // After the last call that fits, less than one minimum call is left.
                let fit = (limit_value - min_call) / i128::from(spec.usage.total()) + 1;
                assert_eq!(outcome.served as i128, fit, "{what}: {:?}", outcome.refused.first());
            }
            for refusal in &outcome.refused {
                limit.assert_refused(level, refusal, (2 * i128::from(OUTPUT_MAX), limit_value));
            }
            tenants.assert_settled().await;
        }
    }
}
