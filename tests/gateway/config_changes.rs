//! Changes of prices, models, quotas and keys during calls: a call settles by the configuration in
//! force at its admission, and removed settings do not come back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, WORDS, chat, completion, events};
use crate::harness::price::{GPT_4O, GPT_4O_MINI, Price};
use crate::harness::serve::{ConfigDir, Server, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Upstream};

const USAGE: Usage = Usage { prompt: 9, completion: 3, cached: 0, reasoning: 0 };
const CALLERS: usize = 200;
const FUNDS: i128 = 1_000_000_000_000;

/// A version of the configuration: the prices, and whether there is a second model.
struct ConfigVersion {
    price: &'static Price,
    prices: &'static str,
    has_second_model: bool,
}

const CHEAP: &str = r#"{ inputTokens = "0.15", outputTokens = "0.60" }"#;
const EXPENSIVE: &str = r#"{ inputTokens = "2.50", outputTokens = "10.00" }"#;

/// The versions, applied in turn.
const VERSIONS: [ConfigVersion; 3] = [
    ConfigVersion { price: &GPT_4O_MINI, prices: CHEAP, has_second_model: true },
    ConfigVersion { price: &GPT_4O, prices: EXPENSIVE, has_second_model: true },
    ConfigVersion { price: &GPT_4O, prices: EXPENSIVE, has_second_model: false },
];

/// Number of edits.
fn edit_count() -> usize {
    std::env::var("METEOR_EDITS").map_or(90, |edits| edits.parse().expect("a number of edits"))
}

fn config_rows(provider: &Upstream, version: &ConfigVersion) -> String {
    let row = |id: &str| {
        let prices = version.prices;
        format!(
            "[[models]]\nid = \"{id}\"\nupstream = \"fake\"\nmax_output_tokens = 100\n\
             prices = {prices}\n"
        )
    };
    let second = if version.has_second_model { row("second") } else { String::new() };
    upstream("fake", &provider.url) + &row("first") + &second
}

/// Even while one version is in force, odd while it is being replaced.
#[derive(Default)]
struct EditClock(AtomicUsize);

impl EditClock {
    fn read(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn tick(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A completed call: its id, and the clock before it was sent and after its head arrived.
struct ServedCall {
    id: String,
    from: usize,
    to: usize,
}

async fn call_until_stopped(
    tenant: Tenant,
    model: &'static str,
    clock: Arc<EditClock>,
    stop: Arc<AtomicBool>,
) -> (Vec<ServedCall>, usize) {
    let (mut server, mut refused) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let from = clock.read();
        let request = Request::chat(&tenant.key, chat(model, 30, true));
        let mut response = request.send(&tenant.proxy).await;
        let to = clock.read();
        match response.status {
            200 => {
                assert!(
                    response.read_to_end().await.1,
                    "an open call completes whatever is edited"
                );
                server.push(ServedCall { id: response.id(), from, to });
            }
            404 if model == "second" => refused += 1,
            401 | 429 => refused += 1,
            status => panic!("{status}: {}", response.text().await),
        }
        if response.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (server, refused)
}

/// Applies the edits; returns the version in force at clock 0, 2, 4, …
async fn apply_edits(
    (config_dir, provider): (&ConfigDir, &Upstream),
    tenant: &Tenant,
    clock: &EditClock,
    config_with: impl Fn(&str) -> String,
) -> Vec<usize> {
    let mut in_force = vec![0];
    for edit in 1..=edit_count() {
        let started = Instant::now();
        match edit % 3 {
            0 => {
                let next = edit / 3 % VERSIONS.len();
                clock.tick();
                config_dir
                    .write("gateway.toml", &config_with(&config_rows(provider, &VERSIONS[next])));
                tenant.post("/api/platform/reload", "").await;
                clock.tick();
                in_force.push(next);
            }
            1 => {
                let limit = if edit % 2 == 0 { "0" } else { "null" };
                tenant.set_quota(&format!(r#"{{"dailyRequestLimit":{limit}}}"#)).await;
                if limit == "0" {
                    assert_refused(tenant, 429).await;
                }
            }
            _ => {
                let enabled = edit % 2 == 0;
                let path = tenant.key_path("second").await;
                let body = format!(r#"{{"enabled":{enabled}}}"#);
                let response = tenant.send(Request::put(&path, body)).await;
                assert_eq!(response.status, 200);
            }
        }
        // A version is in force for twice as long as the edit took, however slow the machine is, so
        // that enough calls run under one version.
        tokio::time::sleep(2 * started.elapsed() + Duration::from_millis(5)).await;
    }
    in_force
}

async fn assert_refused(tenant: &Tenant, status: u16) {
    let request = Request::chat(&tenant.key, chat("first", 30, true));
    let response = FullResponse::read(request.send(&tenant.proxy).await).await;
    assert_eq!(response.status, status, "a confirmed edit is in force: {response:?}");
}

/// The price list that each debit names gives the debited amount again.
async fn assert_prices_recompute(tenant: &Tenant, records: &[Json]) {
    let is_debit = |record: &&Json| record.at("type").text() == "Consume";
    let consumed: Vec<&Json> = records.iter().filter(is_debit).collect();
    let versions: HashSet<String> =
        consumed.iter().map(|record| record.at("priceVersion").text()).collect();
    let mut lists = HashMap::new();
    for version in versions {
        let list = tenant.get(&format!("/api/price-lists/{version}")).await;
        lists.insert(version, Price::from_list(&list).cost(USAGE));
    }
    for record in consumed {
        let recomputed = lists[&record.at("priceVersion").text()];
        assert_eq!(
            recomputed,
            record.at("amount").nano(),
            "the named price list gives the same cost"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_settle_at_the_configuration_of_their_admission() {
    let provider =
        Upstream::start(|_| Plan::stream(events(WORDS, Some(USAGE)), Duration::from_millis(30)))
            .await;
    let config_dir = ConfigDir::new(&config_rows(&provider, &VERSIONS[0]))
        .with_env("METEOR__PROXY__WORKERS", "2");
    let file_text = std::fs::read_to_string(config_dir.path("gateway.toml")).expect("the file");
    let other_settings = file_text.replace(&config_rows(&provider, &VERSIONS[0]), "");
    let server = Server::start(config_dir.clone()).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    let other =
        Tenant { key: tenant.create_key(&server, r#"{"name":"second"}"#).await, ..tenant.clone() };

    let (clock, stop) = (Arc::new(EditClock::default()), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let caller_tenant = if n % 4 == 0 { other.clone() } else { tenant.clone() };
            let model = if n % 3 == 0 { "second" } else { "first" };
            tokio::spawn(call_until_stopped(
                caller_tenant,
                model,
                Arc::clone(&clock),
                Arc::clone(&stop),
            ))
        })
        .collect();
    let config_with = |rows: &str| format!("{other_settings}{rows}");
    let in_force = apply_edits((&config_dir, &provider), &tenant, &clock, config_with).await;
    tenant.set_quota("{}").await;
    stop.store(true, Ordering::Relaxed);
    let (mut calls, mut refusals) = (Vec::new(), 0);
    for caller in callers {
        let (server, refused) = caller.await.expect("a caller ends");
        calls.extend(server);
        refusals += refused;
    }
    tenant.assert_settled().await;
    assert!(CALLERS < calls.len() && 0 < refusals, "{} and {refusals}", calls.len());

    let records = tenant.records().await;
    let debits: HashMap<String, i128> = records
        .iter()
        .filter(|record| record.at("type").text() == "Consume")
        .map(|record| (record.at("requestLogId").text(), record.at("amount").nano()))
        .collect();
    assert_eq!(debits.len(), calls.len(), "every completed call has a debit");
    assert_prices_recompute(&tenant, &records).await;
    let mut certain = 0;
    for call in &calls {
        let possible_costs = in_force
            [call.from / 2..=(call.to.div_ceil(2)).min(in_force.len() - 1)]
            .iter()
            .map(|version| VERSIONS[*version].price.cost(USAGE));
        let (possible_costs, amount) = (possible_costs.collect::<Vec<_>>(), debits[&call.id]);
        assert!(possible_costs.contains(&amount), "{amount} while {}..={}", call.from, call.to);
        certain += usize::from(possible_costs.len() == 1);
    }
    assert!(calls.len() / 4 < certain, "{certain} of {}", calls.len());
    println!(
        "{} edits, {} calls, {certain} under one version, {refusals} refused",
        edit_count(),
        calls.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_file_changes_nothing() {
    let provider = Upstream::start(|_| Plan::json(200, completion(USAGE))).await;
    let config_dir = ConfigDir::new(&config_rows(&provider, &VERSIONS[0]));
    let file_text = std::fs::read_to_string(config_dir.path("gateway.toml")).expect("the file");
    let server = Server::start(config_dir.clone()).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    for (text, expected_text) in [
        (file_text.replace("0.15", "minus"), "inputTokens"),
        (file_text.replace("\"fake\"\nmax", "\"fale\"\nmax"), "fale"),
        (format!("[money]\ncurrency = \"EUR\"\n{file_text}"), "currency"),
    ] {
        config_dir.write("gateway.toml", &text.replace("0.60", "9.00"));
        let response = tenant.send(Request::post("/api/platform/reload", "")).await;
        let status = response.status;
        let error = response.json().await.at("error");
        assert_eq!(
            (status, &*error.at("reason").text()),
            (409, "invalid_configuration"),
            "{error}"
        );
        assert!(error.at("message").text().contains(expected_text), "{error}");
        let call = Request::chat(&tenant.key, chat("first", 30, false)).send(&tenant.proxy).await;
        let (status, id) = (call.status, call.id());
        assert_eq!(status, 200);
        assert!(call.text().await.contains("choices"));
        let amount = tenant.debit(&id).await.at("amount").nano();
        assert_eq!(amount, GPT_4O_MINI.cost(USAGE), "the price is unchanged");
    }
}
