//! The real binary as a process of its own: started, killed, started again on the same folder.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Request;
use crate::json::Json;
use crate::upstream::Upstream;
use crate::wait::{eventually, in_time};

/// A running `meteor demo`.
pub struct Gateway {
    /// Host and port of the two listeners.
    pub proxy: String,
    pub admin: String,
    pub key: String,
    pub token: String,
    pub organization: String,
    pub project: String,
    child: Child,
    folder: Arc<TempDir>,
    upstream: Option<String>,
    log: PathBuf,
    /// What must not stand in the log; more joins it as a test makes more.
    secrets: Mutex<Vec<String>>,
}

impl Gateway {
    /// With a provider of the test's own.
    pub async fn before(upstream: &Upstream) -> Self {
        Self::start(fresh_folder(), Some(upstream.url.clone()), "debug").await
    }

    /// With a log that tells all it can.
    pub async fn talkative(upstream: &Upstream) -> Self {
        Self::start(fresh_folder(), Some(upstream.url.clone()), "trace").await
    }

    /// With the provider that is built in, as a newcomer starts it.
    pub async fn with_built_in_provider() -> Self {
        Self::start(fresh_folder(), None, "debug").await
    }

    /// After its end: again, with the same folder and provider.
    pub async fn again(mut self) -> Self {
        self.kill();
        let again = Self::start(Arc::clone(&self.folder), self.upstream.clone(), "debug").await;
        let kept = self.secrets.lock().expect("no test panics while it notes").clone();
        again.secrets.lock().expect("no test panics while it notes").extend(kept);
        again
    }

    async fn start(folder: Arc<TempDir>, upstream: Option<String>, level: &str) -> Self {
        let log = log_file();
        let mut child = spawn(&folder, upstream.as_deref(), level, &log);
        let facts = in_time("the one line of `meteor demo --json`", facts(&mut child, &log)).await;
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
            child,
            folder,
            upstream,
            log,
            secrets: Mutex::new(vec![text("apiKey"), text("adminToken")]),
        };
        eventually("the gateway is ready", async || {
            let answer = Request::get("/readyz").try_send(&gateway.admin).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        gateway
    }

    /// A second process on the same folder, while this one runs: how it ends.
    pub async fn second(&self) -> ExitStatus {
        let mut second = spawn(&self.folder, self.upstream.as_deref(), "debug", &log_file());
        ended(&mut second).await
    }

    /// No log may hold this either.
    pub fn hides(&self, secret: &str) {
        self.secrets.lock().expect("no test panics while it notes").push(secret.to_owned());
    }

    /// Where it keeps everything.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn alive(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_none()
    }

    /// As `kill -9`: nothing is flushed, nothing is said.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGTERM can be sent");
    }

    pub async fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child).await
    }
}

impl Drop for Gateway {
    /// Ends the process, and fails the test when its log holds a secret: so it is for every test.
    fn drop(&mut self) {
        self.kill();
        let (Ok(secrets), Ok(log)) = (self.secrets.lock(), fs::read(&self.log)) else { return };
        let log = String::from_utf8_lossy(&log);
        let told = secrets.iter().any(|secret| log.contains(secret)) || holds_a_key(&log);
        assert!(!told || std::thread::panicking(), "a secret stands in {}", self.log.display());
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        if let Some(line) = panicked.filter(|_| !std::thread::panicking()) {
            panic!("the gateway panicked: {line}, see {}", self.log.display());
        }
    }
}

/// Whether anything in the text has the shape of a key or a token, whoever made it.
pub fn holds_a_key(text: &str) -> bool {
    ["sk-mtr-", "at-mtr-"].iter().flat_map(|stem| text.split(stem).skip(1)).any(|rest| {
        rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count() > 20
    })
}

fn spawn(folder: &TempDir, upstream: Option<&str>, level: &str, log: &PathBuf) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meteor"));
    command.args(["demo", "--json", "--data"]).arg(folder.path().join("data"));
    if let Some(url) = upstream {
        command.args(["--upstream", url]);
    }
    let log = OpenOptions::new().append(true).open(log).expect("the log was made");
    command.env("RUST_LOG", level).env("RUST_BACKTRACE", "1").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    command.spawn().expect("the binary starts")
}

/// Reads the line of facts; all else that is said on standard output belongs to the log.
async fn facts(child: &mut Child, log_file: &PathBuf) -> Json {
    let output = child.stdout.take().expect("standard output is a pipe");
    let mut log = OpenOptions::new().append(true).open(log_file).expect("the log was made");
    let (told, facts) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut told = Some(told);
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match told.take() {
                Some(told) if line.contains("\"proxyUrl\"") => drop(told.send(line)),
                waiting => {
                    told = waiting;
                    let _ = writeln!(log, "{line}");
                }
            }
        }
    });
    let facts = facts.await.unwrap_or_else(|_| {
        let said = fs::read_to_string(log_file).unwrap_or_default();
        panic!("`meteor demo --json` ended without its line of facts: {said}")
    });
    Json::new(&facts)
}

async fn ended(child: &mut Child) -> ExitStatus {
    eventually("the process ends", async || child.try_wait().expect("the child can be asked")).await
}

fn fresh_folder() -> Arc<TempDir> {
    Arc::new(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the test"))
}

/// The logs of a run stay where its reader can look for them.
fn log_file() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("logs");
    fs::create_dir_all(&folder).expect("a folder for logs");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let log = folder.join(format!("{}-{number}.log", std::process::id()));
    File::create(&log).expect("a log file");
    log
}

/// The time since `start`, for what must happen soon.
#[track_caller]
pub fn within(limit: Duration, start: Instant, end: Instant, what: &str) {
    let took = end.saturating_duration_since(start);
    assert!(took <= limit, "{what} took {took:?}, not {limit:?}");
}
