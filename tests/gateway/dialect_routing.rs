//! Three dialects at one listener: each call is forwarded unmodified to the path that it was sent
//! to.

use std::time::Duration;

use crate::harness::client::{Request, Response};
use crate::harness::demo::Gateway;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};
use crate::harness::{anthropic, gemini, openai};

const USAGE: Usage = Usage { prompt: 14, completion: 6, cached: 2, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
const DIALECTS: &str = "dialects = [\"openai\", \"anthropic\", \"gemini\"]\n";

pub fn reply(seen: &ReceivedRequest) -> Plan {
    reply_with(seen, USAGE)
}

/// Responds at once in the dialect of the path and reports this usage.
pub fn reply_with(seen: &ReceivedRequest, usage: Usage) -> Plan {
    let pace = Duration::ZERO;
    if seen.target.contains("/messages") {
        anthropic::reply(seen, usage, pace)
    } else if seen.target.contains("/models/") {
        gemini::reply(seen, usage, pace)
    } else {
        openai::reply(seen, usage, pace)
    }
}

/// All bytes of a response.
fn sent_bytes(plan: &Plan) -> Vec<u8> {
    let sends = plan.steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(&bytes[..]),
        _ => None,
    });
    sends.collect::<Vec<_>>().concat()
}

/// Starts a gateway whose models `plain`, `other` and `renamed` are served in every dialect.
pub async fn start_gateway(provider: &Upstream, more: &str) -> (Server, Tenant) {
    let rows = upstream("all", &provider.url)
        + DIALECTS
        + more
        + &model("plain", "upstream = \"all\"")
        + &model("other", "upstream = \"all\"")
        + &model("renamed", "upstream = \"all\"\nupstream_model = 'vendor/größe'");
    let server = Server::start(ConfigDir::new(&rows)).await;
    let tenant = server.tenant(FUNDS, "{}").await;
    (server, tenant)
}

/// Each path with an unusually formatted body, which must arrive unchanged.
fn sample_requests(model: &str) -> Vec<(String, String)> {
    let message = format!(
        "{{ \"messages\" : [{{\"role\":\"user\",\"content\":\"\\u00e9\"}}],\n\"max_tokens\":9 ,\"model\":\"{model}\"}}"
    );
    let contents = " {\n\"contents\" : [{\"parts\":[{\"text\":\"\\u00e9\"}]}] }".to_owned();
    let input = format!("{{ \"input\":[\"x\"] , \"model\":\"{model}\" }}");
    let counted = format!("{{\"generateContentRequest\":{{ \"model\": \"models/{model}\"}} }}");
    let content = r#""content":{"parts":[{"text":"x"}]}"#;
    let embed = format!("{{ {content}, \"model\" :\"{model}\" }}");
    let batch = format!(
        "{{ \"requests\":[{{\"model\":\"models/{model}\", {content}}},{{{content},\"model\":\"{model}\"}}]}}"
    );
    vec![
        ("/v1/chat/completions".to_owned(), message.clone()),
        ("/v1/embeddings".to_owned(), input),
        ("/v1/messages".to_owned(), message.clone()),
        ("/v1/messages?beta=true".to_owned(), message.clone()),
        ("/v1/messages/count_tokens?beta=true".to_owned(), message),
        (format!("/v1beta/models/{model}:generateContent"), contents.clone()),
        (format!("/v1/models/{model}:generateContent"), contents.clone()),
        (format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"), contents.clone()),
        (
            format!("/v1/models/{model}:streamGenerateContent?$alt=json;enum-encoding=int"),
            contents.clone(),
        ),
        (format!("/v1beta/models/{model}:countTokens"), contents),
        (format!("/v1beta/models/{model}:countTokens"), counted),
        (format!("/v1beta/models/{model}:embedContent"), embed),
        (format!("/v1/models/{model}:batchEmbedContents"), batch),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_responses_pass_unmodified_on_every_path() {
    let provider = Upstream::start(reply).await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for (target, body) in sample_requests("plain") {
        let request = Request::post(&target, &body).header("x-api-key", &tenant.key);
        let request =
            request.header("anthropic-beta", "one,two").header("anthropic-unknown", "value");
        let response = request.send(&tenant.proxy).await;
        assert_eq!(response.status, 200, "{target}");
        let text = response.text().await;
        let seen = provider.requests().pop().expect("the call");
        assert_eq!((&seen.target, &seen.body), (&target, &body));
        assert_eq!(text.as_bytes(), sent_bytes(&reply(&seen)), "{target}");
        assert_eq!(seen.header("anthropic-beta"), Some("one,two"));
        assert_eq!(seen.header("anthropic-unknown"), Some("value"));
    }
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 13);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_model_names_replace_public_ones_in_body_and_path() {
    let provider = Upstream::start(reply).await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let escaped = "vendor%2Fgr%C3%B6%C3%9Fe";
    let upstream_name = "vendor/größe";
    let requests = sample_requests("renamed").into_iter();
    // The same path with an escaped character.
    let escaped_target = "/v1beta/models/ren%61med:generateContent".to_owned();
    for (target, body) in requests.chain([(escaped_target, gemini::contents(Some(9)))]) {
        let request = Request::post(&target, &body).bearer(&tenant.key);
        let response = request.send(&tenant.proxy).await;
        let (status, id) = (response.status, response.id());
        assert_eq!(status, 200, "{target}: {}", response.text().await);
        response.text().await;
        let seen = provider.requests().pop().expect("the call");
        let target = target.replace("ren%61med", "renamed");
        assert_eq!(seen.target, target.replace("renamed", escaped));
        assert_eq!(seen.body, body.replace("renamed", upstream_name), "{target}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("model").text(), "renamed", "{log}");
        assert_eq!(log.at("upstreamModel").text(), upstream_name, "{log}");
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_counting_uses_a_request_but_neither_tokens_nor_money() {
    let provider = Upstream::start(reply).await;
    let rows = upstream("all", &provider.url) + DIALECTS + &model("m", "upstream = \"all\"");
    let server = Server::start(ConfigDir::new(&rows)).await;
    // The wallet is empty, and the daily token limit is 0.
    let tenant = server.tenant(0, r#"{"dailyTokenLimit":0,"dailyRequestLimit":2}"#).await;
    let targets = ["/v1/messages/count_tokens", "/v1beta/models/m:countTokens"];
    for target in targets {
        let body = anthropic::message("m", None, false);
        let response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        let (status, id) = (response.status, response.id());
        let text = response.text().await;
        assert_eq!(status, 200, "{text}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("outcome").text(), "Completed", "{log}");
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
        assert_eq!(log.at("status").count(), 200, "{log}");
    }
    let usage = tenant.usage().await;
    assert_eq!(usage.at("dailyUsage.requestCount").count(), 2, "{usage}");
    assert_eq!(usage.at("dailyUsage.tokenCount").count(), 0, "{usage}");
    assert!(tenant.records().await.is_empty());
    let third = Request::post(targets[1], "{}").bearer(&tenant.key).send(&tenant.proxy).await;
    assert_eq!(third.status, 429, "token counting counts as a request");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_cannot_filter_usage_out_of_responses() {
    let provider = Upstream::start(reply).await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let path = "/v1beta/models/plain:generateContent";
    let call = async |target: &str, body: String| {
        let request = Request::post(target, body).bearer(&tenant.key);
        let request = request.header("x-goog-fieldmask", "a").header("x-http-method", "GET");
        request.send(&tenant.proxy).await
    };
    for (requested, sent) in [
        ("?fields=candidates", ""),
        ("?%24FIELDS=a&prettyPrint=false&alt=sse", "?prettyPrint=false&alt=sse"),
        ("?f%69elds=a&$httpMethod=GET&$ct=a&access_token=t&a=1&oauth_token=t", "?a=1"),
    ] {
        let response = call(&format!("{path}{requested}"), gemini::contents(Some(9))).await;
        let id = response.id();
        response.text().await;
        let seen = provider.requests().pop().expect("the call");
        assert_eq!(seen.target, format!("{path}{sent}"));
        assert_eq!((seen.header("x-goog-fieldmask"), seen.header("x-http-method")), (None, None));
        assert_eq!(tenant.log(&id).await.at("settledBy").text(), "usage", "{requested}");
    }
    for requested in ["alt=proto", "%24ALT=m%65dia", "a=1&callback=f"] {
        let response = call(&format!("{path}?{requested}"), gemini::contents(Some(9))).await;
        assert_eq!(response.status, 400, "what cannot be metered is refused: {requested}");
    }
    // In other dialects these parameters have no meaning and pass.
    let target = "/v1/messages?beta=true&fields=id&alt=proto&%24ct=x";
    call(target, anthropic::message("plain", Some(9), false)).await.text().await;
    let seen = provider.requests();
    assert_eq!((seen.len(), &*seen[3].target), (4, target));
    tenant.assert_settled().await;
}

/// The ids in a list of models, and the response.
async fn listed_models(request: Request, tenant: &Tenant) -> (Vec<String>, Json) {
    let response = request.send(&tenant.proxy).await;
    assert_eq!(response.status, 200);
    let body = response.json().await;
    let (models, name) = match body.find("models") {
        Some(models) => (models, "name"),
        None => (body.at("data"), "id"),
    };
    (models.list().iter().map(|model| model.at(name).text()).collect(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn model_lists_use_the_callers_dialect() {
    let rows = ["openai", "anthropic", "gemini"]
        .map(|dialect| {
            let row = upstream(dialect, "http://127.0.0.1:9");
            let server = format!("upstream = \"{dialect}\"");
            let models = model(&format!("{dialect}-a"), &server)
                + &model(&format!("{dialect}-b"), &server)
                + &model(&format!("other-{dialect}"), &server);
            (format!("{row}dialects = [\"{dialect}\"]\n"), models)
        })
        .into_iter();
    let (upstreams, models): (Vec<String>, Vec<String>) = rows.unzip();
    let server = Server::start(ConfigDir::new(&(upstreams.concat() + &models.concat()))).await;
    let tenant = server.tenant(0, "{}").await;
    let globs = r#"{"name":"narrow","allowedModels":["openai-*","anthropic-*","gemini-*"]}"#;
    let key = tenant.create_key(&server, globs).await;

    let get = Request::get;
    let (ids, list) = listed_models(get("/v1/models").bearer(&key), &tenant).await;
    assert_eq!(ids, ["openai-a", "openai-b"]);
    assert_eq!(list.at("object").text(), "list");

    let requested = get("/v1/models").bearer(&key).header("anthropic-version", "2023-06-01");
    let response = requested.send(&tenant.proxy).await;
    assert_eq!(response.header("request-id"), response.header("x-request-id"));
    let (ids, list) = listed_models(requested, &tenant).await;
    assert_eq!(ids, ["anthropic-a", "anthropic-b"]);
    assert_eq!(list.at("first_id").text(), "anthropic-a");
    assert_eq!(list.at("last_id").text(), "anthropic-b");
    assert!(!list.at("has_more").is_true());

    for requested in [
        get("/v1/models").header("x-goog-api-key", &key),
        get(&format!("/v1/models?key={key}")),
        get("/v1beta/models?pageSize=50").bearer(&key),
    ] {
        let (ids, list) = listed_models(requested, &tenant).await;
        assert_eq!(ids, ["models/gemini-a", "models/gemini-b"]);
        let methods = list.at("models").list()[0].at("supportedGenerationMethods");
        assert!(methods.to_string().contains("\"generateContent\""), "{methods}");
    }
    assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_limits_are_forwarded_only_if_configured() {
    for forward in [false, true] {
        let provider = Upstream::start(|seen| {
            let mut plan = reply(seen);
            plan.headers.push(("anthropic-ratelimit-input-tokens-limit", "31337".to_owned()));
            plan.headers.push(("request-id", "req_upstream".to_owned()));
            plan.headers.push(("anthropic-organization-id", "org-upstream".to_owned()));
            plan
        })
        .await;
        let (_server, tenant) =
            start_gateway(&provider, &format!("forward_limits = {forward}\n")).await;
        tenant.set_quota(r#"{"dailyRequestLimit":10,"dailyTokenLimit":1000000}"#).await;
        let call = |target: &str, body: String| {
            let request = Request::post(target, body).bearer(&tenant.key);
            let proxy = tenant.proxy.clone();
            async move { request.send(&proxy).await }
        };
        let response = call("/v1/messages", anthropic::message("plain", Some(9), false)).await;
        let forwarded = response.header("anthropic-ratelimit-input-tokens-limit");
        assert_eq!(forwarded, forward.then_some("31337"));
        assert_eq!(response.header("x-upstream-request-id"), Some("req_upstream"));
        assert_eq!(response.header("request-id"), Some(&*response.id()));
        assert_eq!(response.header("anthropic-organization-id"), None);
        assert_eq!(response.header("anthropic-ratelimit-requests-limit"), Some("10"));
        assert_eq!(response.header("anthropic-ratelimit-requests-remaining"), Some("9"));
        let reset = response.header("anthropic-ratelimit-tokens-reset").expect("a reset");
        assert!(reset.contains("T00:00:00") && reset.ends_with('Z'), "{reset}");
        assert_eq!(response.header("x-ratelimit-limit-requests"), Some("10"), "as in all dialects");
        response.text().await;
        let response = call(&gemini::target("plain", false), gemini::contents(Some(9))).await;
        assert_eq!(response.header("x-ratelimit-limit-requests"), Some("10"));
        assert_eq!(response.header("anthropic-ratelimit-requests-limit"), None);
        assert_eq!(response.header("request-id"), None);
        response.text().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_errors_pass_unmodified() {
    let provider = Upstream::start(|seen| {
        if seen.target.contains("/messages") {
            Plan::json(529, anthropic::error("overloaded_error"))
        } else {
            gemini::json(400, gemini::error(400, "INVALID_ARGUMENT"))
        }
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let message = anthropic::message("plain", Some(9), true);
    let contents = gemini::contents(Some(9));
    for (target, body, status, error) in [
        ("/v1/messages", message, 529, anthropic::error("overloaded_error")),
        (&*gemini::target("plain", true), contents, 400, gemini::error(400, "INVALID_ARGUMENT")),
    ] {
        let response = Request::post(target, body).bearer(&tenant.key).send(&tenant.proxy).await;
        assert_eq!(response.status, status);
        assert_eq!(response.header("x-meteor-error-source"), Some("upstream"));
        assert_eq!(response.text().await, error);
    }
    assert!(tenant.records().await.iter().all(|record| record.at("type").text() != "Consume"));
    tenant.assert_settled().await;
}

/// A streamed Gemini response without `alt=sse` is one growing document: its content is not
/// delayed, its last byte arrives after the debit.
#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_json_array_passes_as_it_arrives() {
    let provider = Upstream::start(|seen| {
        gemini::reply(seen, USAGE, Duration::ZERO).insert_step(2, Step::Stall)
    })
    .await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    let target = "/v1beta/models/plain:streamGenerateContent";
    let request = Request::post(target, gemini::contents(Some(9))).bearer(&tenant.key);
    let mut response: Response = request.send(&tenant.proxy).await;
    let pieces = gemini::array(&gemini::chunks(gemini::WORDS, USAGE));
    let so_far = pieces[..2].concat();
    let mut text = Vec::new();
    // Everything but the last byte, which might be the end of the document.
    while text.len() < so_far.len() - 1 {
        text.extend(response.piece().await.expect("no cut").expect("more to come"));
    }
    assert_eq!(text, so_far.as_bytes()[..so_far.len() - 1]);
    provider.release();
    let (rest, complete) = response.read_to_end().await;
    assert!(complete);
    text.extend(rest);
    assert_eq!(String::from_utf8_lossy(&text), pieces.concat());
    tenant.debit(&response.id()).await;
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpointed_array_output_is_charged_after_a_kill() {
    let chunks = gemini::chunks(&["word"; 400], USAGE);
    let provider = Upstream::start(move |_| {
        let mut plan = Plan::stream(gemini::array(&chunks), Duration::from_millis(50));
        plan.headers = gemini::json(200, "").headers;
        plan
    })
    .await;
    let mut gateway = Gateway::with_upstream(&provider).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let target = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";
    let request = Request::post(target, gemini::contents(Some(5_000))).bearer(&tenant.key);
    let mut response = request.send(&tenant.proxy).await;
    // Longer than the second after which progress is checkpointed at the latest.
    for _ in 0..60 {
        response.piece().await.expect("no cut").expect("more to come");
    }
    gateway.kill();
    let gateway = gateway.restart().await;
    let tenant = Tenant { proxy: gateway.proxy.clone(), admin: gateway.admin.clone(), ..tenant };
    let debit = tenant.debit(&response.id()).await;
    assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
    assert!(debit.at("amount").nano() > 0, "{debit}");
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_paths_are_refused() {
    let provider = Upstream::start(reply).await;
    let (_server, tenant) = start_gateway(&provider, "").await;
    for (target, status, code) in [
        ("/v1beta/models/plain%FF:generateContent", 400, "INVALID_REQUEST"),
        ("/v1beta/models/plain/x:generateContent", 404, "UNKNOWN_PATH"),
        ("/v1beta/models/plain:predict", 404, "UNKNOWN_PATH"),
        ("/v1beta/models/nobody:generateContent", 404, "MODEL_NOT_FOUND"),
    ] {
        let request = Request::post(target, gemini::contents(None)).bearer(&tenant.key);
        let response = request.send(&tenant.proxy).await;
        assert_eq!(response.status, status, "{target}");
        let error = response.json().await.at("error");
        assert_eq!(error.at("code").count(), u64::from(status), "{error}");
        assert_eq!(error.at("details").list()[0].at("reason").text(), code, "{error}");
    }
    let chat = Request::chat(&tenant.key, chat("nobody", 5, false)).send(&tenant.proxy).await;
    assert_eq!(chat.json().await.at("error.code").text(), "model_not_found");
    assert_eq!(provider.request_count(), 0);
    tenant.assert_settled().await;
}
