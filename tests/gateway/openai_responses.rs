//! The OpenAI endpoints for responses, completions, token counts and moderations.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::Usage;
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};

const FUNDS: i128 = 1_000_000_000;
const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 3 };

/// A response object, which names another model than the requested one.
fn response_object(status: &str, usage: &str) -> String {
    format!(
        r#"{{"id":"resp_Fake1","object":"response","status":"{status}","model":"fake-2026","service_tier":"default","output":[{{"type":"message","content":[]}}],"usage":{usage},"store":true}}"#
    )
}

fn usage_object() -> String {
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
    let started = format!(r#""response":{}"#, response_object("in_progress", "null"));
    let ended = format!(r#""response":{}"#, response_object(last, usage));
    vec![
        event("response.created", &started),
        event("response.output_text.delta", r#""delta":"one two three""#),
        event(&format!("response.{last}"), &ended),
    ]
}

/// A response whose tools created two images, searched files and ran code.
fn tool_response() -> String {
    let item = |kind: &str| format!(r#"{{"id":"i","type":"{kind}","status":"completed"}},"#);
    let items = ["image_generation_call", "image_generation_call", "file_search_call"].map(item);
    let ran = item("code_interpreter_call").repeat(2);
    let response_text = response_object("completed", &usage_object());
    response_text.replacen(r#""output":["#, &format!(r#""output":[{}{ran}"#, items.concat()), 1)
}

/// Answers by path; fails if the body contains `Fail.`.
fn reply(seen: &ReceivedRequest) -> Plan {
    let (stream, fails) = (seen.is_set("stream"), seen.body.contains("Fail."));
    match seen.target.as_str() {
        "/v1/completions" => {
            let word = "data: {\"choices\":[{\"index\":0,\"text\":\"one two\"}]}\n\n";
            let wants_usage = seen.is_set("stream_options.include_usage");
            let usage =
                r#"data: {"choices":[],"usage":{"prompt_tokens":14,"completion_tokens":6}}"#;
            let usage = if wants_usage && !fails { format!("{usage}\n\n") } else { String::new() };
            Plan::stream([word.to_owned(), usage + "data: [DONE]\n\n"], Duration::ZERO)
        }
        "/v1/moderations" => Plan::json(200, r#"{"id":"modr-1","results":[{"flagged":false}]}"#),
        "/v1/responses/input_tokens" => {
            Plan::json(200, r#"{"object":"response.input_tokens","input_tokens":14}"#)
        }
        _ if seen.body.contains("file_search") => Plan::json(200, tool_response()),
        _ if stream && fails => Plan::stream(events("failed", "null"), Duration::ZERO),
        _ if stream => Plan::stream(events("completed", &usage_object()), Duration::ZERO),
        _ => Plan::json(200, response_object("completed", &usage_object())),
    }
}

async fn setup(funds: i128) -> (Server, Tenant, Upstream) {
    let provider = Upstream::start(reply).await;
    let rows = upstream("all", &provider.url)
        + &model("m", "upstream = \"all\"")
        + "[[models]]\nid = \"painter\"\nupstream = \"all\"\nmax_output_tokens = 100\n\
           prices = { inputTokens = 0, outputTokens = 0, images = \"0.04\", codeSessions = \"0.03\" }\n"
        + &model("omni-moderation-latest", "upstream = \"all\"");
    let served = Server::start(ConfigDir::new(&rows)).await;
    let tenant = served.tenant(funds, "{}").await;
    (served, tenant, provider)
}

/// The status, the body and the log entry of a call.
async fn call(tenant: &Tenant, target: &str, body: &str) -> (u16, String, Json) {
    let answer = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
    let (status, id) = (answer.status, answer.id());
    let text = answer.text().await;
    (status, text, tenant.log(&id).await)
}

fn request_body(rest: &str) -> String {
    format!(r#"{{"model":"m","input":"Say hello.","max_output_tokens":20{rest}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_priced_as_the_requested_model() {
    let (_served, tenant, provider) = setup(FUNDS).await;
    let streamed = events("completed", &usage_object()).concat();
    for (rest, expected) in
        [("", response_object("completed", &usage_object())), (r#","stream":true"#, streamed)]
    {
        let (status, text, log) = call(&tenant, "/v1/responses", &request_body(rest)).await;
        assert_eq!((status, text), (200, expected));
        assert_eq!(
            provider.requests().pop().expect("the call").body,
            request_body(rest),
            "the body is forwarded unchanged"
        );
        assert_eq!(
            (log.at("model").text(), log.at("settledBy").text()),
            ("m".into(), "usage".into())
        );
        assert_eq!(log.at("usage.reasoningTokens").count(), USAGE.reasoning, "{log}");
        let debit = tenant.debit(&log.at("requestLogId").text()).await;
        assert_eq!(debit.at("amount").nano().abs(), GPT_4O_MINI.cost(USAGE), "{debit}");
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosted_tools_are_billed_per_item_or_refused_if_unpriced() {
    let (served, tenant, provider) = setup(FUNDS).await;
    let tools = r#","max_tool_calls":3,"tools":[{"type":"image_generation"},
        {"type":"code_interpreter","container":{"type":"auto"}},{"type":"file_search"}]"#;
    let (status, text, _) = call(&tenant, "/v1/responses", &request_body(tools)).await;
    assert_eq!((status, provider.request_count()), (400, 0), "no price for images: {text}");
    let body = request_body(tools).replacen(r#""m""#, r#""painter""#, 1);
    let (status, _, log) = call(&tenant, "/v1/responses", &body).await;
    assert_eq!(status, 200);
    for (unit, count) in [("images", 2), ("fileSearches", 1), ("codeSessions", 1)] {
        assert_eq!(log.at(&format!("usage.{unit}")).count(), count, "{log}");
    }
    assert_eq!(log.at("cost").nano(), 2 * 40_000_000 + 30_000_000);
    let metrics = Request::get("/metrics").send(&served.admin).await.text().await;
    assert!(metrics.contains("\nmeteor_unpriced_total 1\n"), "files have no price: {metrics}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_response_is_estimated_and_logged_as_failed() {
    let (_served, tenant, _provider) = setup(FUNDS).await;
    let body = request_body(r#","stream":true"#).replace("Say hello.", "Fail.");
    let (_, text, log) = call(&tenant, "/v1/responses", &body).await;
    assert_eq!(text, events("failed", "null").concat());
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
    assert_eq!(log.at("settledBy").text(), "estimate", "{log}");
    assert!(0 < log.at("usage.outputTokens").count(), "{log}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_project_that_received_a_response_may_continue_it() {
    let (served, tenant, _provider) = setup(FUNDS).await;
    let other = tenant.create_tenant(&served, FUNDS, "{}").await;
    let next = request_body(r#","previous_response_id":"resp_Fake1""#);
    let path = "/v1/responses";
    let (status, text, _) = call(&tenant, path, &next).await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(call(&tenant, path, &request_body(r#","stream":true"#)).await.0, 200);
    let (status, text, _) = call(&tenant, path, &next).await;
    assert_eq!(status, 200, "{text}");
    let (status, text, _) = call(&other, path, &next).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("`previous_response_id` refers to state at the provider"), "{text}");
    tenant.assert_settled().await;
    other.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_is_charged_by_usage_or_estimated() {
    let (_served, tenant, _provider) = setup(FUNDS).await;
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
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_counts_and_moderations_cost_a_request_but_no_money() {
    let (_served, tenant, provider) = setup(0).await;
    let moderation = r#"{"input":"x"}"#;
    let input = request_body("");
    for (target, body) in
        [("/v1/moderations", moderation), ("/v1/responses/input_tokens", input.as_str())]
    {
        let (status, text, log) = call(&tenant, target, body).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
        assert_eq!(provider.requests().pop().expect("the call").body, body);
    }
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 2);
    assert!(tenant.records().await.is_empty());
    let (status, text, _) = call(&tenant, "/v1/responses", &input).await;
    assert_eq!(status, 402, "{text}");
    tenant.assert_settled().await;
}
