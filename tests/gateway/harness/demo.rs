//! `meteor demo` as a test process that can be killed and restarted on the same data folder.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::process::{Process, meteor_command, scratch};
use crate::harness::upstream::Upstream;
use crate::harness::wait::eventually;

/// A running `meteor demo`.
pub struct Gateway {
    /// Host and port of the listener.
    pub proxy: String,
    pub admin: String,
    pub key: String,
    pub token: String,
    pub organization: String,
    pub project: String,
    process: Process,
    folder: Arc<TempDir>,
    upstream: Option<String>,
}

impl Gateway {
    /// Starts the demo in front of this upstream.
    pub async fn with_upstream(upstream: &Upstream) -> Self {
        Self::start(temp_folder(), Some(upstream.url.clone()), "debug").await
    }

    /// Like [`Self::with_upstream`], with the log level `trace`.
    pub async fn with_trace_log(upstream: &Upstream) -> Self {
        Self::start(temp_folder(), Some(upstream.url.clone()), "trace").await
    }

    /// Starts the demo with its built-in upstream, as a new user does.
    pub async fn with_built_in_provider() -> Self {
        Self::start(temp_folder(), None, "debug").await
    }

    /// Kills the process and starts it again with the same folder and upstream.
    pub async fn restart(mut self) -> Self {
        self.kill();
        let again = Self::start(Arc::clone(&self.folder), self.upstream.clone(), "debug").await;
        again.forbid_same_as(&self);
        again
    }

    async fn start(folder: Arc<TempDir>, upstream: Option<String>, level: &str) -> Self {
        let process = spawn(&folder, upstream.as_deref(), level);
        let facts = Json::new(&process.wait_for_line(is_demo_info).await);
        let text = |name: &str| facts.at(name).text();
        let authority = |name: &str| {
            let url = text(name);
            let rest = url.strip_prefix("http://").expect("the demo speaks plain HTTP");
            rest.trim_end_matches('/').to_owned()
        };
        let gateway = Self {
            proxy: authority("proxyUrl"),
            admin: authority("adminUrl"),
            key: text("apiKey"),
            token: text("adminToken"),
            organization: text("organizationId"),
            project: text("projectId"),
            process,
            folder,
            upstream,
        };
        gateway.forbid_in_log(&gateway.key);
        gateway.forbid_in_log(&gateway.token);
        wait_ready(&gateway.admin).await;
        gateway
    }

    /// Starts a second process on the same folder while this one runs; returns its exit status.
    pub async fn start_second_process(&self) -> ExitStatus {
        spawn(&self.folder, self.upstream.as_deref(), "debug").wait_exit().await
    }

    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Deref for Gateway {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Waits until `/readyz` on this admin listener returns 200.
pub async fn wait_ready(admin: &str) {
    eventually("the gateway is ready", async || {
        let response = Request::get("/readyz").try_send(admin).await.ok()?;
        (response.status == 200).then_some(())
    })
    .await;
}

fn spawn(folder: &TempDir, upstream: Option<&str>, level: &str) -> Process {
    let mut command = meteor_command();
    command.args(["demo", "--json", "--data"]).arg(folder.path().join("data"));
    if let Some(url) = upstream {
        command.args(["--upstream", url]);
    }
    command.env("RUST_LOG", level);
    Process::start(command, is_demo_info)
}

fn is_demo_info(line: &str) -> bool {
    line.contains("\"proxyUrl\"")
}

pub fn temp_folder() -> Arc<TempDir> {
    Arc::new(TempDir::new_in(scratch()).expect("a folder for the test"))
}

/// Panics if more than `limit` passed between `start` and `end`.
#[track_caller]
pub fn assert_within(limit: Duration, start: Instant, end: Instant, what: &str) {
    let took = end.saturating_duration_since(start);
    assert!(took <= limit, "{what} took {took:?}, not {limit:?}");
}
