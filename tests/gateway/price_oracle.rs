//! Compares the cost of recorded responses with an oracle: each is replayed through the gateway at
//! the prices of the price list, and the package genai-prices computes the cost of the same usage.
//!
//! docs/prices.md explains each difference; an unexplained difference and an explanation without
//! one fail. Without recordings or packages the test is skipped and prints so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use crate::harness::client::Request;
use crate::harness::corpus::{corpus_folder, load_corpus};
use crate::harness::exchange::Exchange;
use crate::harness::json::Json;
use crate::harness::serve::{ConfigDir, Server, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Upstream};
use crate::sdk;

const PRICE_LIST: &str = include_str!("../../config/prices.toml");
const PRICES_PAGE: &str = include_str!("../../docs/prices.md");
const FUNDS: i128 = 1_000_000_000_000;
const INDEX_HEADER: &str = "x-stainless-replay";
/// Minimum number of comparisons.
const COMPARED_MIN: usize = 100;

/// Each folder of recordings with the provider name in the price list and the oracle.
const PROVIDERS: [(&str, &str); 15] = [
    ("anthropic", "anthropic"),
    ("azure-openai", "azure"),
    ("cerebras", "cerebras"),
    ("deepseek", "deepseek"),
    ("google", "google"),
    ("groq", "groq"),
    ("mistral", "mistral"),
    ("moonshotai", "moonshotai"),
    ("openai", "openai"),
    ("openrouter", "openrouter"),
    ("together", "together"),
    ("vertex", "google"),
    ("voyage", "voyageai"),
    ("xai", "x-ai"),
    ("zai", "zai"),
];

/// A recorded exchange with a model that has a price.
struct PricedExchange {
    provider: &'static str,
    model: String,
    exchange: Exchange,
}

impl PricedExchange {
    fn of(mut exchange: Exchange) -> Option<Self> {
        let (folder, _) = exchange.name.split_once('/')?;
        let (_, provider) = PROVIDERS.iter().find(|(name, _)| *name == folder)?;
        let model = requested_model(&exchange)?;
        let id = model_id(provider, &model);
        match exchange.target.split_once("/models/") {
            Some((before, after)) => {
                let (_, verb) = after.split_once(':')?;
                exchange.target = format!("{before}/models/{id}:{verb}");
                let quoted = |name: &str| format!("\"models/{name}\"");
                exchange.body = exchange.body.replace(&quoted(&model), &quoted(&id));
            }
            None => {
                let old = Json::new(&exchange.body).find("model")?.to_string();
                exchange.body = exchange.body.replacen(&old, &format!("\"{id}\""), 1);
            }
        }
        is_listed(provider, &model).then_some(Self { provider, model, exchange })
    }

    fn request(&self, index: usize, key: &str) -> Request {
        let exchange = &self.exchange;
        let request = Request::post(&exchange.target, &exchange.body);
        let headers = exchange.headers.iter().map(|(name, value)| (&**name, &**value));
        headers
            .chain([(INDEX_HEADER, &*index.to_string())])
            .fold(request, |request, (name, value)| {
                request.without_header(name).header(name, value)
            })
            .bearer(key)
    }
}

/// The requested model, or the answering one if the request was not recorded.
fn requested_model(exchange: &Exchange) -> Option<String> {
    if let Some((_, after)) = exchange.target.split_once("/models/") {
        return after.split_once(':').map(|(model, _)| model.to_owned());
    }
    let model_name = Json::new(&exchange.body).find("model")?.text();
    if model_name != "m" {
        return Some(model_name);
    }
    let (_, after) = exchange.response_body.split_once("\"model\":")?;
    Some(after.trim_start().strip_prefix('"')?.split('"').next()?.to_owned())
}

/// A model id that is unique across providers, which may share model names.
fn model_id(provider: &str, model: &str) -> String {
    format!("{provider}~{model}")
}

fn is_listed(provider: &str, model: &str) -> bool {
    let provider = format!("provider = \"{provider}\"\n");
    let model = format!("\"{model}\"");
    PRICE_LIST.split("[[models]]\n").any(|row| row.starts_with(&provider) && row.contains(&model))
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_cost_what_the_oracle_computes() {
    let (Some(folder), Some(command)) =
        (corpus_folder(), sdk::suite_command("python", "price_oracle.py"))
    else {
        println!("skipped: no recordings, or no packages");
        return;
    };
    let recordings = load_corpus(&folder).await.recordings.into_iter();
    let recordings = recordings
        .filter(|gateway_cost| gateway_cost.is_original && gateway_cost.exchange.status == 200);
    let recordings = recordings.map(|gateway_cost| gateway_cost.exchange);
    let priced: Vec<PricedExchange> = recordings.filter_map(PricedExchange::of).collect();
    let (server, tenant, _provider) = start_gateway(&priced).await;
    let logs = replay(&priced, &tenant).await;
    let facts: Vec<String> =
        logs.iter().map(|(index, log)| usage_fact(&priced[*index], log)).collect();
    let file = server.path("usages.json");
    std::fs::write(&file, format!("[{}]", facts.join(","))).expect("the folder can be written");
    let oracle_cost = sdk::run_suite(command, &file.display().to_string()).await.list();
    assert_eq!(oracle_cost.len(), logs.len());
    let mut differences: BTreeMap<String, String> = BTreeMap::new();
    for ((index, log), oracle_cost) in logs.iter().zip(&oracle_cost) {
        let PricedExchange { provider, model, exchange } = &priced[*index];
        let gateway_cost = log.at("cost").nano();
        if oracle_cost.to_string() != gateway_cost.to_string() {
            let line = format!(
                "gateway {gateway_cost}, oracle {oracle_cost}: {} {}",
                exchange.name,
                log.at("usage")
            );
            differences.insert(format!("{provider}/{model}"), line);
        }
    }
    println!("{} compared, of {} models with a difference:", logs.len(), differences.len());
    for (model, line) in &differences {
        println!("{model}: {line}");
    }
    assert!(COMPARED_MIN <= logs.len(), "only {} were compared", logs.len());
    let found: BTreeSet<&str> = differences.keys().map(String::as_str).collect();
    assert_eq!(
        found,
        explained_models(),
        "docs/prices.md explains each difference, and only these"
    );
}

/// Starts a gateway with a row for each model in front of a provider that answers as recorded.
async fn start_gateway(priced: &[PricedExchange]) -> (Server, Tenant, Upstream) {
    let answers: Vec<String> =
        priced.iter().map(|exchange| exchange.exchange.response_body.clone()).collect();
    let provider = Upstream::start(move |seen| {
        let mark = seen.header(INDEX_HEADER).expect("the index header is forwarded");
        Plan::json(200, answers[mark.parse::<usize>().expect("an index")].as_bytes())
    })
    .await;
    let mut text = upstream("all", &provider.url);
    text += "dialects = [\"openai\", \"anthropic\", \"gemini\"]\ndedicated = true\n";
    let models: BTreeSet<_> =
        priced.iter().map(|exchange| (exchange.provider, &exchange.model)).collect();
    for (provider, model) in models {
        let id = model_id(provider, model);
        let row = format!("[[models]]\nid = \"{id}\"\nprice = \"{provider}/{model}\"\n");
        write!(text, "{row}upstream = \"all\"\nmax_output_tokens = 1000\n").expect("a text");
    }
    let server = Server::start(ConfigDir::new(&text)).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    (server, tenant, provider)
}

/// Replays each exchange. Returns the log entries of those settled by reported usage.
async fn replay(priced: &[PricedExchange], tenant: &Tenant) -> Vec<(usize, Json)> {
    let mut ids = Vec::new();
    for (index, exchange) in priced.iter().enumerate() {
        let answer = exchange.request(index, &tenant.key).send(&tenant.proxy).await;
        let (status, id) = (answer.status, answer.id());
        let text = answer.text().await;
        if status == 404 {
            println!("left out: {} names a second model", exchange.exchange.name);
            continue;
        }
        assert_eq!(status, 200, "{}: {text}", exchange.exchange.name);
        ids.push((index, id));
    }
    let logs = tenant.logs().await;
    let by_id: HashMap<String, &Json> =
        logs.iter().map(|log| (log.at("requestLogId").text(), log)).collect();
    let settled = |(index, id): (usize, String)| {
        let log = (*by_id.get(&id).expect("the call is in the log")).clone();
        (log.at("settledBy").text() == "usage").then_some((index, log))
    };
    ids.into_iter().filter_map(settled).collect()
}

fn usage_fact(exchange: &PricedExchange, log: &Json) -> String {
    let tier = log.find("serviceTier").filter(|tier| !tier.is_null());
    let tier = tier.map_or_else(String::new, |tier| tier.text());
    let PricedExchange { provider, model, .. } = exchange;
    let usage = log.at("usage");
    format!(r#"{{"provider":"{provider}","model":"{model}","tier":"{tier}","usage":{usage}}}"#)
}

/// The models in the table of differences in docs/prices.md.
fn explained_models() -> BTreeSet<&'static str> {
    let (_, table) =
        PRICES_PAGE.split_once("## Comparison with genai-prices").expect("the section");
    let lines = table.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('|').nth(1).expect("a first column").split('`'))
        .filter(|name| name.contains('/'))
        .collect()
}
