//! Which upstream is tried first, which is skipped, and when it is tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, error, reply};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Upstream};
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 5, completion: 2, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
/// Default number of failures that open a circuit.
const FAILURES: usize = 5;

/// A provider that answers with a settable status.
struct StatusProvider {
    provider: Upstream,
    status: Arc<AtomicU16>,
}

impl StatusProvider {
    async fn start(status: u16, headers: &'static [(&'static str, &'static str)]) -> Self {
        let configured = Arc::new(AtomicU16::new(status));
        let status = Arc::clone(&configured);
        let provider = Upstream::start(move |seen| match configured.load(SeqCst) {
            200 => reply(seen, USAGE, Duration::ZERO),
            status => {
                let mut plan = Plan::json(status, error());
                plan.headers
                    .extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
                plan
            }
        });
        Self { provider: provider.await, status }
    }

    fn set_status(&self, status: u16) {
        self.status.store(status, SeqCst);
    }
}

/// The upstreams `first` and, as its fallback, `second`.
struct UpstreamPair {
    served: Server,
    tenant: Tenant,
    first: StatusProvider,
    second: StatusProvider,
}

impl UpstreamPair {
    async fn new(first: StatusProvider, circuit: &str) -> Self {
        let second = StatusProvider::start(200, &[]).await;
        let targets =
            r#"targets = [{ upstream = "first" }, { upstream = "second", priority = 1 }]"#;
        let rows = upstream("first", &first.provider.url)
            + circuit
            + &upstream("second", &second.provider.url)
            + &model("both", targets)
            + &model("also", targets)
            + &model("only", r#"upstream = "first""#);
        let served = Server::start(ConfigDir::new(&rows)).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        Self { served, tenant, first, second }
    }

    /// Makes a call. Returns the requests to `first` and `second` and the status.
    async fn call(&self, model: &str) -> (usize, usize, u16) {
        let before = (self.first.provider.request_count(), self.second.provider.request_count());
        let request = Request::chat(&self.tenant.key, chat(model, 9, false));
        let mut answer = request.send(&self.tenant.proxy).await;
        answer.read_to_end().await;
        let after = (self.first.provider.request_count(), self.second.provider.request_count());
        (after.0 - before.0, after.1 - before.1, answer.status)
    }

    /// The health of `first` in the admin API.
    async fn health(&self) -> Json {
        let listed = self.tenant.get("/api/platform/upstreams").await.at("data").list();
        let first = listed.into_iter().find(|row| row.at("name").text() == "first");
        first.expect("it is listed").at("health")
    }

    /// The value of a metric with the label `upstream="first"`.
    async fn metric(&self, name: &str) -> u64 {
        let metrics = Request::get("/metrics").send(&self.served.admin).await.text().await;
        let start = format!("{name}{{upstream=\"first\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().expect("a whole number")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_is_skipped_until_a_probe_succeeds() {
    let circuit = "circuit = { open_ms = 300 }\n";
    let pair = UpstreamPair::new(StatusProvider::start(500, &[]).await, circuit).await;
    for _ in 0..FAILURES {
        assert_eq!(pair.call("both").await, (1, 1, 200));
    }
    assert_eq!(pair.metric("meteor_upstream_circuit").await, 2);
    let opened = Instant::now();
    assert_eq!(pair.call("both").await, (0, 1, 200), "first is skipped");
    let health = pair.health().await;
    assert_ne!(health.at("circuit").text(), "Closed", "{health}");
    assert_eq!(health.at("lastError").text(), "failed", "{health}");
    assert!(health.at("lastOkAt").is_null(), "{health}");
    assert_eq!(pair.call("also").await, (0, 1, 200), "first is skipped for every model");
    assert_eq!(pair.metric("meteor_upstream_skipped_total").await, 2);
    eventually("a probe is sent", async || (pair.call("both").await.0 == 1).then_some(())).await;
    assert!(opened.elapsed() > Duration::from_millis(200), "not before the time has elapsed");
    assert_eq!(pair.metric("meteor_upstream_circuit_opened_total").await, 2, "the probe failed");
    pair.first.set_status(200);
    eventually("first serves again", async || (pair.call("both").await.0 == 1).then_some(())).await;
    assert_eq!(pair.call("both").await, (1, 0, 200));
    assert_eq!(pair.metric("meteor_upstream_circuit").await, 0);
    let health = pair.health().await;
    assert_eq!(health.at("circuit").text(), "Closed", "{health}");
    assert!(health.at("lastOkAt").text().ends_with('Z'), "{health}");
    pair.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_only_upstream_is_used_despite_its_open_circuit() {
    let pair = UpstreamPair::new(
        StatusProvider::start(500, &[]).await,
        "circuit = { open_ms = 86400000 }\n",
    )
    .await;
    for _ in 0..3 * FAILURES {
        assert_eq!(pair.call("only").await, (1, 0, 500));
    }
    assert_eq!(pair.metric("meteor_upstream_circuit").await, 2);
    assert_eq!(pair.call("both").await, (0, 1, 200), "a fallback is preferred");
    pair.first.set_status(200);
    assert_eq!(pair.call("only").await, (1, 0, 200));
    assert_eq!(pair.metric("meteor_upstream_circuit").await, 0, "a success closes the circuit");
    pair.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_upstream_is_tried_after_all_others_failed() {
    let pair = UpstreamPair::new(
        StatusProvider::start(500, &[]).await,
        "circuit = { open_ms = 86400000 }\n",
    )
    .await;
    for _ in 0..FAILURES {
        assert_eq!(pair.call("both").await, (1, 1, 200));
    }
    pair.first.set_status(200);
    pair.second.set_status(503);
    let request = Request::chat(&pair.tenant.key, chat("both", 9, false));
    let answer = request.send(&pair.tenant.proxy).await;
    assert_eq!(answer.status, 200);
    let id = answer.id();
    answer.text().await;
    let log = pair.tenant.log(&id).await;
    assert_eq!(log.at("attempts").count(), 2, "{log}");
    assert_eq!(log.at("upstream").text(), "first", "{log}");
    pair.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_opens_the_circuit_and_429_never_does() {
    let pair = UpstreamPair::new(
        StatusProvider::start(429, &[]).await,
        "circuit = { open_ms = 86400000 }\n",
    )
    .await;
    for _ in 0..3 * FAILURES {
        assert_eq!(pair.call("both").await, (1, 1, 200), "a 429 is not a failure");
    }
    pair.first.set_status(401);
    assert_eq!(pair.call("both").await, (1, 1, 200));
    assert_eq!(pair.call("both").await, (0, 1, 200));
    assert_eq!(pair.metric("meteor_upstream_circuit_opened_total").await, 1);
    pair.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_starts_a_cooldown_for_that_model_only() {
    let first = StatusProvider::start(429, &[("retry-after", "1")]).await;
    let pair = UpstreamPair::new(first, "circuit = { failures = 1000 }\n").await;
    let started = Instant::now();
    assert_eq!(pair.call("both").await, (1, 1, 200));
    assert_eq!(pair.call("both").await, (0, 1, 200), "first is in cooldown");
    assert_eq!(pair.call("also").await, (1, 1, 200), "the cooldown is per model");
    for _ in 0..2 {
        let request = Request::chat(&pair.tenant.key, chat("only", 9, false));
        let answer = request.send(&pair.tenant.proxy).await;
        assert_eq!(answer.status, 429, "an only upstream is tried during its cooldown");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("x-meteor-error-source"), Some("upstream"));
        answer.text().await;
    }
    pair.first.set_status(200);
    eventually("first serves again", async || (pair.call("both").await.0 == 1).then_some(())).await;
    assert!(started.elapsed() >= Duration::from_secs(1), "not before the time has elapsed");
    pair.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cooldown_from_retry_after_is_bounded() {
    let first = StatusProvider::start(503, &[("retry-after", "86400")]).await;
    let circuit = "circuit = { failures = 1000 }\nretry_after_max_ms = 200\n";
    let pair = UpstreamPair::new(first, circuit).await;
    assert_eq!(pair.call("both").await, (1, 1, 200));
    eventually("first is tried again", async || (pair.call("both").await.0 == 1).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_responses_open_the_circuit() {
    let cutting = Upstream::start(|seen| {
        reply(seen, USAGE, Duration::ZERO).insert_step(2, crate::harness::upstream::Step::Cut)
    });
    let first = StatusProvider { provider: cutting.await, status: Arc::default() };
    let circuit = "circuit = { attempts_min = 4, open_ms = 86400000 }\n";
    let pair = UpstreamPair::new(first, circuit).await;
    for broken in 1..=4 {
        let request = Request::chat(&pair.tenant.key, chat("both", 9, true));
        let mut answer = request.send(&pair.tenant.proxy).await;
        assert!(!answer.read_to_end().await.1, "the response is cut");
        assert_eq!(pair.metric("meteor_upstream_interrupted_total").await, broken);
    }
    assert_eq!(pair.call("both").await, (0, 1, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_of_one_priority_share_the_calls_by_weight() {
    let mut providers = HashMap::new();
    let mut rows = String::new();
    for name in ["heavy", "light", "spare", "later"] {
        let moody = StatusProvider::start(200, &[]).await;
        rows += &upstream(name, &moody.provider.url);
        providers.insert(name, moody);
    }
    rows += &model(
        "shared",
        r#"targets = [{ upstream = "later", priority = 1, weight = 1000 }, { upstream = "spare", weight = 0 }, { upstream = "light", weight = 1 }, { upstream = "heavy", weight = 3 }]"#,
    );
    let served = Server::start(ConfigDir::new(&rows)).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    let call = async || {
        let request = Request::chat(&tenant.key, chat("shared", 9, false));
        assert_eq!(request.send(&tenant.proxy).await.status, 200);
    };
    for _ in 0..200 {
        call().await;
    }
    let counts = |names: &[&str]| {
        names.iter().map(|name| providers[name].provider.request_count()).sum::<usize>()
    };
    assert_eq!(counts(&["heavy", "light"]), 200, "weight 0 and a later priority are not tried");
    // Six standard deviations around 150.
    assert!((113..=187).contains(&counts(&["heavy"])), "{}", counts(&["heavy"]));
    for (failed, next) in [("heavy", "light"), ("light", "spare"), ("spare", "later")] {
        providers[failed].set_status(500);
        let before = counts(&[next]);
        call().await;
        assert_eq!(counts(&[next]), before + 1, "{next} comes after {failed}");
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_one_more_name_of_a_model() {
    let provider = StatusProvider::start(200, &[]).await;
    let with_aliases = "aliases = [\"latest\", \"best\"]\nupstream = \"fake\"";
    let rows = upstream("fake", &provider.provider.url)
        + &model("real", with_aliases)
        + &model(
            "other",
            "aliases = [\"renamed\"]\nupstream = \"fake\"\nupstream_model = \"there\"",
        );
    let served = Server::start(ConfigDir::new(&rows)).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    for (requested, sent, logged) in
        [("latest", "real", "real"), ("best", "real", "real"), ("renamed", "there", "other")]
    {
        let answer =
            Request::chat(&tenant.key, chat(requested, 9, false)).send(&tenant.proxy).await;
        assert_eq!(answer.status, 200, "{requested}");
        let id = answer.id();
        answer.text().await;
        let seen = provider.provider.requests().pop().expect("the call");
        assert_eq!(seen.body, chat(sent, 9, false), "the alias is replaced");
        assert_eq!(tenant.log(&id).await.at("model").text(), logged);
    }
    for (allowed, requested, status) in [
        ("latest", "latest", 200),
        ("latest", "real", 403),
        ("real", "latest", 200),
        ("oth*", "renamed", 200),
        ("oth*", "latest", 403),
    ] {
        let key = format!(r#"{{"name":"{allowed} {requested}","allowedModels":["{allowed}"]}}"#);
        let key = tenant.create_key(&served, &key).await;
        let answer = Request::chat(&key, chat(requested, 9, false)).send(&tenant.proxy).await;
        assert_eq!(answer.status, status, "{requested} by a key to {allowed}");
    }
    tenant.assert_settled().await;
}
