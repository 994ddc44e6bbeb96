//! Which upstream is asked first, which is skipped, and when it is asked again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, chat, error, reply};
use crate::harness::serve::{Place, Served, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Upstream};
use crate::harness::wait::eventually;

const USAGE: Usage = Usage { prompt: 5, completion: 2, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
/// So often an upstream fails until its circuit opens, where nothing else is said.
const FAILURES: usize = 5;

/// A provider that answers with the status that it is set to.
struct StatusProvider {
    provider: Upstream,
    status: Arc<AtomicU16>,
}

impl StatusProvider {
    async fn start(status: u16, headers: &'static [(&'static str, &'static str)]) -> Self {
        let told = Arc::new(AtomicU16::new(status));
        let status = Arc::clone(&told);
        let provider = Upstream::start(move |seen| match told.load(SeqCst) {
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

/// `first`, and `second` for when that fails; `circuit` is how the first one is guarded.
struct UpstreamPair {
    served: Served,
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
        let served = Served::start(Place::new(&rows)).await;
        let tenant = served.tenant(FUNDS, "{}").await;
        Self { served, tenant, first, second }
    }

    /// Calls, and says who was asked and how it was answered.
    async fn call(&self, model: &str) -> (usize, usize, u16) {
        let before = (self.first.provider.request_count(), self.second.provider.request_count());
        let request = Request::chat(&self.tenant.key, chat(model, 9, false));
        let mut answer = request.send(&self.tenant.proxy).await;
        answer.read_to_end().await;
        let after = (self.first.provider.request_count(), self.second.provider.request_count());
        (after.0 - before.0, after.1 - before.1, answer.status)
    }

    /// What the operator is told of `first`.
    async fn health(&self) -> Json {
        let listed = self.tenant.get("/api/platform/upstreams").await.at("data").list();
        let first = listed.into_iter().find(|row| row.at("name").text() == "first");
        first.expect("it is listed").at("health")
    }

    /// The value of a metric of `first`.
    async fn metric(&self, name: &str) -> u64 {
        let told = Request::get("/metrics").send(&self.served.admin).await.text().await;
        let start = format!("{name}{{upstream=\"first\"}} ");
        let line = told.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{name} in {told}")).parse().expect("a whole number")
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
    assert_eq!(pair.call("both").await, (0, 1, 200), "it is skipped");
    let told = pair.health().await;
    assert_ne!(told.at("circuit").text(), "Closed", "{told}");
    assert_eq!(told.at("lastError").text(), "failed", "{told}");
    assert!(told.at("lastOkAt").is_null(), "{told}");
    assert_eq!(pair.call("also").await, (0, 1, 200), "for every model");
    assert_eq!(pair.metric("meteor_upstream_skipped_total").await, 2);
    eventually("a probe goes out", async || (pair.call("both").await.0 == 1).then_some(())).await;
    assert!(opened.elapsed() > Duration::from_millis(200), "not before its time");
    assert_eq!(pair.metric("meteor_upstream_circuit_opened_total").await, 2, "it failed");
    pair.first.set_status(200);
    eventually("it serves again", async || (pair.call("both").await.0 == 1).then_some(())).await;
    assert_eq!(pair.call("both").await, (1, 0, 200));
    assert_eq!(pair.metric("meteor_upstream_circuit").await, 0);
    let told = pair.health().await;
    assert_eq!(told.at("circuit").text(), "Closed", "{told}");
    assert!(told.at("lastOkAt").text().ends_with('Z'), "{told}");
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
    assert_eq!(pair.call("both").await, (0, 1, 200), "where there is another, that is asked");
    pair.first.set_status(200);
    assert_eq!(pair.call("only").await, (1, 0, 200));
    assert_eq!(pair.metric("meteor_upstream_circuit").await, 0, "who answers is back");
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
        assert_eq!(pair.call("both").await, (1, 1, 200), "a limit is no fault");
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
    let asked = Instant::now();
    assert_eq!(pair.call("both").await, (1, 1, 200));
    assert_eq!(pair.call("both").await, (0, 1, 200), "it rests");
    assert_eq!(pair.call("also").await, (1, 1, 200), "for that model alone");
    for _ in 0..2 {
        let request = Request::chat(&pair.tenant.key, chat("only", 9, false));
        let answer = request.send(&pair.tenant.proxy).await;
        assert_eq!(answer.status, 429, "where there is no other it is asked all the same");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("x-meteor-error-source"), Some("upstream"));
        answer.text().await;
    }
    pair.first.set_status(200);
    eventually("it serves again", async || (pair.call("both").await.0 == 1).then_some(())).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "not before its time");
    pair.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cooldown_from_retry_after_is_bounded() {
    let first = StatusProvider::start(503, &[("retry-after", "86400")]).await;
    let circuit = "circuit = { failures = 1000 }\nretry_after_max_ms = 200\n";
    let pair = UpstreamPair::new(first, circuit).await;
    assert_eq!(pair.call("both").await, (1, 1, 200));
    eventually("it is asked again", async || (pair.call("both").await.0 == 1).then_some(())).await;
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
        assert!(!answer.read_to_end().await.1, "it breaks off");
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
    let served = Served::start(Place::new(&rows)).await;
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
    assert_eq!(counts(&["heavy", "light"]), 200, "a spare and a later one are not asked");
    // Six times as far from 150 as is usual.
    assert!((113..=187).contains(&counts(&["heavy"])), "{}", counts(&["heavy"]));
    for (gone, next) in [("heavy", "light"), ("light", "spare"), ("spare", "later")] {
        providers[gone].set_status(500);
        let before = counts(&[next]);
        call().await;
        assert_eq!(counts(&[next]), before + 1, "{next} comes after {gone}");
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_one_more_name_of_a_model() {
    let provider = StatusProvider::start(200, &[]).await;
    let served_there = "aliases = [\"latest\", \"best\"]\nupstream = \"fake\"";
    let rows = upstream("fake", &provider.provider.url)
        + &model("real", served_there)
        + &model(
            "other",
            "aliases = [\"renamed\"]\nupstream = \"fake\"\nupstream_model = \"there\"",
        );
    let served = Served::start(Place::new(&rows)).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    for (asked, sent, logged) in
        [("latest", "real", "real"), ("best", "real", "real"), ("renamed", "there", "other")]
    {
        let answer = Request::chat(&tenant.key, chat(asked, 9, false)).send(&tenant.proxy).await;
        assert_eq!(answer.status, 200, "{asked}");
        let id = answer.id();
        answer.text().await;
        let seen = provider.provider.requests().pop().expect("the call");
        assert_eq!(seen.body, chat(sent, 9, false), "the provider does not know an alias");
        assert_eq!(tenant.log(&id).await.at("model").text(), logged);
    }
    for (allowed, asked, status) in [
        ("latest", "latest", 200),
        ("latest", "real", 403),
        ("real", "latest", 200),
        ("oth*", "renamed", 200),
        ("oth*", "latest", 403),
    ] {
        let key = format!(r#"{{"name":"{allowed} {asked}","allowedModels":["{allowed}"]}}"#);
        let key = tenant.create_key(&served, &key).await;
        let answer = Request::chat(&key, chat(asked, 9, false)).send(&tenant.proxy).await;
        assert_eq!(answer.status, status, "{asked} by a key to {allowed}");
    }
    tenant.assert_settled().await;
}
