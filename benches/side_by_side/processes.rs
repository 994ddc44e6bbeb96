//! Child processes that end with their parent, and the CPU time of process trees.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A child with piped standard input and output. Dropping it ends the child.
pub struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a program through the `exec` role of this executable, pinned to `core` if given.
    pub fn start(core: Option<usize>, program: &str, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("exec");
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        command.arg("--").arg(program).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        // A separate thread reads the output, so that waiting for a line can time out.
        let (sender, lines) = sync_channel(16);
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { child, input, lines })
    }

    /// Starts another role of this executable.
    pub fn start_role(core: Option<usize>, arguments: &[String]) -> Result<Self> {
        let executable = std::env::current_exe()?;
        Self::start(core, &executable.to_string_lossy(), arguments)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn read_line(&self, within: Duration) -> Result<String> {
        self.lines.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("no output for {} s", within.as_secs()),
            RecvTimeoutError::Disconnected => anyhow!("ended without output"),
        })
    }

    pub fn write_line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.input, "{line}")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Terminate gracefully first, because the nginx master must end its workers.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _already_gone = kill_process(pid, Signal::TERM);
        }
        let started_at = Instant::now();
        while started_at.elapsed() < Duration::from_secs(5) {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The role `exec`: becomes the program, which ends with its parent.
pub fn exec(core: Option<usize>, command: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    if let Some(core) = core {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores)?;
    }
    let [program, arguments @ ..] = command else { bail!("exec needs a program") };
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("exec {program}"))
}

/// Unit of times in /proc: 100 ticks per second on every supported Linux.
const TICK_US: f64 = 10_000.0;

/// CPU time of a process tree since its start, user and system together.
#[derive(Default)]
pub struct Cpu {
    /// From ticks; includes threads that have ended.
    processes_us: f64,
    processes: usize,
    threads: BTreeMap<u32, Thread>,
}

struct Thread {
    name: String,
    used_us: f64,
}

/// CPU time of a process tree between two measurements.
pub struct CpuUsed {
    pub total_us: f64,
    /// By thread name without its number. Threads that ended count in the total only.
    pub threads_us: BTreeMap<String, f64>,
}

impl Cpu {
    pub fn of_tree(root: u32) -> Result<Self> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            // The process may have ended since; then it is skipped.
            if let Ok(stat) = Stat::read(&format!("/proc/{pid}")) {
                parents.push((pid, stat.parent));
            }
        }
        let mut cpu = Self::default();
        let mut tree = vec![root];
        while let Some(process) = tree.pop() {
            tree.extend(
                parents.iter().filter(|(_, parent)| *parent == process).map(|(pid, _)| pid),
            );
            cpu.add_process(process)?;
        }
        Ok(cpu)
    }

    /// Measures one process without its children.
    pub fn of_process(pid: u32) -> Result<Self> {
        let mut cpu = Self::default();
        cpu.add_process(pid)?;
        Ok(cpu)
    }

    fn add_process(&mut self, pid: u32) -> Result<()> {
        self.processes += 1;
        self.processes_us += Stat::read(&format!("/proc/{pid}"))?.used_us;
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let folder = task.path().to_string_lossy().into_owned();
            let Ok(stat) = Stat::read(&folder) else { continue };
            // The same time as in `stat`, in nanoseconds, if the kernel reports it.
            let exact = fs::read_to_string(format!("{folder}/schedstat")).unwrap_or_default();
            let nanos = exact.split(' ').next().and_then(|text| text.parse::<f64>().ok());
            let used_us = nanos.filter(|n| *n > 0.0).map_or(stat.used_us, |n| n / 1000.0);
            let thread = task.file_name().to_string_lossy().parse()?;
            self.threads.insert(thread, Thread { name: stat.name, used_us });
        }
        Ok(())
    }

    pub fn since(&self, before: &Self) -> CpuUsed {
        let mut threads_us = BTreeMap::new();
        for (number, thread) in &self.threads {
            let earlier = before.threads.get(number).map_or(0.0, |thread| thread.used_us);
            *threads_us.entry(thread.name.clone()).or_default() += thread.used_us - earlier;
        }
        let running_us = threads_us.values().fold(0.0, |sum, used| sum + used);
        let by_ticks_us = self.processes_us - before.processes_us;
        // Rounding cannot explain the difference, so threads have ended. Their time counts too.
        let rounding_us = 2.0 * TICK_US * self.processes as f64;
        let total_us =
            if by_ticks_us > running_us + rounding_us { by_ticks_us } else { running_us };
        CpuUsed { total_us, threads_us }
    }
}

/// The fields of /proc/…/stat used here.
struct Stat {
    name: String,
    parent: u32,
    used_us: f64,
}

impl Stat {
    fn read(folder: &str) -> Result<Self> {
        let text = fs::read_to_string(format!("{folder}/stat"))?;
        // The name is in parentheses and may contain parentheses itself; the last one closes it.
        let (start, rest) = text.rsplit_once(')').context("no name in stat")?;
        let name = start.split_once('(').context("no name in stat")?.1;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        Ok(Self { name: name.to_owned(), parent: fields[1].parse()?, used_us: ticks * TICK_US })
    }
}

/// Idle time of the whole machine. The kernel counts idle time exactly but samples busy time, so
/// busy time is computed as the rest.
pub struct Machine {
    at: Instant,
    idle_us: f64,
    cores: f64,
}

impl Machine {
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let cores = text.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        let all = text.lines().next().context("an empty /proc/stat")?;
        let fields: Vec<&str> = all.split_ascii_whitespace().collect();
        let idle_ticks = fields[4].parse::<f64>()? + fields[5].parse::<f64>()?;
        Ok(Self { at: Instant::now(), idle_us: idle_ticks * TICK_US, cores: cores as f64 })
    }

    /// Returns the share of the machine, 0 to 1, that was busy with other work than `ours_us`.
    pub fn share_of_others(&self, before: &Self, ours_us: f64) -> f64 {
        let clock_us = (self.at - before.at).as_secs_f64() * 1e6 * self.cores;
        let busy_us = clock_us - (self.idle_us - before.idle_us);
        (busy_us - ours_us).max(0.0) / clock_us
    }
}
