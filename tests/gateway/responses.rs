//! Responses, the older completions, and what only counts or judges: metered, kept apart, free.

use std::time::Duration;

use crate::client::Request;
use crate::json::Json;
use crate::openai::Usage;
use crate::price::GPT_4O_MINI;
use crate::served::{Place, Served, model, upstream};
use crate::tenant::Tenant;
use crate::upstream::{Plan, Seen, Upstream};

const FUNDS: i128 = 1_000_000_000;
const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 3 };

/// All of a response but its first fields; it names another model than the one it was asked of.
fn object(status: &str, usage: &str) -> String {
    format!(
        r#"{{"id":"resp_Fake1","object":"response","status":"{status}","model":"fake-2026","service_tier":"default","output":[{{"type":"message","content":[]}}],"usage":{usage},"store":true}}"#
    )
}

fn told() -> String {
    let Usage { prompt, completion, cached, reasoning } = USAGE;
    format!(
        r#"{{"input_tokens":{prompt},"input_tokens_details":{{"cached_tokens":{cached}}},"output_tokens":{completion},"output_tokens_details":{{"reasoning_tokens":{reasoning}}},"total_tokens":{}}}"#,
        USAGE.total()
    )
}

fn event(kind: &str, field: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{field}}}\n\n")
}

fn events(last: &str, usage: &str) -> Vec<String> {
    let started = format!(r#""response":{}"#, object("in_progress", "null"));
    let ended = format!(r#""response":{}"#, object(last, usage));
    vec![
        event("response.created", &started),
        event("response.output_text.delta", r#""delta":"one two three""#),
        event(&format!("response.{last}"), &ended),
    ]
}

/// A response whose tools painted twice, searched files and ran code.
fn worked() -> String {
    let item = |kind: &str| format!(r#"{{"id":"i","type":"{kind}","status":"completed"}},"#);
    let items = ["image_generation_call", "image_generation_call", "file_search_call"].map(item);
    let ran = item("code_interpreter_call").repeat(2);
    let said = object("completed", &told());
    said.replacen(r#""output":["#, &format!(r#""output":[{}{ran}"#, items.concat()), 1)
}

/// Fails where it is asked to.
fn reply(seen: &Seen) -> Plan {
    let (stream, fails) = (seen.wants("stream"), seen.body.contains("Fail."));
    match seen.target.as_str() {
        "/v1/completions" => {
            let word = "data: {\"choices\":[{\"index\":0,\"text\":\"one two\"}]}\n\n";
            let asked = seen.wants("stream_options.include_usage");
            let usage =
                r#"data: {"choices":[],"usage":{"prompt_tokens":14,"completion_tokens":6}}"#;
            let usage = if asked && !fails { format!("{usage}\n\n") } else { String::new() };
            Plan::stream([word.to_owned(), usage + "data: [DONE]\n\n"], Duration::ZERO)
        }
        "/v1/moderations" => Plan::json(200, r#"{"id":"modr-1","results":[{"flagged":false}]}"#),
        "/v1/responses/input_tokens" => {
            Plan::json(200, r#"{"object":"response.input_tokens","input_tokens":14}"#)
        }
        _ if seen.body.contains("file_search") => Plan::json(200, worked()),
        _ if stream && fails => Plan::stream(events("failed", "null"), Duration::ZERO),
        _ if stream => Plan::stream(events("completed", &told()), Duration::ZERO),
        _ => Plan::json(200, object("completed", &told())),
    }
}

async fn scene(funds: i128) -> (Served, Tenant, Upstream) {
    let provider = Upstream::start(reply).await;
    let rows = upstream("all", &provider.url)
        + &model("m", "upstream = \"all\"")
        + "[[models]]\nid = \"painter\"\nupstream = \"all\"\nmax_output_tokens = 100\n\
           prices = { inputTokens = 0, outputTokens = 0, images = \"0.04\", codeSessions = \"0.03\" }\n"
        + &model("omni-moderation-latest", "upstream = \"all\"");
    let served = Served::start(Place::new(&rows)).await;
    let tenant = served.tenant(funds, "{}").await;
    (served, tenant, provider)
}

/// What is answered, and what the log has of it.
async fn call(tenant: &Tenant, target: &str, body: &str) -> (u16, String, Json) {
    let answer = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
    let (status, id) = (answer.status, answer.id());
    let text = answer.text().await;
    (status, text, tenant.log(&id).await)
}

fn asked(rest: &str) -> String {
    format!(r#"{{"model":"m","input":"Say hello.","max_output_tokens":20{rest}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_35_a_response_is_priced_as_the_model_that_was_asked_for() {
    let (_served, tenant, provider) = scene(FUNDS).await;
    let streamed = events("completed", &told()).concat();
    for (rest, said) in [("", object("completed", &told())), (r#","stream":true"#, streamed)] {
        let (status, text, log) = call(&tenant, "/v1/responses", &asked(rest)).await;
        assert_eq!((status, text), (200, said));
        assert_eq!(provider.seen().pop().expect("the call").body, asked(rest), "nothing is added");
        assert_eq!(
            (log.at("model").text(), log.at("settledBy").text()),
            ("m".into(), "usage".into())
        );
        assert_eq!(log.at("usage.reasoningTokens").count(), USAGE.reasoning, "{log}");
        let debit = tenant.debit(&log.at("requestLogId").text()).await;
        assert_eq!(debit.at("amount").nano().abs(), GPT_4O_MINI.cost(USAGE), "{debit}");
    }
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hosted_tools_do_is_paid_by_the_piece_and_refused_or_told_without_a_price() {
    let (served, tenant, provider) = scene(FUNDS).await;
    let tools = r#","max_tool_calls":3,"tools":[{"type":"image_generation"},
        {"type":"code_interpreter","container":{"type":"auto"}},{"type":"file_search"}]"#;
    let (status, text, _) = call(&tenant, "/v1/responses", &asked(tools)).await;
    assert_eq!((status, provider.count()), (400, 0), "no price for images: {text}");
    let body = asked(tools).replacen(r#""m""#, r#""painter""#, 1);
    let (status, _, log) = call(&tenant, "/v1/responses", &body).await;
    assert_eq!(status, 200);
    for (unit, count) in [("images", 2), ("fileSearches", 1), ("codeSessions", 1)] {
        assert_eq!(log.at(&format!("usage.{unit}")).count(), count, "{log}");
    }
    assert_eq!(log.at("cost").nano(), 2 * 40_000_000 + 30_000_000);
    let metrics = Request::get("/metrics").send(&served.admin).await.text().await;
    assert!(metrics.contains("\nmeteor_unpriced_total 1\n"), "files have no price: {metrics}");
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_failed_is_counted_and_logged_so() {
    let (_served, tenant, _provider) = scene(FUNDS).await;
    let body = asked(r#","stream":true"#).replace("Say hello.", "Fail.");
    let (_, text, log) = call(&tenant, "/v1/responses", &body).await;
    assert_eq!(text, events("failed", "null").concat());
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
    assert!(0 < log.at("usage.outputTokens").count(), "{log}");
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_given_a_response_may_go_on_from_it_and_nobody_else() {
    let (served, tenant, _provider) = scene(FUNDS).await;
    let other = tenant.found(&served, FUNDS, "{}").await;
    let next = asked(r#","previous_response_id":"resp_Fake1""#);
    let path = "/v1/responses";
    let (status, text, _) = call(&tenant, path, &next).await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(call(&tenant, path, &asked(r#","stream":true"#)).await.0, 200);
    let (status, text, _) = call(&tenant, path, &next).await;
    assert_eq!(status, 200, "{text}");
    let (status, text, _) = call(&other, path, &next).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("`previous_response_id` refers to state kept"), "{text}");
    tenant.at_rest().await;
    other.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_tells_its_usage_to_the_gateway_alone_or_is_counted() {
    let (_served, tenant, _provider) = scene(FUNDS).await;
    let body = r#"{"model":"m","prompt":["a","b"],"stream":true}"#;
    let seen = "data: {\"choices\":[{\"index\":0,\"text\":\"one two\"}]}\n\ndata: [DONE]\n\n";
    let (status, text, log) = call(&tenant, "/v1/completions", body).await;
    assert_eq!((status, text.as_str()), (200, seen));
    assert_eq!(log.at("settledBy").text(), "usage", "{log}");
    assert_eq!(log.at("usage.outputTokens").count(), 6, "{log}");
    let silent = body.replace("\"a\"", "\"Fail.\"");
    let (_, text, log) = call(&tenant, "/v1/completions", &silent).await;
    assert_eq!(text, seen);
    assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
    assert_eq!(log.at("usage.outputTokens").count(), 2, "{log}");
    tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_count_and_to_judge_costs_a_request_and_no_money() {
    let (_served, tenant, provider) = scene(0).await;
    let judged = r#"{"input":"x"}"#;
    let counted = asked("");
    for (target, body) in
        [("/v1/moderations", judged), ("/v1/responses/input_tokens", counted.as_str())]
    {
        let (status, text, log) = call(&tenant, target, body).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
        assert_eq!(provider.seen().pop().expect("the call").body, body);
    }
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 2);
    assert!(tenant.records().await.is_empty());
    let (status, text, _) = call(&tenant, "/v1/responses", &counted).await;
    assert_eq!(status, 402, "{text}");
    tenant.at_rest().await;
}
