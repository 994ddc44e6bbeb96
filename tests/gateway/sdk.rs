//! Runs the official SDKs against the gateway; the suites are in `tests/sdk`.
//!
//! A suite receives its setup as one JSON argument, checks the behavior of its package, and prints
//! what it has sent. This side checks what only the provider and the request log show.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::anthropic;
use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::gemini;
use crate::harness::json::Json;
use crate::harness::openai;
use crate::harness::process::{Process, scratch};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream, closed_port};

const USAGE: openai::Usage = openai::Usage { prompt: 9, completion: 3, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;
/// Enough money for one call of `FEW_FUNDS_BOUND` output tokens, but not for two.
const FEW_FUNDS: i128 = 10_000_000;
const FEW_FUNDS_BOUND: u64 = 16_000;
/// A prompt that makes the provider stall after it has started to answer.
const STALL_TEXT: &str = "Stall.";
const BODY_BYTES_MAX: &str = "10000";
/// Longer than the slowest package takes to load on a busy machine.
const SUITE_TIMEOUT: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_python_sdk_completes_calls_and_raises_errors() {
    check_suite(Dialect::OpenAi, "python", "openai_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_node_sdk_completes_calls_and_raises_errors() {
    check_suite(Dialect::OpenAi, "node", "openai_sdk.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_python_sdk_completes_calls_and_raises_errors() {
    check_suite(Dialect::Anthropic, "python", "anthropic_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_x_api_key_anthropic_sdk_completes_calls_and_raises_errors() {
    check_suite(Dialect::Anthropic, "python-x-api-key", "anthropic_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_node_sdk_completes_calls_and_raises_errors() {
    check_suite(Dialect::Anthropic, "node", "anthropic_sdk.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_google_python_sdk_completes_calls_and_raises_errors() {
    check_suite(Dialect::Gemini, "python", "genai_sdk.py").await;
}

#[derive(Clone, Copy)]
enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }

    /// The chat and the embedding model of the suite; the built-in provider has them, too.
    fn models(self) -> (&'static str, &'static str) {
        match self {
            Self::OpenAi => ("gpt-4o-mini", "text-embedding-3-small"),
            Self::Anthropic => ("claude-sonnet-4-5", "none"),
            Self::Gemini => ("gemini-2.5-flash", "gemini-embedding-001"),
        }
    }

    fn text(self) -> String {
        match self {
            Self::OpenAi => openai::WORDS,
            Self::Anthropic => anthropic::WORDS,
            Self::Gemini => gemini::WORDS,
        }
        .concat()
    }

    /// The response of the provider, which fails if the prompt requests it.
    fn response_plan(self, seen: &ReceivedRequest) -> Plan {
        let contains = |text: &str| seen.body.contains(text);
        if let Some(status) =
            [500, 503, 529].into_iter().find(|s| contains(&format!("Fail with {s}.")))
        {
            return self.failure(status);
        }
        if contains("Break off.") {
            return Plan::stream(self.broken_off(), Duration::ZERO);
        }
        let plan = match self {
            Self::OpenAi => openai::reply(seen, USAGE, Duration::ZERO),
            Self::Anthropic => anthropic::reply(seen, USAGE, Duration::ZERO),
            Self::Gemini => gemini::reply(seen, USAGE, Duration::ZERO),
        };
        if contains(STALL_TEXT) { plan.insert_step(1, Step::Stall) } else { plan }
    }

    /// A call that holds nearly all of `FEW_FUNDS` until the provider is released.
    fn stalled_call(self, key: &str) -> Request {
        let (model, _) = self.models();
        let request = |target: &str, body: String| {
            Request::post(target, body.replace("Say hello.", STALL_TEXT)).bearer(key)
        };
        let max_tokens = FEW_FUNDS_BOUND;
        match self {
            Self::OpenAi => request("/v1/chat/completions", openai::chat(model, max_tokens, true)),
            Self::Anthropic => {
                request("/v1/messages", anthropic::message(model, Some(max_tokens), true))
            }
            Self::Gemini => {
                request(&gemini::target(model, true), gemini::contents(Some(max_tokens)))
            }
        }
    }

    fn failure(self, status: u16) -> Plan {
        match self {
            Self::OpenAi => Plan::json(status, openai::error()),
            Self::Anthropic if status == 529 => {
                Plan::json(status, anthropic::error("overloaded_error"))
            }
            Self::Anthropic => Plan::json(status, anthropic::error("api_error")),
            Self::Gemini => {
                let word = if status == 500 { "INTERNAL" } else { "UNAVAILABLE" };
                gemini::json(status, gemini::error(status, word))
            }
        }
    }

    /// A stream that fails after its first events.
    fn broken_off(self) -> Vec<String> {
        let (events, error) = match self {
            Self::OpenAi => (openai::events(openai::WORDS, None), openai::error_event()),
            Self::Anthropic => {
                let error = anthropic::error_event("overloaded_error");
                (anthropic::events(anthropic::WORDS, USAGE), error)
            }
            Self::Gemini => {
                let chunks = gemini::chunks(gemini::WORDS, USAGE);
                (gemini::events(&chunks), gemini::error_event(503, "UNAVAILABLE"))
            }
        };
        events.into_iter().take(4).chain([error]).collect()
    }
}

/// Runs one suite with a gateway of its own and checks the provider and the request log.
async fn check_suite(dialect: Dialect, runtime: &str, script: &str) {
    let Some(command) = suite_command(runtime, script) else { return };
    let provider = Upstream::start(move |seen| dialect.response_plan(seen)).await;
    let (_closed_port, closed_url) = closed_port();
    let served = Server::start(gateway_config(dialect, &provider.url, &closed_url)).await;
    let built_in = Gateway::with_built_in_provider().await;
    let funded = served.tenant(FUNDS, "{}").await;
    let restricted =
        funded.create_key(&served, r#"{"name":"narrow","allowedModels":["other"]}"#).await;
    let unfunded = funded.create_tenant(&served, 0, "{}").await;
    let held = funded.create_tenant(&served, FEW_FUNDS, "{}").await;
    let exhausted = funded.create_tenant(&served, FUNDS, r#"{"dailyRequestLimit":0}"#).await;
    let rate_limited =
        funded.create_tenant(&served, FUNDS, r#"{"requestsPerMinuteLimit":0}"#).await;
    let keys = [
        ("funded", &*funded.key),
        ("restricted", &restricted),
        ("unfunded", &unfunded.key),
        ("held", &held.key),
        ("exhausted", &exhausted.key),
        ("rate_limited", &rate_limited.key),
        ("wrong", "sk-mtr-wrong"),
        ("builtIn", &built_in.key),
    ];
    let stalled = dialect.stalled_call(&held.key).send(&served.proxy).await;
    assert_eq!(stalled.status, 200);
    let summary =
        run_suite(command, &suite_facts(dialect, &served.proxy, &built_in.proxy, &keys)).await;
    provider.release();
    stalled.text().await;

    let forwarded = summary.at("forwarded").count() + 1;
    assert_eq!(
        provider.request_count() as u64,
        forwarded,
        "each call is forwarded one time, and no refused one"
    );
    for seen in provider.requests() {
        let leaked = keys.iter().find(|(_, key)| (seen.target.clone() + &seen.head).contains(key));
        assert!(leaked.is_none(), "a key reached the provider: {leaked:?}");
    }
    let tenants = [
        ("unfunded", &unfunded),
        ("held", &held),
        ("exhausted", &exhausted),
        ("rate_limited", &rate_limited),
    ];
    for (name, tenant) in tenants {
        let refused =
            tenant.logs().await.into_iter().filter(|log| log.at("outcome").text() == "Refused");
        let counted: u64 = refused.map(|log| log.at("count").count()).sum();
        assert_eq!(counted, summary.at("sent").at(name).count(), "attempts in the log of {name}");
        tenant.assert_settled().await;
    }
    funded.assert_settled().await;
    let demo_tenant = Tenant::of_demo(&built_in);
    for reported in summary.at("reported").list() {
        let log = demo_tenant.log(&reported.at("requestLogId").text()).await;
        assert_eq!(log.at("settledBy").text(), "usage", "{log}");
        for unit in ["usage.inputTokens", "usage.outputTokens"] {
            assert_eq!(log.at(unit).count(), reported.at(unit).count(), "{unit} of {log}");
        }
    }
    demo_tenant.assert_settled().await;
}

/// The configuration of a suite, including an unreachable upstream.
fn gateway_config(dialect: Dialect, provider: &str, closed_url: &str) -> ConfigDir {
    let (chat_model, embedder) = dialect.models();
    let dialects = format!("dialects = [\"{}\"]\n", dialect.name());
    let rows = [
        upstream("fake", provider),
        dialects.clone(),
        upstream("nowhere", closed_url),
        dialects,
        model(chat_model, "upstream = \"fake\""),
        model(embedder, "upstream = \"fake\""),
        model("unreachable", "upstream = \"nowhere\""),
    ];
    ConfigDir::new(&rows.concat()).with_env("METEOR__PROXY__BODY_BYTES_MAX", BODY_BYTES_MAX)
}

/// The JSON argument of a suite.
fn suite_facts(dialect: Dialect, proxy: &str, built_in: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys.iter().map(|(name, key)| format!(r#""{name}":"{key}""#)).collect();
    let (model, embedder) = dialect.models();
    let (keys, text) = (keys.join(","), dialect.text());
    let openai::Usage { prompt, completion, .. } = USAGE;
    format!(
        r#"{{"proxy":"http://{proxy}","builtIn":"http://{built_in}","keys":{{{keys}}},"model":"{model}","embedder":"{embedder}","text":"{text}","input":{prompt},"output":{completion},"bodyBytesMax":{BODY_BYTES_MAX}}}"#
    )
}

/// The folder where `tests/run` installs the packages, a subfolder for each runtime.
fn packages() -> PathBuf {
    let target = scratch().parent().expect("scratch is in the target folder");
    std::env::var_os("SDK_FOLDER").map_or_else(|| target.join("sdk"), PathBuf::from)
}

/// The command of a suite, or `None` if its packages are missing and not required.
pub fn suite_command(runtime: &str, script: &str) -> Option<Command> {
    let folder = packages().join(runtime);
    let (program, present) = if runtime == "node" {
        (PathBuf::from("node"), folder.join("node_modules/.package-lock.json"))
    } else {
        (folder.join("bin/python"), folder.join("bin/python"))
    };
    if !present.exists() {
        let required = std::env::var_os("REQUIRE_SDK").is_some_and(|value| value == "1");
        assert!(!required, "no packages in {}; `tests/run` installs them", folder.display());
        println!("skipped: no packages in {}; run `tests/run`", folder.display());
        return None;
    }
    let mut command = Command::new(program);
    // Inherit only PATH, so that no key, proxy or base URL of the environment is used.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("SDK_NODE", packages().join("node/"));
    command.env("HOME", scratch());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script));
    Some(command)
}

/// Runs a suite to its end. Returns the JSON on its last line.
pub async fn run_suite(mut command: Command, facts: &str) -> Json {
    command.arg(facts);
    let mut suite = Process::start(command, |_| false);
    let ended = tokio::time::timeout(SUITE_TIMEOUT, async {
        while suite.is_running() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let in_time = ended.await.is_ok();
    assert!(in_time, "the suite took longer than {SUITE_TIMEOUT:?}: {}", suite.log());
    let status = suite.wait_exit().await;
    assert!(status.success(), "{status}: {}", suite.log());
    let lines = suite.stdout_lines().await;
    println!("{}", lines.join("\n"));
    Json::new(lines.last().expect("the suite prints a summary"))
}
