//! What recorded answers cost, against an oracle: each is replayed through the gateway at the price
//! list's own prices, and the package genai-prices says what that usage costs.
//!
//! Where the two differ, docs/prices.md has a line that says why; a difference without a line, and a
//! line without a difference, fail. Without recordings or packages this is skipped, and says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use crate::harness::client::Request;
use crate::harness::corpus::{corpus_folder, load_corpus};
use crate::harness::exchange::Exchange;
use crate::harness::json::Json;
use crate::harness::serve::{Place, Served, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Upstream};
use crate::sdk;

const PRICE_LIST: &str = include_str!("../../config/prices.toml");
const PRICES_PAGE: &str = include_str!("../../docs/prices.md");
const FUNDS: i128 = 1_000_000_000_000;
const INDEX_HEADER: &str = "x-stainless-replay";
/// The least number of comparisons that are worth the name of a proof.
const COMPARED_MIN: usize = 100;

/// The folders of recordings, by the names of providers in the list and in the oracle.
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

/// A recorded answer of a model that is priced.
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
                let named = |name: &str| format!("\"models/{name}\"");
                exchange.body = exchange.body.replace(&named(&model), &named(&id));
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

/// What was asked for; where nobody recorded that, what answered.
fn requested_model(exchange: &Exchange) -> Option<String> {
    if let Some((_, after)) = exchange.target.split_once("/models/") {
        return after.split_once(':').map(|(model, _)| model.to_owned());
    }
    let asked = Json::new(&exchange.body).find("model")?.text();
    if asked != "m" {
        return Some(asked);
    }
    let (_, after) = exchange.response_body.split_once("\"model\":")?;
    Some(after.trim_start().strip_prefix('"')?.split('"').next()?.to_owned())
}

/// The name of a model here: two providers may have one of the same name.
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
    let recordings = recordings.filter(|own| own.is_original && own.exchange.status == 200);
    let recordings = recordings.map(|own| own.exchange);
    let priced: Vec<PricedExchange> = recordings.filter_map(PricedExchange::of).collect();
    let (served, tenant, _provider) = start_gateway(&priced).await;
    let logs = replay(&priced, &tenant).await;
    let facts: Vec<String> = logs.iter().map(|(at, log)| usage_fact(&priced[*at], log)).collect();
    let file = served.path("usages.json");
    std::fs::write(&file, format!("[{}]", facts.join(","))).expect("the folder can be written");
    let told = sdk::run_suite(command, &file.display().to_string()).await.list();
    assert_eq!(told.len(), logs.len());
    let mut differences: BTreeMap<String, String> = BTreeMap::new();
    for ((at, log), told) in logs.iter().zip(&told) {
        let PricedExchange { provider, model, exchange } = &priced[*at];
        let own = log.at("cost").nano();
        if told.to_string() != own.to_string() {
            let line = format!("{own} here, {told} there: {} {}", exchange.name, log.at("usage"));
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

/// A gateway with a row for each model, before a provider that answers as recorded.
async fn start_gateway(priced: &[PricedExchange]) -> (Served, Tenant, Upstream) {
    let answers: Vec<String> =
        priced.iter().map(|one| one.exchange.response_body.clone()).collect();
    let provider = Upstream::start(move |seen| {
        let mark = seen.header(INDEX_HEADER).expect("the mark passes");
        Plan::json(200, answers[mark.parse::<usize>().expect("an index")].as_bytes())
    })
    .await;
    let mut text = upstream("all", &provider.url);
    text += "dialects = [\"openai\", \"anthropic\", \"gemini\"]\ndedicated = true\n";
    let models: BTreeSet<_> = priced.iter().map(|one| (one.provider, &one.model)).collect();
    for (provider, model) in models {
        let id = model_id(provider, model);
        let row = format!("[[models]]\nid = \"{id}\"\nprice = \"{provider}/{model}\"\n");
        write!(text, "{row}upstream = \"all\"\nmax_output_tokens = 1000\n").expect("a text");
    }
    let served = Served::start(Place::new(&text)).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    (served, tenant, provider)
}

/// The request log of each that was settled by a report of usage.
async fn replay(priced: &[PricedExchange], tenant: &Tenant) -> Vec<(usize, Json)> {
    let mut ids = Vec::new();
    for (index, one) in priced.iter().enumerate() {
        let answer = one.request(index, &tenant.key).send(&tenant.proxy).await;
        let (status, id) = (answer.status, answer.id());
        let text = answer.text().await;
        if status == 404 {
            println!("left out: {} names a second model", one.exchange.name);
            continue;
        }
        assert_eq!(status, 200, "{}: {text}", one.exchange.name);
        ids.push((index, id));
    }
    let logs = tenant.logs().await;
    let by_id: HashMap<String, &Json> =
        logs.iter().map(|log| (log.at("requestLogId").text(), log)).collect();
    let settled = |(index, id): (usize, String)| {
        let log = (*by_id.get(&id).expect("it is in the log")).clone();
        (log.at("settledBy").text() == "usage").then_some((index, log))
    };
    ids.into_iter().filter_map(settled).collect()
}

fn usage_fact(one: &PricedExchange, log: &Json) -> String {
    let tier = log.find("serviceTier").filter(|tier| !tier.is_null());
    let tier = tier.map_or_else(String::new, |tier| tier.text());
    let PricedExchange { provider, model, .. } = one;
    let usage = log.at("usage");
    format!(r#"{{"provider":"{provider}","model":"{model}","tier":"{tier}","usage":{usage}}}"#)
}

/// The models in the documentation's table of differences.
fn explained_models() -> BTreeSet<&'static str> {
    let (_, table) = PRICES_PAGE.split_once("## Against an oracle").expect("the section");
    let lines = table.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('|').nth(1).expect("a first column").split('`'))
        .filter(|name| name.contains('/'))
        .collect()
}
