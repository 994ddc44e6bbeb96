//! Tests each row of `upstream_fault_table` against the running gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;

use crate::harness::client::{Request, Response};
use crate::harness::openai::{Usage, WORDS, chat, completion, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::raw_upstream::RawUpstream;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Upstream, closed_port};
use crate::harness::wait::eventually;
use crate::upstream_fault_table::{
    Behavior, Charged, FAULTS, FaultRow, Observed, USAGE, whole_body,
};

/// The usage that the healthy upstream reports.
const HEALTHY_USAGE: Usage = Usage { prompt: 13, completion: 5, cached: 1, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

/// A provider with the behavior of a row.
enum FaultyProvider {
    Scripted(RawUpstream),
    Closed { _port: tokio::net::TcpSocket, url: String },
}

impl FaultyProvider {
    async fn start(row: &FaultRow) -> Self {
        let rude = match row.behavior {
            Behavior::RefusesConnections => {
                let (port, url) = closed_port();
                return Self::Closed { _port: port, url };
            }
            Behavior::ClosesConnection => RawUpstream::start(|_| None).await,
            Behavior::Performs(acts) => RawUpstream::start(move |_| Some(acts())).await,
            // The second connection of each pair succeeds.
            Behavior::Recovers(first, then) => {
                RawUpstream::start(move |at| Some(if at % 2 == 0 { first() } else { then() })).await
            }
        };
        Self::Scripted(rude)
    }

    fn url(&self) -> &str {
        match self {
            Self::Scripted(rude) => &rude.url,
            Self::Closed { url, .. } => url,
        }
    }

    fn request_count(&self) -> usize {
        match self {
            Self::Scripted(rude) => rude.request_count(),
            Self::Closed { .. } => 0,
        }
    }
}

/// Calls a model and requests usage, so that the gateway relays every byte.
async fn call(row: &FaultRow, tenant: &Tenant, model: &str) -> Response {
    let body = chat(model, 40, row.stream);
    let options = r#"{"stream_options":{"include_usage":true},"#;
    let body = if row.stream { body.replacen('{', options, 1) } else { body };
    let answer = Request::chat(&tenant.key, body).try_send(&tenant.proxy).await;
    answer.unwrap_or_else(|error| panic!("{}: {error}", row.name))
}

/// Asserts that the client observes what the row specifies.
async fn assert_observed(row: &FaultRow, mut answer: Response) {
    let what = row.name;
    let source = answer.header("x-meteor-error-source").map(str::to_owned);
    let (status, expected) = match row.observed {
        Observed::GatewayError(status) => (status, Some("gateway")),
        Observed::UpstreamError(status) | Observed::Relayed(status) => (status, Some("upstream")),
        _ => (200, None),
    };
    assert_eq!((answer.status, source.as_deref()), (status, expected), "{what}");
    assert_eq!(answer.header("location"), None, "{what}");
    let has_retry_after = what == "429 with `Retry-After`";
    assert_eq!(answer.header("retry-after"), has_retry_after.then_some("7"), "{what}");
    if row.observed == Observed::Disconnects {
        for _ in 0..20 {
            answer.piece().await.expect(what).expect(what);
        }
        return;
    }
    let (body, ended) = answer.read_to_end().await;
    let body = String::from_utf8(body).expect(what);
    let is_whole = !matches!(row.observed, Observed::Cut | Observed::AllButEnd);
    assert_eq!(ended, is_whole, "{what}: {body}");
    match row.observed {
        Observed::UpstreamError(_) | Observed::GatewayError(_) => {
            assert!(!body.contains("Failed by plan"), "{what}: {body}");
        }
        _ => assert_eq!(body, (row.body)(), "{what}"),
    }
}

/// Asserts how the call is charged. Returns its cost.
async fn assert_charge(
    row: &FaultRow,
    tenant: &Tenant,
    id: &str,
    charged: Charged,
    usage: Usage,
) -> i128 {
    let what = row.name;
    let log = eventually(&format!("{what}: the call is logged"), async || {
        let logs = tenant.logs().await;
        logs.into_iter().find(|log| log.at("requestLogId").text() == id)
    })
    .await;
    let settled_by = match charged {
        Charged::Nothing => "none",
        Charged::Usage => "usage",
        Charged::Estimate => "estimate",
    };
    assert_eq!(log.at("settledBy").text(), settled_by, "{what}: {log}");
    let count = |unit: &str| log.at("usage").at(unit).count();
    let logged = Usage {
        cached: count("cachedInputTokens"),
        ..Usage::of(count("inputTokens"), count("outputTokens"))
    };
    let cost = match charged {
        Charged::Nothing => 0,
        Charged::Usage => GPT_4O_MINI.cost(usage),
        Charged::Estimate => {
            assert!(0 < logged.prompt, "{what}: the input is charged: {log}");
            assert!(logged.completion <= 40, "{what}: no more than the bound: {log}");
            GPT_4O_MINI.cost(logged)
        }
    };
    assert_eq!(log.at("cost").nano(), cost, "{what}: {log}");
    if charged != Charged::Nothing {
        assert_eq!(tenant.debit(id).await.at("amount").nano(), cost, "{what}");
    }
    cost
}

/// Checks one row with this provider alone and then with a healthy fallback.
async fn check_row(
    row: &FaultRow,
    index: usize,
    tenant: Tenant,
    provider: FaultyProvider,
    healthy: Arc<Upstream>,
) {
    let what = row.name;
    let connects = !matches!(row.behavior, Behavior::RefusesConnections);
    let answer = call(row, &tenant, &format!("alone-{index}")).await;
    let id = answer.id();
    assert_observed(row, answer).await;
    let mut cost = assert_charge(row, &tenant, &id, row.charged, USAGE).await;
    let request_count = usize::from(connects);
    assert_eq!(
        provider.request_count(),
        request_count,
        "{what}: the provider receives one request"
    );
    let mut requests = u64::from(connects);
    assert_eq!(attempts(&tenant, &id).await, 1, "{what}");
    if let (Behavior::Recovers(..), FaultyProvider::Scripted(rude)) = (&row.behavior, &provider) {
        let answer = call(row, &tenant, &format!("alone-{index}")).await;
        let id = answer.id();
        assert_eq!(answer.text().await, whole_body(), "{what}");
        cost += assert_charge(row, &tenant, &id, Charged::Usage, USAGE).await;
        assert_eq!(rude.request_count(), 2, "{what}");
        requests += 1;
    }

    let answer = call(row, &tenant, &format!("backed-{index}")).await;
    let id = answer.id();
    requests += 1;
    if row.retried {
        assert_eq!(answer.status, 200, "{what}");
        let expected = if row.stream {
            events(WORDS, Some(HEALTHY_USAGE)).concat()
        } else {
            completion(HEALTHY_USAGE)
        };
        assert_eq!(answer.text().await, expected, "{what}");
        cost += assert_charge(row, &tenant, &id, Charged::Usage, HEALTHY_USAGE).await;
    } else {
        assert_observed(row, answer).await;
        cost += assert_charge(row, &tenant, &id, row.charged, USAGE).await;
    }
    assert_eq!(attempts(&tenant, &id).await, 1 + u64::from(row.retried), "{what}");
    let fallback_requests = healthy
        .requests()
        .iter()
        .filter(|seen| seen.body.contains(&format!("backed-{index}\"")))
        .count();
    assert_eq!(fallback_requests, usize::from(row.retried), "{what}: requests to the fallback");
    let counted = tenant.usage().await.at("dailyUsage.requestCount").count();
    // It is a race whether the request is being sent when the connection closes.
    let uncertain = u64::from(matches!(row.behavior, Behavior::ClosesConnection));
    assert!((requests - uncertain..=requests).contains(&counted), "{what}: {counted} requests");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS - cost, "{what}");
    tenant.assert_settled().await;
    if let FaultyProvider::Scripted(rude) = &provider {
        eventually(&format!("{what}: unused connections are closed"), async || {
            (rude.open_connections() <= 2).then_some(())
        })
        .await;
    }
}

async fn attempts(tenant: &Tenant, id: &str) -> u64 {
    tenant.log(id).await.at("attempts").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_upstream_fault_matches_its_table_row() {
    let healthy =
        Arc::new(Upstream::start(|seen| reply(seen, HEALTHY_USAGE, Duration::ZERO)).await);
    let mut rows = upstream("well", &healthy.url);
    let mut providers = Vec::new();
    for (index, row) in FAULTS.iter().enumerate() {
        let provider = FaultyProvider::start(row).await;
        // Two upstreams, because circuit and connections must not be shared.
        for name in ["alone", "backed"] {
            rows += &upstream(&format!("{name}-{index}"), provider.url());
            if row.short_timeouts {
                rows += "first_byte_timeout_ms = 300\nidle_timeout_ms = 300\n";
            }
        }
        rows += &model(&format!("alone-{index}"), &format!("upstream = \"alone-{index}\""));
        let targets = format!(
            r#"targets = [{{ upstream = "backed-{index}" }}, {{ upstream = "well", priority = 1 }}]"#
        );
        rows += &model(&format!("backed-{index}"), &targets);
        providers.push(provider);
    }
    let server = Server::start(ConfigDir::new(&rows)).await;
    let operator = server.tenant(0, "{}").await;
    let local_set = LocalSet::new();
    let mut tasks = Vec::new();
    for ((index, row), provider) in FAULTS.iter().enumerate().zip(providers) {
        let tenant = operator.create_tenant(&server, FUNDS, "{}").await;
        tasks.push(local_set.spawn_local(check_row(
            row,
            index,
            tenant,
            provider,
            Arc::clone(&healthy),
        )));
    }
    local_set.await;
    let mut failed = Vec::new();
    for (task, row) in tasks.into_iter().zip(FAULTS) {
        failed.extend(task.await.is_err().then_some(row.name));
    }
    assert!(failed.is_empty(), "these rows failed: {failed:?}");
}
