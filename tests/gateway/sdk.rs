//! The official `openai` package against the gateway: see `tests/sdk/openai_sdk.py`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::gateway::Gateway;
use crate::openai::{Usage, reply};
use crate::tenant::Tenant;
use crate::upstream::Upstream;

/// The interpreter that `tests/run` prepared, with the package beside it.
fn python() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let target = target.parent().expect("it lies in the target folder");
    std::env::var_os("SDK_PYTHON").map_or_else(|| target.join("sdk/bin/python"), PathBuf::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_openai_package_completes_calls_and_raises_its_own_classes() {
    let found = Command::new(python()).args(["-c", "import openai"]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        let required = std::env::var_os("REQUIRE_SDK").is_some_and(|value| value == "1");
        assert!(
            !required,
            "no python with `openai` at {}; `tests/run` makes one",
            python().display()
        );
        println!("skipped: no python with `openai` at {}; run `tests/run`", python().display());
        return;
    }
    let upstream = Upstream::start(|seen| reply(seen, Usage::of(9, 3), Duration::ZERO)).await;
    let gateway = Gateway::before(&upstream).await;
    let built_in = Gateway::with_built_in_provider().await;
    let funded = Tenant::new(&gateway, 1_000_000_000, "{}").await;
    let narrow = funded.new_key(&gateway, r#"{"name":"narrow","allowedModels":["gpt-4o"]}"#).await;
    let poor = Tenant::new(&gateway, 0, "{}").await;
    let spent = Tenant::new(&gateway, 1_000_000_000, r#"{"dailyRequestLimit":0}"#).await;
    let minute = r#"{"requestsPerMinuteLimit":0}"#;
    let hurried = Tenant::new(&gateway, 1_000_000_000, minute).await;
    let facts = format!(
        r#"{{"proxy":"http://{}/v1","builtIn":"http://{}/v1","builtInKey":"{}","funded":"{}","narrow":"{narrow}","poor":"{}","spent":"{}","hurried":"{}"}}"#,
        gateway.proxy, built_in.proxy, built_in.key, funded.key, poor.key, spent.key, hurried.key,
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/openai_sdk.py");
    let mut command = Command::new(python());
    command.arg(script).arg(facts).env_remove("OPENAI_API_KEY").env_remove("OPENAI_BASE_URL");
    for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    let ran = tokio::task::spawn_blocking(move || command.output().expect("python runs")).await;
    let ran = ran.expect("the script was waited for");
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");

    assert_eq!(upstream.count(), 2, "what was refused did not reach the provider");
    for (tenant, refusals) in [(&poor, 1), (&spent, 1)] {
        let logs = tenant.logs().await;
        assert_eq!(logs.len(), refusals, "one attempt, not retried: {logs:?}");
        assert_eq!(logs[0].at("outcome").text(), "Refused", "{logs:?}");
        tenant.at_rest().await;
    }
    funded.at_rest().await;
}
