//! Calls every route of the router as callers without permission. The binary lists its routes.
//!
//! A route without a call in `Sample::of` fails the test, so that new routes are covered.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::{Usage, chat};
use crate::harness::process::meteor_command;
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};
use crate::harness::{anthropic, gemini, openai};

const MODEL: &str = "gpt-4o-mini";
const FUNDS: i128 = 1_000_000_000_000;
/// A project that may make no request.
const BLOCKED: &str = r#"{"dailyRequestLimit":0}"#;

/// A line of `meteor routes`.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    method: String,
    path: String,
    dialect: String,
    uses: Uses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uses {
    Tokens,
    Request,
    Nothing,
}

fn read_routes() -> Vec<Route> {
    let output = meteor_command().arg("routes").output().expect("the binary starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let output = String::from_utf8(output.stdout).expect("a text");
    let read = |line: &str| {
        let [method, path, dialect, uses] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("`{line}` is not a method, path, dialect and use");
        };
        let uses = match uses {
            "tokens" => Uses::Tokens,
            "request" => Uses::Request,
            "nothing" => Uses::Nothing,
            _ => panic!("`{line}` ends with an unknown use"),
        };
        let [method, path, dialect] = [method, path, dialect].map(str::to_owned);
        Route { method, path: path.replace("{model}", MODEL), dialect, uses }
    };
    output.lines().map(read).collect()
}

/// A valid call of a route.
struct Sample {
    content_type: &'static str,
    body: String,
}

impl Sample {
    fn of(route: &Route) -> Self {
        let path = route.path.as_str();
        let verb = path.rsplit_once(':').map(|(_, verb)| verb);
        let json = |rest: &str| format!(r#"{{"model":"{MODEL}",{rest}}}"#);
        let fields = |fields: &[&str]| {
            let field = |field: &&str| {
                let (name, value) = field.rsplit_once('=').expect("a name and a value");
                format!("--cut\r\ncontent-disposition: form-data; name={name}\r\n\r\n{value}\r\n")
            };
            let fields = fields.iter().map(field).collect::<String>();
            format!("{fields}--cut--\r\n")
        };
        let image = r#""image"; filename="a.png"=png"#;
        let audio = r#""file"; filename="a.mp3"=mp3"#;
        let model = format!("\"model\"={MODEL}");
        let form = |rest: &[&str]| fields(&[&[model.as_str()], rest].concat());
        let body = match (path, verb) {
            ("/v1/chat/completions", _) => chat(MODEL, 20, false),
            ("/v1/completions", _) => json(r#""prompt":"a","max_tokens":20"#),
            ("/v1/embeddings", _) => json(r#""input":["a"]"#),
            ("/v1/moderations" | "/v1/responses/input_tokens", _) => json(r#""input":"a""#),
            ("/v1/responses" | "/v1/responses/compact", _) => {
                json(r#""input":"a","max_output_tokens":20"#)
            }
            ("/v1/images/generations", _) => json(r#""prompt":"a","n":1,"size":"1024x1024""#),
            ("/v1/audio/speech", _) => json(r#""input":"a","voice":"alloy""#),
            ("/v1/images/edits", _) => form(&[image, "\"prompt\"=a"]),
            ("/v1/images/variations", _) => form(&[image]),
            ("/v1/audio/transcriptions" | "/v1/audio/translations", _) => form(&[audio]),
            ("/v1/messages" | "/v1/messages/count_tokens", _) => {
                anthropic::message(MODEL, Some(20), false)
            }
            (_, Some("generateContent" | "streamGenerateContent")) => gemini::contents(Some(20)),
            (_, Some("countTokens")) => gemini::contents(None),
            (_, Some("embedContent")) => r#"{"content":{"parts":[{"text":"a"}]}}"#.to_owned(),
            (_, Some("batchEmbedContents")) => r#"{"requests":[]}"#.to_owned(),
            _ => panic!("{route:?} has no sample: add a valid call"),
        };
        let is_form = body.starts_with("--cut");
        let content_type =
            if is_form { "multipart/form-data; boundary=cut" } else { "application/json" };
        Self { content_type, body }
    }
}

impl Route {
    fn call(&self, key: &str) -> Request {
        if self.uses == Uses::Nothing {
            return Request::get(&self.path).bearer(key);
        }
        let Sample { content_type, body } = Sample::of(self);
        let call = Request::post(&self.path, body).bearer(key).without_header("content-type");
        call.header("content-type", content_type)
    }

    /// The response of the fake provider.
    fn reply(seen: &ReceivedRequest) -> Plan {
        let usage = Usage::of(5, 3);
        if seen.target.starts_with("/v1/messages") {
            anthropic::reply(seen, usage, Duration::ZERO)
        } else if seen.target.contains(':') {
            gemini::reply(seen, usage, Duration::ZERO)
        } else if seen.target.ends_with("/embeddings") {
            Plan::json(200, openai::embeddings(1, usage))
        } else {
            Plan::json(200, openai::completion(usage))
        }
    }
}

/// A caller without permission, with the expected status on a route that uses tokens, a request or
/// nothing.
struct DeniedCaller {
    what: &'static str,
    key: String,
    statuses: [u16; 3],
}

impl DeniedCaller {
    fn new(what: &'static str, key: &str, statuses: [u16; 3]) -> Self {
        Self { what, key: key.to_owned(), statuses }
    }

    async fn assert_refused(&self, route: &Route, proxy: &str) {
        let status = self.statuses[route.uses as usize];
        let response = FullResponse::read(route.call(&self.key).send(proxy).await).await;
        assert_eq!(response.status, status, "{}: {route:?}: {response:?}", self.what);
        let source = response.find_header("x-meteor-error-source");
        assert_eq!(source, (status != 200).then_some("gateway"), "{}: {route:?}", self.what);
    }
}

/// One denied caller for each reason.
async fn denied_callers(gateway: &Gateway) -> Vec<DeniedCaller> {
    let new = async |funds, quota: &str| Tenant::new(gateway, funds, quota).await;
    let (unfunded, exhausted, funded) =
        (new(0, "{}").await, new(FUNDS, BLOCKED).await, new(FUNDS, "{}").await);
    let restricted =
        funded.create_key(gateway, r#"{"name":"narrow","allowedModels":["other"]}"#).await;
    let revoked = funded.create_key(gateway, r#"{"name":"revoked"}"#).await;
    let delete = Request::new("DELETE", &funded.key_path("revoked").await);
    assert_eq!(funded.send(delete).await.status, 200);
    let archived = funded.create_second_project(gateway).await;
    let delete = Request::new("DELETE", &format!("/api/projects/{}", archived.project));
    assert_eq!(archived.send(delete).await.status, 200);
    vec![
        DeniedCaller::new("an empty wallet", &unfunded.key, [402, 200, 200]),
        DeniedCaller::new("an exhausted limit", &exhausted.key, [429, 429, 200]),
        DeniedCaller::new("another model only", &restricted, [403, 403, 200]),
        DeniedCaller::new("a revoked key", &revoked, [401; 3]),
        DeniedCaller::new("an archived project", &archived.key, [403; 3]),
        DeniedCaller::new("no key", "", [401; 3]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_callers_without_permission() {
    let upstream = Upstream::start(Route::reply).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let funded = Tenant::new(&gateway, FUNDS, "{}").await;
    let strangers = denied_callers(&gateway).await;
    let routes = read_routes();
    assert!(routes.iter().filter(|route| route.uses == Uses::Tokens).count() >= 10, "{routes:?}");
    for route in routes {
        // Load balancers probe health without a key.
        if route.path == "/healthz" {
            assert_eq!(Request::get(&route.path).send(&gateway.proxy).await.status, 200);
            continue;
        }
        let before = upstream.request_count();
        // The sample is valid: a permitted caller is served, and charged if the route bills.
        let answer = route.call(&funded.key).send(&gateway.proxy).await;
        let (status, id) = (answer.status, answer.id());
        assert_eq!(status, 200, "{route:?}: {}", answer.text().await);
        let sent = usize::from(route.uses != Uses::Nothing);
        assert_eq!(upstream.request_count(), before + sent, "{route:?}");
        if route.uses == Uses::Tokens {
            assert!(funded.debit(&id).await.at("amount").nano() > 0, "{route:?} bills");
        }
        for stranger in &strangers {
            stranger.assert_refused(&route, &gateway.proxy).await;
        }
        // An empty wallet does not refuse a call that costs no money.
        let free = usize::from(route.uses == Uses::Request);
        assert_eq!(
            upstream.request_count(),
            before + sent + free,
            "{route:?}: denied calls were forwarded"
        );
    }
    funded.assert_settled().await;
}

/// Spellings of a path that a provider's front end might normalize to it.
fn path_variants(path: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').expect("a path");
    let (prefix, last) = path.split_at(path.len() - 1);
    let escaped = format!("{prefix}%{:02x}", last.as_bytes()[0]);
    vec![
        escaped,
        path.to_uppercase(),
        format!("/{path}"),
        format!("{path}/"),
        format!("{path}/x"),
        format!("{path}."),
        format!("{path};a"),
        format!("{path}%20"),
        format!("{path}%00"),
        format!("{path}%3fa"),
        format!("{folder}//{name}"),
        format!("{folder}/./{name}"),
        format!("{folder}/../{}", path.trim_start_matches('/')),
        format!("{folder}/%2e/{name}"),
        format!("{folder}/%2e%2e{path}"),
        format!("{folder}%2f{name}"),
        format!("{folder}\\{name}"),
        format!("/x/..{path}"),
        format!("/v2{path}"),
    ]
}

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "post"];

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_return_404_and_reach_no_upstream() {
    let upstream = Upstream::start(Route::reply).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let tenant = Tenant::new(&gateway, FUNDS, "{}").await;
    let routes = read_routes();
    let is_route = |(method, path): &(&str, String)| {
        routes.iter().any(|route| route.method == *method && route.path == *path)
    };
    for route in &routes {
        let methods = METHODS.iter().map(|method| (*method, route.path.clone()));
        let method =
            METHODS.iter().find(|method| **method == route.method).expect("a known method");
        let tricks = path_variants(&route.path).into_iter().map(|path| (*method, path));
        let variants: Vec<_> = methods.chain(tricks).filter(|request| !is_route(request)).collect();
        assert_eq!(
            variants.len() + 1,
            METHODS.len() + 19,
            "every variant except the route itself: {variants:?}"
        );
        for (method, path) in variants {
            let answer =
                route.call(&tenant.key).with_target(method, &path).send(&gateway.proxy).await;
            // A target without a leading slash is not a valid request.
            let status = if path.starts_with('/') { 404 } else { 400 };
            assert_eq!(answer.status, status, "{method} {path}");
            if method != "HEAD" && status == 404 {
                let error = answer.json().await;
                assert!(!error.at("error.message").text().is_empty(), "{method} {path}: {error}");
            }
        }
    }
    for (method, target, statuses) in [
        ("OPTIONS", "*", [404, 404]),
        ("CONNECT", "api.openai.com:443", [404, 400]),
        ("POST", "v1/chat/completions", [404, 400]),
        ("POST", "", [404, 400]),
    ] {
        let call = Request::chat(&tenant.key, chat(MODEL, 20, false)).with_target(method, target);
        let answer = call.send(&gateway.proxy).await;
        assert!(statuses.contains(&answer.status), "{method} {target}: {}", answer.status);
    }
    assert_eq!(upstream.request_count(), 0, "{:?}", upstream.requests());
    tenant.assert_settled().await;
    assert!(tenant.logs().await.is_empty(), "none of them is logged as a call");
}

/// A target in absolute form is routed by its path; its host is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_is_routed_by_its_path_only() {
    let upstream = Upstream::start(Route::reply).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let (funded, unfunded) =
        (Tenant::new(&gateway, FUNDS, "{}").await, Tenant::new(&gateway, 0, "{}").await);
    let routes = read_routes();
    let billed = routes.iter().filter(|route| route.uses == Uses::Tokens);
    for (route, sent) in billed.zip(1..) {
        let target = format!("http://127.0.0.1:9{}", route.path);
        for (tenant, status) in [(&funded, 200), (&unfunded, 402)] {
            let answer =
                route.call(&tenant.key).with_target("POST", &target).send(&gateway.proxy).await;
            assert_eq!(answer.status, status, "{target}");
        }
        let seen = upstream.requests();
        assert_eq!(seen.len(), sent, "{target}");
        assert_eq!(seen[sent - 1].target, route.path);
        assert_ne!(seen[sent - 1].header("host"), Some("127.0.0.1:9"));
    }
    let unknown_path = Request::chat(&funded.key, chat(MODEL, 20, false));
    let unknown_path =
        unknown_path.with_target("POST", "http://127.0.0.1:9/v1/files").send(&gateway.proxy).await;
    assert_eq!(unknown_path.status, 404);
}
