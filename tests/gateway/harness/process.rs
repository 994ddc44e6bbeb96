//! The real binary as a process of its own: what it says, how it ends, and that its log tells no
//! secret.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::wait::eventually;

/// A process; it ends with the test.
pub struct Process {
    child: Child,
    log: PathBuf,
    stdout: Arc<Mutex<Stdout>>,
    /// What must not stand in the log; more joins it as a test makes more.
    secrets: Mutex<Vec<String>>,
    /// Whether a panic is what the test is about.
    pub may_panic: bool,
}

/// Standard output.
#[derive(Default)]
struct Stdout {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts the binary. A line of its standard output that is not `for_people` belongs to the
    /// log, and so may hold no secret.
    pub fn start(mut command: Command, for_people: fn(&str) -> bool) -> Self {
        let log = log_file();
        let file = OpenOptions::new().append(true).open(&log).expect("the log was made");
        let mut copy = file.try_clone().expect("a second handle");
        command.env("RUST_BACKTRACE", "1").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().expect("the binary starts");
        let output = child.stdout.take().expect("standard output is a pipe");
        let stdout = Arc::new(Mutex::new(Stdout::default()));
        let noted = Arc::clone(&stdout);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if !for_people(&line) {
                    let _ = writeln!(copy, "{line}");
                }
                noted.lock().expect("no test panics while it notes").lines.push(line);
            }
            noted.lock().expect("no test panics while it notes").ended = true;
        });
        Self { child, log, stdout, secrets: Mutex::default(), may_panic: false }
    }

    /// The first line on standard output that is `wanted`; the test fails if it ends without.
    pub async fn wait_for_line(&self, wanted: fn(&str) -> bool) -> String {
        eventually("the line on standard output", async || {
            let said = self.stdout.lock().expect("no test panics while it notes");
            let line = said.lines.iter().find(|line| wanted(line)).cloned();
            assert!(line.is_some() || !said.ended, "it ended without the line: {}", self.log());
            line
        })
        .await
    }

    /// All that it ever said on standard output.
    pub async fn stdout_lines(&mut self) -> Vec<String> {
        self.ended().await;
        eventually("the end of standard output", async || {
            let said = self.stdout.lock().expect("no test panics while it notes");
            said.ended.then(|| said.lines.clone())
        })
        .await
    }

    /// What the log holds by now.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// No log may hold this.
    pub fn hides(&self, secret: &str) {
        self.secrets.lock().expect("no test panics while it notes").push(secret.to_owned());
    }

    /// Nor may this log hold what that one forbid_in_log.
    pub fn forbid_same_as(&self, other: &Self) {
        let theirs = other.secrets.lock().expect("no test panics while it notes").clone();
        self.secrets.lock().expect("no test panics while it notes").extend(theirs);
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child can be asked").is_none()
    }

    /// As `kill -9`: nothing is flushed, nothing is said.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// As when its terminal closes.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -\"$1\" \"$0\"", &pid, name]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} can be sent");
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a peak");
        kib.parse::<u64>().expect("a number") << 10
    }

    /// The processor's time that all of its threads have used.
    pub fn cpu_time(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let nanoseconds = threads.flatten().map(|thread| {
            let used = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            used.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// The memory that it occupies, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let told = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let told = told.expect("it runs");
        let resident = told.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|rest| rest.trim().strip_suffix(" kB"));
        kilobytes.and_then(|text| text.parse::<u64>().ok()).expect("a size in kB") * 1_024
    }

    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", async || {
            self.child.try_wait().expect("the child can be asked")
        })
        .await
    }
}

impl Drop for Process {
    /// Ends the process, and fails the test when its log holds a secret: so it is for every test.
    fn drop(&mut self) {
        self.kill();
        let (Ok(secrets), Ok(log)) = (self.secrets.lock(), fs::read(&self.log)) else { return };
        let log = String::from_utf8_lossy(&log);
        let told = secrets.iter().any(|secret| log.contains(secret)) || contains_secret(&log);
        assert!(!told || std::thread::panicking(), "a secret stands in {}", self.log.display());
        let panicked = log.lines().find(|line| line.contains("panicked at"));
        if let Some(line) = panicked.filter(|_| !self.may_panic && !std::thread::panicking()) {
            panic!("the gateway panicked: {line}, see {}", self.log.display());
        }
    }
}

/// Whether anything in the text has the shape of a key or a token, whoever made it.
pub fn contains_secret(text: &str) -> bool {
    ["sk-mtr-", "at-mtr-"].iter().flat_map(|stem| text.split(stem).skip(1)).any(|rest| {
        rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count() > 20
    })
}

/// The binary under test.
pub fn meteor_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_meteor"))
}

/// Where a run leaves what its reader may look for.
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
