//! The price list: a listed model needs only its name, and usage without a price is reported.

use std::time::Duration;

use crate::harness::anthropic;
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai;
use crate::harness::openai::chat;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::upstream::{Plan, Upstream};
use crate::harness::usage_oracle;
use crate::harness::usage_oracle::{PriceRow, UnitCounts};

const FUNDS: i128 = 100_000_000_000;
const USAGE: openai::Usage =
    openai::Usage { prompt: 1_000, completion: 30, cached: 400, reasoning: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_model_needs_only_its_name() {
    let provider = Upstream::start(|seen| openai::reply(seen, USAGE, Duration::ZERO)).await;
    let text = upstream("all", &provider.url)
        + "provider = \"openai\"\n[[models]]\nid = \"mini\"\nupstream = \"all\"\n\
           upstream_model = \"gpt-4o-mini-2024-07-18\"\n";
    let server = Server::start(ConfigDir::new(&text)).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    let response = Request::chat(&tenant.key, chat("mini", 50, false)).send(&server.proxy).await;
    assert_eq!(response.status, 200);
    let log = tenant.log(&response.id()).await;
    assert_eq!(log.at("cost").nano(), GPT_4O_MINI.cost(USAGE));
    let models = tenant.get("/api/models").await;
    let [model] = &models.at("data").list()[..] else { panic!("one model: {models}") };
    assert_eq!((model.at("id").text(), models.at("total").count()), ("mini".to_owned(), 1));
    let prices = &model.at("prices").list()[0];
    assert_eq!(prices.at("priceVersion").text(), log.at("priceVersion").text());
    let row = &prices.at("rows").list()[0];
    assert_eq!(row.at("serviceTier").text(), "default");
    assert_eq!(row.at("prices.inputTokens").text(), "0.15");
    assert!(!models.to_string().contains("all"), "upstream names are not shown: {models}");
    assert_eq!(tenant.get("/api/models?page=2").await.at("data").list().len(), 0);
    tenant.assert_settled().await;
}

/// A price list with a tier by input size and prices for cached, audio and reasoning tokens.
const LIST: &str = "[[models]]\nprovider = 'own'\nid = 'm'\nmax_output_tokens = 100\n\
    prices = { inputTokens = '1.234567891', outputTokens = '7', cachedInputTokens = '0.1', \
    inputAudioTokens = '31.7', reasoningTokens = '9.000000001' }\n\
    tiers = [{ above_input_tokens = 500, prices = { inputTokens = '2.5', outputTokens = '8', \
    cachedInputTokens = '0.333333333', outputAudioTokens = '3' } }]\n";

fn price_rows() -> [PriceRow; 2] {
    let row = |above_input_tokens, prices: &[(&'static str, &str)]| {
        let prices = prices.iter().map(|(unit, price)| (*unit, (*price).to_owned()));
        PriceRow { tier: "default", above_input_tokens, prices: prices.collect() }
    };
    let small = [
        ("inputTokens", "1.234567891"),
        ("outputTokens", "7"),
        ("cachedInputTokens", "0.1"),
        ("inputAudioTokens", "31.7"),
        ("reasoningTokens", "9.000000001"),
    ];
    let large = [
        ("inputTokens", "2.5"),
        ("outputTokens", "8"),
        ("cachedInputTokens", "0.333333333"),
        ("outputAudioTokens", "3"),
    ];
    [row(0, &small), row(500, &large)]
}

/// A different count of each unit per call. Every other call has more than 500 input tokens.
fn unit_counts(call: u64) -> UnitCounts {
    let plain = if call.is_multiple_of(2) { 3 * call } else { 600 + call };
    vec![
        ("inputTokens", plain),
        ("cachedInputTokens", 5 * call + 1),
        ("inputAudioTokens", 2 * call),
        ("outputTokens", 7 + call),
        ("reasoningTokens", 11 * call),
        ("outputAudioTokens", call % 3),
    ]
}

fn response_body(counts: &UnitCounts) -> String {
    let of = |unit| usage_oracle::total(counts, unit);
    let (input, output) = (of("inputTokens"), of("outputTokens"));
    format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[],"usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{},"audio_tokens":{}}},"completion_tokens_details":{{"reasoning_tokens":{},"audio_tokens":{}}}}}}}"#,
        input + output,
        of("cachedInputTokens"),
        of("inputAudioTokens"),
        of("reasoningTokens"),
        of("outputAudioTokens"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn call_costs_match_the_usage_oracle() {
    let provider = Upstream::start(|seen| {
        let call = seen.json().at("seed").count();
        Plan::json(200, response_body(&unit_counts(call)))
    })
    .await;
    let config_dir = ConfigDir::new("");
    let list_file = config_dir.write("list.toml", LIST);
    let text = std::fs::read_to_string(config_dir.path("gateway.toml")).expect("the file");
    let rows_of_file = upstream("all", &provider.url)
        + "provider = \"own\"\n[[models]]\nid = \"m\"\nupstream = \"all\"\n";
    let prices = format!("[prices]\nfile = \"{}\"\n", list_file.display());
    config_dir.write("gateway.toml", &(text + &prices + &rows_of_file));
    let server = Server::start(config_dir).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    for call in 0..40 {
        let body = format!(r#"{{"model":"m","seed":{call},"messages":[]}}"#);
        let response = Request::chat(&tenant.key, body).send(&server.proxy).await;
        let log = tenant.log(&response.id()).await;
        let cost = usage_oracle::cost(&price_rows(), "default", &unit_counts(call));
        assert_eq!(log.at("cost").nano(), cost, "call {call}: {}", log.at("usage"));
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_without_a_price_is_logged_and_counted() {
    let usage = openai::Usage { cached: 0, ..USAGE };
    let provider = Upstream::start(move |_| {
        let searches = r#""server_tool_use":{"web_search_requests":2},"service_tier""#;
        Plan::json(
            200,
            anthropic::complete_message(usage).replacen(r#""service_tier""#, searches, 1),
        )
    })
    .await;
    let text = upstream("all", &provider.url) + "dialects = [\"anthropic\"]\n";
    let server = Server::start(ConfigDir::new(&(text + &model("m", "upstream = \"all\"")))).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    let body = anthropic::message("m", Some(50), false);
    let response =
        Request::post("/v1/messages", body).bearer(&tenant.key).send(&server.proxy).await;
    let log = tenant.log(&response.id()).await;
    assert_eq!(log.at("usage.webSearches").count(), 2);
    let metrics = Request::get("/metrics").send(&server.admin).await.text().await;
    assert!(metrics.contains("\nmeteor_unpriced_total 1\n"), "{metrics}");
    let log_of_the_gateway = server.log();
    let line = log_of_the_gateway
        .lines()
        .find(|line| line.contains("usage without a price was not charged"));
    let line = Json::new(line.expect("a line"));
    assert_eq!(line.at("level").text(), "WARN");
    assert_eq!(line.at("fields.unit").text(), "webSearches");
    assert_eq!(line.at("fields.call").text(), log.at("requestLogId").text());
}

#[test]
fn a_model_without_a_price_fails_check_with_advice() {
    let row = upstream("all", "http://127.0.0.1:1") + "provider = \"openai\"\n";
    let text = row + "[[models]]\nid = \"gpt-0\"\nupstream = \"all\"\nmax_output_tokens = 9\n";
    let output = ConfigDir::new(&text).run(&["check"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in ["models.0.prices", "openai/gpt-0", "price = \"provider/id\""] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}
