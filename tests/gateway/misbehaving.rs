//! A provider misbehaves as each row of `misbehaviours` says, and the rest of the row is so.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;

use crate::client::{Answer, Request};
use crate::misbehaviours::{Charged, Does, ROWS, Row, Sees, USAGE, whole};
use crate::openai::{Usage, WORDS, chat, completion, events, reply};
use crate::price::GPT_4O_MINI;
use crate::served::{Place, Served, model, upstream};
use crate::tenant::Tenant;
use crate::upstream::{Upstream, closed_port};
use crate::wait::eventually;
use crate::wire::Rude;

/// What the other one uses, which is well.
const WELL: Usage = Usage { prompt: 13, completion: 5, cached: 1, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

/// A provider as its row says, and where it is.
enum Provider {
    Rude(Rude),
    Closed { _port: tokio::net::TcpSocket, url: String },
}

impl Provider {
    async fn of(row: &Row) -> Self {
        let rude = match row.does {
            Does::RefusesConnections => {
                let (port, url) = closed_port();
                return Self::Closed { _port: port, url };
            }
            Does::ClosesAtOnce => Rude::start(|_| None).await,
            Does::Acts(acts) => Rude::start(move |_| Some(acts())).await,
            // Of each pair of connections the second goes well.
            Does::Recovers(first, then) => {
                Rude::start(move |at| Some(if at % 2 == 0 { first() } else { then() })).await
            }
        };
        Self::Rude(rude)
    }

    fn url(&self) -> &str {
        match self {
            Self::Rude(rude) => &rude.url,
            Self::Closed { url, .. } => url,
        }
    }

    fn asked(&self) -> usize {
        match self {
            Self::Rude(rude) => rude.asked(),
            Self::Closed { .. } => 0,
        }
    }
}

/// Calls a model whose client wants the usage too, so that every byte passes.
async fn call(row: &Row, tenant: &Tenant, model: &str) -> Answer {
    let body = chat(model, 40, row.stream);
    let options = r#"{"stream_options":{"include_usage":true},"#;
    let body = if row.stream { body.replacen('{', options, 1) } else { body };
    let answer = Request::chat(&tenant.key, body).try_send(&tenant.proxy).await;
    answer.unwrap_or_else(|fault| panic!("{}: {fault}", row.what))
}

/// Fails unless the client sees what the row says.
async fn seen(row: &Row, mut answer: Answer) {
    let what = row.what;
    let source = answer.header("x-meteor-error-source").map(str::to_owned);
    let (status, expected) = match row.sees {
        Sees::Fault(status) => (status, Some("gateway")),
        Sees::Own(status) | Sees::Theirs(status) => (status, Some("upstream")),
        _ => (200, None),
    };
    assert_eq!((answer.status, source.as_deref()), (status, expected), "{what}");
    assert_eq!(answer.header("location"), None, "{what}");
    let asks_for_time = what == "429 with `Retry-After`";
    assert_eq!(answer.header("retry-after"), asks_for_time.then_some("7"), "{what}");
    if row.sees == Sees::Leaves {
        for _ in 0..20 {
            answer.piece().await.expect(what).expect(what);
        }
        return;
    }
    let (body, ended) = answer.rest().await;
    let body = String::from_utf8(body).expect(what);
    let is_whole = !matches!(row.sees, Sees::Cut | Sees::AllButTheEnd);
    assert_eq!(ended, is_whole, "{what}: {body}");
    match row.sees {
        Sees::Own(_) | Sees::Fault(_) => {
            assert!(!body.contains("Failed by plan"), "{what}: {body}");
        }
        _ => assert_eq!(body, (row.body)(), "{what}"),
    }
}

/// Fails unless the call is charged so; gives what it costs.
async fn charged(row: &Row, tenant: &Tenant, id: &str, charged: Charged, usage: Usage) -> i128 {
    let what = row.what;
    let log = eventually(&format!("{what}: it is logged"), async || {
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
    let noted = Usage {
        cached: count("cachedInputTokens"),
        ..Usage::of(count("inputTokens"), count("outputTokens"))
    };
    let cost = match charged {
        Charged::Nothing => 0,
        Charged::Usage => GPT_4O_MINI.cost(usage),
        Charged::Estimate => {
            assert!(0 < noted.prompt, "{what}: the input was read: {log}");
            assert!(noted.completion <= 40, "{what}: no more than it asked for: {log}");
            GPT_4O_MINI.cost(noted)
        }
    };
    assert_eq!(log.at("cost").nano(), cost, "{what}: {log}");
    if charged != Charged::Nothing {
        assert_eq!(tenant.debit(id).await.at("amount").nano(), cost, "{what}");
    }
    cost
}

/// One row, with this provider alone and then with another one behind it.
async fn prove(row: &Row, at: usize, tenant: Tenant, provider: Provider, well: Arc<Upstream>) {
    let what = row.what;
    let connects = !matches!(row.does, Does::RefusesConnections);
    let answer = call(row, &tenant, &format!("alone-{at}")).await;
    let id = answer.id();
    seen(row, answer).await;
    let mut cost = charged(row, &tenant, &id, row.charged, USAGE).await;
    let asked = usize::from(connects);
    assert_eq!(provider.asked(), asked, "{what}: it is asked once");
    let mut requests = u64::from(connects);
    assert_eq!(attempts(&tenant, &id).await, 1, "{what}");
    if let (Does::Recovers(..), Provider::Rude(rude)) = (&row.does, &provider) {
        let answer = call(row, &tenant, &format!("alone-{at}")).await;
        let id = answer.id();
        assert_eq!(answer.text().await, whole(), "{what}");
        cost += charged(row, &tenant, &id, Charged::Usage, USAGE).await;
        assert_eq!(rude.asked(), 2, "{what}");
        requests += 1;
    }

    let answer = call(row, &tenant, &format!("backed-{at}")).await;
    let id = answer.id();
    requests += 1;
    if row.retried {
        assert_eq!(answer.status, 200, "{what}");
        let expected =
            if row.stream { events(WORDS, Some(WELL)).concat() } else { completion(WELL) };
        assert_eq!(answer.text().await, expected, "{what}");
        cost += charged(row, &tenant, &id, Charged::Usage, WELL).await;
    } else {
        seen(row, answer).await;
        cost += charged(row, &tenant, &id, row.charged, USAGE).await;
    }
    assert_eq!(attempts(&tenant, &id).await, 1 + u64::from(row.retried), "{what}");
    let others =
        well.seen().iter().filter(|seen| seen.body.contains(&format!("backed-{at}\""))).count();
    assert_eq!(others, usize::from(row.retried), "{what}: the other is asked once or not at all");
    let counted = tenant.usage().await.at("dailyUsage.requestCount").count();
    // Whether the request had begun to go out when the connection closed is for chance to say.
    let unsure = u64::from(matches!(row.does, Does::ClosesAtOnce));
    assert!((requests - unsure..=requests).contains(&counted), "{what}: {counted} requests");
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS - cost, "{what}");
    tenant.at_rest().await;
    if let Provider::Rude(rude) = &provider {
        eventually(&format!("{what}: no connection is left to hang"), async || {
            (rude.open() <= 2).then_some(())
        })
        .await;
    }
}

async fn attempts(tenant: &Tenant, id: &str) -> u64 {
    tenant.log(id).await.at("attempts").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_misbehaviour_is_seen_charged_and_retried_as_its_row_says() {
    let well = Arc::new(Upstream::start(|seen| reply(seen, WELL, Duration::ZERO)).await);
    let mut rows = upstream("well", &well.url);
    let mut providers = Vec::new();
    for (at, row) in ROWS.iter().enumerate() {
        let provider = Provider::of(row).await;
        // Two of them, so that neither the circuit nor the connections of one are the other's.
        for name in ["alone", "backed"] {
            rows += &upstream(&format!("{name}-{at}"), provider.url());
            if row.hasty {
                rows += "first_byte_timeout_ms = 300\nidle_timeout_ms = 300\n";
            }
        }
        rows += &model(&format!("alone-{at}"), &format!("upstream = \"alone-{at}\""));
        let targets = format!(
            r#"targets = [{{ upstream = "backed-{at}" }}, {{ upstream = "well", priority = 1 }}]"#
        );
        rows += &model(&format!("backed-{at}"), &targets);
        providers.push(provider);
    }
    let served = Served::start(Place::new(&rows)).await;
    let operator = served.tenant(0, "{}").await;
    let proofs = LocalSet::new();
    let mut begun = Vec::new();
    for ((at, row), provider) in ROWS.iter().enumerate().zip(providers) {
        let tenant = operator.found(&served, FUNDS, "{}").await;
        begun.push(proofs.spawn_local(prove(row, at, tenant, provider, Arc::clone(&well))));
    }
    proofs.await;
    let mut failed = Vec::new();
    for (proof, row) in begun.into_iter().zip(ROWS) {
        failed.extend(proof.await.is_err().then_some(row.what));
    }
    assert!(failed.is_empty(), "these do not hold: {failed:?}");
}
