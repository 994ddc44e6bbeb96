//! The real binary as a child process: its output, its exit, and a check that its log has no
//! secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::wait::eventually;

/// A gateway process. It is killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    stdout: Arc<Mutex<Stdout>>,
    /// Texts that must not appear in the log. Tests add secrets as they create them.
    secrets: Mutex<Vec<String>>,
    /// True if the test provokes a panic.
    pub may_panic: bool,
}

/// Lines of standard output.
#[derive(Default)]
struct Stdout {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts the binary. A line of standard output for which `for_people` is false counts as log
    /// output and so may hold no secret.
    pub fn start(mut command: Command, is_for_people: fn(&str) -> bool) -> Self {
        let log = log_file();
        let file = OpenOptions::new().append(true).open(&log).expect("the log was made");
        let mut copy = file.try_clone().expect("a second handle");
        command.env("RUST_BACKTRACE", "1").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().expect("the binary starts");
        let output = child.stdout.take().expect("standard output is a pipe");
        let stdout = Arc::new(Mutex::new(Stdout::default()));
        let writer = Arc::clone(&stdout);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if !is_for_people(&line) {
                    let _ = writeln!(copy, "{line}");
                }
                writer.lock().expect("the lock is not poisoned").lines.push(line);
            }
            writer.lock().expect("the lock is not poisoned").ended = true;
        });
        Self { child, log, stdout, secrets: Mutex::default(), may_panic: false }
    }

    /// Waits for the first line of standard output that matches. Panics if the process exits
    /// without it.
    pub async fn wait_for_line(&self, wanted: fn(&str) -> bool) -> String {
        eventually("the line on standard output", async || {
            let stdout = self.stdout.lock().expect("the lock is not poisoned");
            let line = stdout.lines.iter().find(|line| wanted(line)).cloned();
            assert!(line.is_some() || !stdout.ended, "it exited without the line: {}", self.log());
            line
        })
        .await
    }

    /// Waits for the exit and returns all of standard output.
    pub async fn stdout_lines(&mut self) -> Vec<String> {
        self.wait_exit().await;
        eventually("the end of standard output", async || {
            let stdout = self.stdout.lock().expect("the lock is not poisoned");
            stdout.ended.then(|| stdout.lines.clone())
        })
        .await
    }

    /// The log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Fails the test if the log contains `secret`.
    pub fn forbid_in_log(&self, secret: &str) {
        self.secrets.lock().expect("the lock is not poisoned").push(secret.to_owned());
    }

    /// Copies the forbidden texts of another process.
    pub fn forbid_same_as(&self, other: &Self) {
        let theirs = other.secrets.lock().expect("the lock is not poisoned").clone();
        self.secrets.lock().expect("the lock is not poisoned").extend(theirs);
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_none()
    }

    /// Sends SIGKILL: nothing is flushed.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends SIGHUP, as a closed terminal does.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -\"$1\" \"$0\"", &pid, name]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} can be sent");
    }

    /// Peak resident memory.
    pub fn peak_resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a peak");
        kib.parse::<u64>().expect("a number") << 10
    }

    /// CPU time of all threads.
    pub fn cpu_time(&self) -> Duration {
        let threads =
            fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process runs");
        let nanoseconds = threads.flatten().map(|thread| {
            let used = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            used.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Current resident memory.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|suffix| suffix.trim().strip_suffix(" kB"));
        kilobytes.and_then(|text| text.parse::<u64>().ok()).expect("a size in kB") * 1_024
    }

    pub async fn wait_exit(&mut self) -> ExitStatus {
        eventually("the process ends", async || {
            self.child.try_wait().expect("the child can be waited for")
        })
        .await
    }
}

impl Drop for Process {
    /// Kills the process, and fails every test whose log contains a secret or a panic.
    fn drop(&mut self) {
        self.kill();
        let (Ok(secrets), Ok(log)) = (self.secrets.lock(), fs::read(&self.log)) else { return };
        let log = String::from_utf8_lossy(&log);
        let leaked = secrets.iter().any(|secret| log.contains(secret)) || contains_secret(&log);
        assert!(
            !leaked || std::thread::panicking(),
            "the log contains a secret: {}",
            self.log.display()
        );
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        if let Some(line) = panicked.filter(|_| !self.may_panic && !std::thread::panicking()) {
            panic!("the gateway panicked: {line}, see {}", self.log.display());
        }
    }
}

/// True if the text contains anything with the shape of an API key or a token.
pub fn contains_secret(text: &str) -> bool {
    ["sk-mtr-", "at-mtr-"].iter().flat_map(|stem| text.split(stem).skip(1)).any(|suffix| {
        suffix.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count() > 20
    })
}

pub fn meteor_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_meteor"))
}

/// The folder for logs and temporary files of a test run.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn log_file() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let folder = scratch().join("logs");
    fs::create_dir_all(&folder).expect("a folder for logs");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let log = folder.join(format!("{}-{number}.log", std::process::id()));
    File::create(&log).expect("a log file");
    log
}
