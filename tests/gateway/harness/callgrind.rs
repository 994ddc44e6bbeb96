//! Callgrind around the gateway: what each thread executed between two moments.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A run of the gateway under callgrind, addressed by its process id.
pub struct Callgrind {
    folder: PathBuf,
    pid: u32,
}

/// What one thread executed.
#[derive(Debug, Default)]
pub struct Profile {
    pub instructions: u64,
    /// Calls into the allocator that return memory.
    pub allocations: u64,
    functions: BTreeSet<String>,
    /// Caller, callee and the instructions of the callee, with those of its own callees.
    calls: Vec<(String, String, u64)>,
}

impl Profile {
    /// True if a function was executed whose name contains `part`.
    pub fn ran(&self, part: &str) -> bool {
        self.functions.iter().any(|name| name.contains(part))
    }

    /// Instructions of the functions whose names contain `part`, with their callees.
    pub fn inclusive(&self, part: &str) -> u64 {
        let outer = self
            .calls
            .iter()
            .filter(|(caller, callee, _)| callee.contains(part) && !caller.contains(part));
        outer.map(|(_, _, instructions)| instructions).sum()
    }
}

/// The command line that goes before the binary; profiles are written into `folder`.
pub fn launcher(folder: &Path, from_start: bool) -> Vec<String> {
    let instrumented = if from_start { "yes" } else { "no" };
    vec![
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--quiet".to_owned(),
        "--separate-threads=yes".to_owned(),
        "--compress-strings=no".to_owned(),
        "--compress-pos=no".to_owned(),
        format!("--instr-atstart={instrumented}"),
        format!("--callgrind-out-file={}/profile", folder.display()),
    ]
}

impl Callgrind {
    pub fn new(folder: &Path, pid: u32) -> Self {
        Self { folder: folder.to_owned(), pid }
    }

    /// Counts from here on.
    pub fn begin(&self) {
        self.send(&["instrumentation", "on"]);
        self.send(&["zero"]);
    }

    /// Ends the count; returns a profile for each thread.
    pub fn end(&self) -> Vec<Profile> {
        clear(&self.folder);
        self.send(&["dump"]);
        let profiles = profiles(&self.folder);
        self.send(&["instrumentation", "off"]);
        profiles
    }

    fn send(&self, words: &[&str]) {
        let pid = format!("--pid={}", self.pid);
        let sent = Command::new("vgdb").arg(pid).args(words).output().expect("vgdb starts");
        let text = String::from_utf8_lossy(&sent.stderr);
        assert!(sent.status.success(), "vgdb {words:?}: {text}");
    }
}

/// Removes the profiles of an earlier count.
fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).expect("the folder of profiles").flatten() {
        fs::remove_file(entry.path()).expect("a profile can be removed");
    }
}

/// Reads the profiles that callgrind wrote into `folder`, one for each thread.
pub fn profiles(folder: &Path) -> Vec<Profile> {
    let files = fs::read_dir(folder).expect("the folder of profiles").flatten();
    // With separate threads each file is named after its thread; the one without is empty.
    files
        .filter(|file| file.file_name().to_string_lossy().contains('-'))
        .map(|file| parse(&fs::read_to_string(file.path()).expect("a profile is text")))
        .collect()
}

fn parse(text: &str) -> Profile {
    let mut profile = Profile::default();
    let (mut function, mut called) = ("", "");
    let mut is_call = false;
    for line in text.lines() {
        if is_call {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok());
            let call = (function.to_owned(), called.to_owned(), cost.unwrap_or(0));
            profile.calls.push(call);
            is_call = false;
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = name;
            profile.functions.insert(name.to_owned());
        } else if let Some(name) = line.strip_prefix("cfn=") {
            called = name;
        } else if let Some(rest) = line.strip_prefix("calls=") {
            is_call = true;
            let count = rest.split(' ').next().and_then(|count| count.parse().ok());
            if is_allocation(called)
                && !function.starts_with("mi_")
                && !function.starts_with("_mi_")
            {
                profile.allocations += count.unwrap_or(0_u64);
            }
        } else if let Some(total) = line.strip_prefix("totals: ") {
            profile.instructions = total.trim().parse().expect("a number of instructions");
        }
    }
    profile
}

/// The entry points of the allocator that return memory.
fn is_allocation(function: &str) -> bool {
    ["mi_malloc", "mi_zalloc", "mi_calloc", "mi_realloc", "mi_rezalloc"]
        .iter()
        .any(|name| function.starts_with(name))
}
