//! Near a limit, every call that fits is served, even if it names no output bound, and calls run
//! concurrently as far as the headroom allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dialect_routing::reply_with;
use crate::harness::client::Request;
use crate::harness::concurrent_load::send_concurrently;
use crate::harness::demo::{Gateway, assert_within};
use crate::harness::limit_assertions::FullResponse;
use crate::harness::openai::Usage;
use crate::harness::price::{CLAUDE_HAIKU, GEMINI_FLASH, GPT_4O_MINI, Price};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{ReceivedRequest, Upstream};
use crate::harness::{anthropic, gemini};

const CALLS: usize = 400;
const FUNDS: i128 = 1_000_000_000;
/// The smallest output bound to which the gateway clamps a call without one.
const OUTPUT_FLOOR_TOKENS: u64 = 256;
/// The actual usage of every call. The input is the token count of its body in the gpt-4o
/// vocabulary; the other providers report the same number.
const ACTUAL_USAGE: Usage =
    Usage { prompt: 10, completion: OUTPUT_FLOOR_TOKENS, cached: 0, reasoning: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

const DIALECTS: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];

impl Dialect {
    fn price(self) -> &'static Price {
        match self {
            Self::OpenAi => &GPT_4O_MINI,
            Self::Anthropic => &CLAUDE_HAIKU,
            Self::Gemini => &GEMINI_FLASH,
        }
    }

    /// A call with an output bound of `max_tokens`, or without one.
    fn call(self, key: &str, max_tokens: Option<u64>, stream: bool) -> Request {
        let model = self.price().model;
        match self {
            Self::OpenAi => {
                let bound = max_tokens.map(|max_tokens| format!(r#","max_tokens":{max_tokens}"#));
                let body = format!(
                    r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}],"stream":{stream}{}}}"#,
                    bound.unwrap_or_default()
                );
                Request::chat(key, body)
            }
            Self::Anthropic => {
                let body = anthropic::message(model, max_tokens, stream);
                Request::post("/v1/messages", body)
                    .header("x-api-key", key)
                    .header("anthropic-version", "2023-06-01")
            }
            Self::Gemini => {
                let target = gemini::target(model, stream);
                Request::post(&target, gemini::contents(max_tokens)).header("x-goog-api-key", key)
            }
        }
    }

    /// The output bound in the request that the provider received.
    fn bound(self, seen: &ReceivedRequest) -> Option<u64> {
        let path = match self {
            Self::OpenAi | Self::Anthropic => "max_tokens",
            Self::Gemini => "generationConfig.maxOutputTokens",
        };
        seen.json().find(path).map(|bound| bound.count())
    }
}

struct Fixture {
    gateway: Gateway,
    upstream: Upstream,
    latency_ms: Arc<AtomicU64>,
}

impl Fixture {
    async fn new() -> Self {
        let latency_ms = Arc::new(AtomicU64::new(0));
        let latency = Arc::clone(&latency_ms);
        let upstream = Upstream::start(move |seen| {
            reply_with(seen, ACTUAL_USAGE)
                .with_latency(Duration::from_millis(latency.load(Ordering::Relaxed)))
        })
        .await;
        Self { gateway: Gateway::with_upstream(&upstream).await, upstream, latency_ms }
    }

    /// Runs a round plain and streamed, with an instant and a slow provider.
    async fn for_each_mode(&self, round: impl AsyncFn(bool)) {
        for (stream, latency_ms) in [(false, 0), (true, 0), (false, 200), (true, 200)] {
            self.latency_ms.store(latency_ms, Ordering::Relaxed);
            round(stream).await;
        }
    }
}

/// Funds exactly 100 calls without an output bound and asserts that 100 of 400 are served.
async fn assert_money_for_100_serves_100(dialect: Dialect) {
    let fixture = Fixture::new().await;
    fixture
        .for_each_mode(async |stream| {
            let funds = dialect.price().cost(ACTUAL_USAGE) * 100;
            let tenant = Tenant::new(&fixture.gateway, funds, "{}").await;
            let before = fixture.upstream.request_count();
            let call = dialect.call(&tenant.key, None, stream);
            let answers = send_concurrently(&tenant.proxy, &call, CALLS).await;
            let served = answers.iter().filter(|answer| answer.status == 200);
            let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
            assert_eq!(served.count(), 100, "{dialect:?} {stream}: {:?}", refused.first());
            for refusal in refused {
                assert_eq!(refusal.status, 402, "{refusal:?}");
                assert_eq!(refusal.header("x-should-retry"), "false", "every refusal is final");
            }
            let seen = fixture.upstream.requests().split_off(before);
            assert_eq!(seen.len(), 100);
            let bounds: Vec<u64> = seen.iter().filter_map(|seen| dialect.bound(seen)).collect();
            assert!(bounds.iter().all(|bound| OUTPUT_FLOOR_TOKENS <= *bound), "{bounds:?}");
            let clamped =
                answers.iter().filter(|answer| answer.has_header("x-meteor-output-clamped"));
            assert_eq!(clamped.count(), bounds.len(), "a clamped call has the header");
            assert!(50 < bounds.len(), "most calls were clamped");
            tenant.assert_settled().await;
            assert_eq!(
                tenant.wallet().await.at("balance").nano(),
                0,
                "the whole balance was spent"
            );
            let logs = tenant.logs().await;
            let clamped = logs.iter().filter(|log| log.at("outputClamped").is_true()).count();
            assert_eq!(clamped, bounds.len());
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_100_serves_100_unbounded_chat_calls() {
    assert_money_for_100_serves_100(Dialect::OpenAi).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_100_serves_100_unbounded_anthropic_calls() {
    assert_money_for_100_serves_100(Dialect::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_100_serves_100_unbounded_gemini_calls() {
    assert_money_for_100_serves_100(Dialect::Gemini).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_100_serve_100_unbounded_calls() {
    let fixture = Fixture::new().await;
    for dialect in DIALECTS {
        fixture
            .for_each_mode(async |stream| {
                let quota = format!(r#"{{"dailyTokenLimit":{}}}"#, 100 * ACTUAL_USAGE.total());
                let tenant = Tenant::new(&fixture.gateway, 1_000_000_000_000, &quota).await;
                let call = dialect.call(&tenant.key, None, stream);
                let answers = send_concurrently(&tenant.proxy, &call, CALLS).await;
                let refused: Vec<_> =
                    answers.iter().filter(|answer| answer.status != 200).collect();
                assert_eq!(CALLS - refused.len(), 100, "{dialect:?}: {:?}", refused.first());
                for refusal in refused {
                    assert_eq!(refusal.status, 429, "{refusal:?}");
                    assert_eq!(refusal.header("x-should-retry"), "false", "every refusal is final");
                }
                let usage = tenant.usage().await;
                assert_eq!(usage.at("dailyUsage.tokenCount").count(), 100 * ACTUAL_USAGE.total());
                tenant.assert_settled().await;
            })
            .await;
    }
}

/// A bound of the client is not clamped. With a bound of r times the usage, the money for 100 calls
/// serves 101 - r.
#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_bound_reserves_money_and_serves_fewer_calls() {
    let fixture = Fixture::new().await;
    let serves = async |dialect: Dialect, bound_factor: u64, stream| {
        let funds = dialect.price().cost(ACTUAL_USAGE) * 100;
        let tenant = Tenant::new(&fixture.gateway, funds, "{}").await;
        let call = dialect.call(&tenant.key, Some(bound_factor * OUTPUT_FLOOR_TOKENS), stream);
        let answers = send_concurrently(&tenant.proxy, &call, CALLS).await;
        let served = answers.iter().filter(|answer| answer.status == 200).count() as u64;
        assert_eq!(served, 101 - bound_factor, "{dialect:?} {bound_factor} {stream}");
        tenant.assert_settled().await;
        let balance = dialect.price().cost(ACTUAL_USAGE) * i128::from(bound_factor - 1);
        assert_eq!(tenant.wallet().await.at("balance").nano(), balance);
    };
    fixture
        .for_each_mode(async |stream| {
            tokio::join!(
                serves(Dialect::OpenAi, 1, stream),
                serves(Dialect::OpenAi, 2, stream),
                serves(Dialect::Anthropic, 5, stream),
                serves(Dialect::Gemini, 20, stream),
            );
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_run_concurrently_as_far_as_the_money_allows() {
    let fixture = Fixture::new().await;
    fixture.latency_ms.store(200, Ordering::Relaxed);
    let funds = GPT_4O_MINI.cost(ACTUAL_USAGE) * 128;
    let tenant = Tenant::new(&fixture.gateway, funds, "{}").await;
    let call = Dialect::OpenAi.call(&tenant.key, None, false);
    let start = Instant::now();
    let answers = send_concurrently(&tenant.proxy, &call, 128).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    // Sequentially the calls would take 25 s. 64 concurrent ones take two rounds, plus one for the
    // first call, which reserved everything.
    assert_within(Duration::from_secs(6), start, Instant::now(), "128 calls of 200 ms");
}

/// Attached media of a few bytes may be many tokens, which are held.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_attached_media_are_held() {
    let fixture = Fixture::new().await;
    let [claude, flash] = [&CLAUDE_HAIKU, &GEMINI_FLASH].map(|price| price.model);
    let message = |content: &str| {
        let content = content.replace('\'', "\"");
        format!(
            r#"{{"model":"{claude}","max_tokens":9,"messages":[{{"role":"user","content":[{content}]}}]}}"#
        )
    };
    let image = "{'type':'image','source':{'type':'base64','media_type':'image/png','data':'A'}}";
    let content = |kind: &str| {
        let part = format!(r#"{{"inlineData":{{"mimeType":"{kind}","data":"AA=="}}}}"#);
        format!(
            r#"{{"contents":[{{"parts":[{part}]}}],"generationConfig":{{"maxOutputTokens":9}}}}"#
        )
    };
    let generate = gemini::target(flash, false);
    let tenant = Tenant::new(&fixture.gateway, FUNDS, r#"{"dailyTokenLimit":5000}"#).await;
    for (target, body, status) in [
        ("/v1/messages", message("{'type':'text','text':'AA=='}"), 200),
        ("/v1/messages", message(image), 429),
        ("/v1/messages", message(&image.replace("image", "application")), 429),
        (&generate, content("text/plain"), 200),
        (&generate, content("image/png"), 429),
        (&generate, content("video/mp4"), 429),
    ] {
        let answer = Request::post(target, &body).bearer(&tenant.key).send(&tenant.proxy).await;
        let actual = answer.status;
        assert_eq!(actual, status, "{body}: {}", answer.text().await);
    }
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_output_clamp_an_unbounded_call_is_refused() {
    let fixture = Fixture::new().await;
    for dialect in DIALECTS {
        let funds = dialect.price().cost(ACTUAL_USAGE) * 10;
        let tenant = Tenant::new(&fixture.gateway, funds, "{}").await;
        let call = dialect.call(&tenant.key, None, false);
        for (clamps, status) in [("false", 402), ("true", 200)] {
            let body = format!(r#"{{"outputClamp":{clamps}}}"#);
            let put = tenant.send(Request::put("/api/organization", body)).await;
            assert_eq!(put.status, 200);
            let response = FullResponse::read(call.send(&tenant.proxy).await).await;
            assert_eq!(response.status, status, "{dialect:?}: {response:?}");
            assert_eq!(
                response.has_header("x-meteor-output-clamped"),
                status == 200,
                "{response:?}"
            );
        }
        tenant.assert_settled().await;
    }
}
