//! strace on one thread of the gateway: how many system calls it made.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::harness::wait::DEADLINE;

/// strace on one thread.
pub struct Trace {
    strace: Child,
    output: PathBuf,
}

impl Trace {
    /// Starts to trace the thread with this id.
    pub fn attach(thread: &str, output: PathBuf) -> Self {
        let mut strace = Command::new("strace")
            .args(["-qq", "-o"])
            .arg(&output)
            .args(["-p", thread])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let status = format!("/proc/{thread}/status");
        let deadline = Instant::now() + DEADLINE;
        while fs::read_to_string(&status).is_ok_and(|text| text.contains("TracerPid:\t0\n")) {
            assert!(Instant::now() < deadline, "strace attaches to the worker");
            assert!(strace.try_wait().is_ok_and(|ended| ended.is_none()), "strace runs");
            std::thread::yield_now();
        }
        Self { strace, output }
    }

    /// Ends the trace; returns the number of system calls.
    pub fn detach(mut self) -> u64 {
        let pid = self.strace.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "strace can be interrupted");
        self.strace.wait().expect("strace ends");
        let trace = fs::read_to_string(&self.output).expect("strace wrote its trace");
        trace.lines().filter(|line| line.contains('(')).count() as u64
    }
}
