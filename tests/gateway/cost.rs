//! The cost gate: instructions, allocations and system calls of a call, against the figures in
//! `cost.json`.
//!
//! Callgrind counts the instructions of each thread, so the figures do not depend on the load or
//! the speed of the machine. They depend on the compiler, which is why `rust-toolchain.toml` pins
//! it. Figures are differences over many calls, so the cost of a start is in none of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::callgrind::{self, Callgrind, Profile};
use crate::harness::client::Request;
use crate::harness::json::Json;
use crate::harness::openai::{Usage, completion, events};
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::strace::Trace;
use crate::harness::tenant::Tenant;

/// The recorded figures, each per 100 calls.
const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/cost.json");
/// How much a figure may rise over the recorded one.
const RISE_MAX_PERCENT: u64 = 2;
/// Calls before the count begins: connections, caches and buffers have their size by then.
const WARM_UP_CALLS: usize = 64;
const COUNTED_CALLS: usize = 256;
/// Rounds in which system calls are counted. The smallest count stands: reads that a busy machine
/// splits only add to it.
const SYSTEM_CALL_ROUNDS: usize = 5;
/// Calls in the journal that is replayed. SQLite gets them in statements of 512 rows.
const REPLAYED_CALLS: usize = 1_024;
/// What a start calls to project the journal.
const RECOVERY: &str = "meteor::ledger::recovery::";
const FUNDS: i128 = 1_000_000_000_000_000;
const QUOTA: &str = r#"{"dailyRequestLimit":1000000,"monthlyRequestLimit":1000000,"dailyTokenLimit":1000000000,"monthlyTokenLimit":1000000000,"requestsPerMinuteLimit":1000000}"#;
const NO_REQUESTS: &str = r#"{"dailyRequestLimit":0}"#;
const MODEL: &str = "gpt-4o-mini";
const USAGE: Usage = Usage { prompt: 210, completion: 66, cached: 4, reasoning: 0 };

/// By name, per 100 calls.
type Figures = BTreeMap<String, u64>;

/// A provider that sends each response in one write, so that the gateway reads it in one piece
/// however slowly it runs.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_requests(stream));
        }
    });
    url
}

fn answer_requests(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let whole = completion(USAGE);
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{whole}",
        whole.len()
    );
    // A role, 63 words, an end, the usage and `[DONE]`: 67 events.
    let stream_events = events(&["word "; 63], Some(USAGE));
    assert_eq!(stream_events.len(), 67);
    let chunks = stream_events.iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len()));
    let streamed = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunks.collect::<String>()
    );
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (_, body) = read_message(&mut reader)?;
        let is_streamed = body.windows(13).any(|bytes| bytes == b"\"stream\":true");
        stream.write_all(if is_streamed { streamed.as_bytes() } else { whole.as_bytes() }).ok()?;
    }
}

/// The first line and the body of the next message; `None` once the peer has closed.
fn read_message(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = Vec::new();
    if let Some(length) = length {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    } else if head.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            reader.read_until(b'\n', &mut body).ok().filter(|read| *read > 0)?;
        }
    }
    Some((head.lines().next()?.to_owned(), body))
}

fn body(content_bytes: usize, stream: bool) -> String {
    let content = "abcdefg ".repeat(content_bytes / 8);
    format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{content}"}}],"max_tokens":600,"stream":{stream}}}"#
    )
}

/// One keep-alive connection of a client.
struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(authority: &str) -> Self {
        let stream = TcpStream::connect(authority).expect("the gateway accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, reader }
    }

    /// Makes `calls` calls one after the other, each answered with `status`.
    fn call(&mut self, calls: usize, wire: &[u8], status: &str) {
        for _ in 0..calls {
            self.stream.write_all(wire).expect("the request can be sent");
            let (line, body) = read_message(&mut self.reader).expect("a response");
            assert!(line.contains(status), "{line}: {}", String::from_utf8_lossy(&body));
        }
    }
}

struct Scenario {
    name: &'static str,
    body: String,
    quota: &'static str,
    status: &'static str,
}

fn scenarios() -> [Scenario; 4] {
    let accepted = |name, content_bytes, stream| Scenario {
        name,
        body: body(content_bytes, stream),
        quota: QUOTA,
        status: "200",
    };
    [
        accepted("call_1_kb", 900, false),
        accepted("stream_67_events", 900, true),
        accepted("call_100_kb", 100_000, false),
        Scenario {
            name: "refused_call",
            body: body(900, false),
            quota: NO_REQUESTS,
            status: "429",
        },
    ]
}

/// The binary in the profile that the figures are of. Building here makes the test true whoever
/// starts it; `tests/run` has built it before.
fn counted_binary() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    // Build scripts run again when these variables change, which the test runner sets.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    let built = cargo
        .args(["build", "--locked", "--profile", "counted", "--bin", "meteor"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(built.status.success(), "the `counted` profile must build");
    let output = String::from_utf8(built.stdout).expect("cargo writes UTF-8");
    let path = output.lines().filter_map(|line| line.split_once("\"executable\":\"")).next_back();
    PathBuf::from(path.expect("an executable was built").1.split('"').next().expect("its path"))
}

/// A configuration before the provider, with the log of a new installation, but without what sqlx
/// logs of statements that are slow under callgrind.
fn place(provider: &str) -> ConfigDir {
    let rows = upstream("fake", provider) + &model(MODEL, "upstream = \"fake\"");
    ConfigDir::new(&rows).with_env("RUST_LOG", "info,sqlx=off")
}

/// A tenant for each scenario, made before anything is counted.
async fn tenants(served: &Server) -> Vec<Tenant> {
    let session = served.complete_setup(&served.setup_link().await).await.json().await;
    let operator = served.operator(&session.at("data.token").text()).await;
    let mut tenants = Vec::new();
    for scenario in scenarios() {
        tenants.push(operator.create_tenant(served, FUNDS, scenario.quota).await);
    }
    tenants
}

fn wire(scenario: &Scenario, tenant: &Tenant) -> Vec<u8> {
    Request::chat(&tenant.key, &scenario.body).to_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_costs_more_than_recorded() {
    let binary = counted_binary();
    let mut figures = Figures::new();
    count_calls(&binary, &mut figures).await;
    count_system_calls(&binary, &mut figures).await;
    count_projection(&binary, &mut figures).await;
    compare(&figures);
}

/// Instructions and allocations of each scenario, on the worker's thread alone.
async fn count_calls(binary: &Path, figures: &mut Figures) {
    let place = place(&provider());
    let folder = place.path("profiles");
    fs::create_dir(&folder).expect("the folder can be written");
    let mut launcher = callgrind::launcher(&folder, false);
    launcher.push(binary.display().to_string());
    let served = Server::start(place.launched_by(launcher)).await;
    let tenants = tenants(&served).await;
    let callgrind = Callgrind::new(&folder, served.id());
    for (scenario, tenant) in scenarios().iter().zip(&tenants) {
        let wire = wire(scenario, tenant);
        let mut connection = Connection::open(&served.proxy);
        connection.call(WARM_UP_CALLS, &wire, scenario.status);
        callgrind.begin();
        connection.call(COUNTED_CALLS, &wire, scenario.status);
        let profiles = callgrind.end();
        let workers = profiles.iter().filter(|profile| profile.ran("meteor::proxy::"));
        let [worker] = *workers.collect::<Vec<_>>() else { panic!("one worker takes all calls") };
        figures.insert(
            format!("{} instructions", scenario.name),
            per_100(worker.instructions, COUNTED_CALLS),
        );
        figures.insert(
            format!("{} allocations", scenario.name),
            per_100(worker.allocations, COUNTED_CALLS),
        );
    }
}

fn per_100(sum: u64, calls: usize) -> u64 {
    sum * 100 / calls as u64
}

/// System calls of each scenario, on the worker's thread alone.
async fn count_system_calls(binary: &Path, figures: &mut Figures) {
    let served = Server::start(place(&provider()).launched_by(vec![binary.display().to_string()]));
    let served = served.await;
    let tenants = tenants(&served).await;
    let worker = worker_thread(served.id());
    for (scenario, tenant) in scenarios().iter().zip(&tenants) {
        let wire = wire(scenario, tenant);
        let mut connection = Connection::open(&served.proxy);
        connection.call(WARM_UP_CALLS, &wire, scenario.status);
        let counts = (0..SYSTEM_CALL_ROUNDS).map(|_| {
            let trace = Trace::attach(&worker, served.path("trace"));
            connection.call(COUNTED_CALLS, &wire, scenario.status);
            trace.detach()
        });
        let smallest = counts.min().expect("a round");
        figures.insert(format!("{} system calls", scenario.name), per_100(smallest, COUNTED_CALLS));
    }
}

/// The id of the thread that takes calls.
fn worker_thread(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let is_worker = |thread: &fs::DirEntry| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with("worker-"))
    };
    let mut workers = threads.filter(is_worker);
    workers.next().expect("a worker").file_name().to_string_lossy().into_owned()
}

/// Instructions of projector and SQLite for each call of a journal that is replayed in one batch:
/// a start with the journal, less a start without.
async fn count_projection(binary: &Path, figures: &mut Figures) {
    let native = vec![binary.display().to_string()];
    let place = place(&provider()).launched_by(native);
    let mut served = Server::start(place.clone()).await;
    let tenant = tenants(&served).await.swap_remove(0);
    served.terminate();
    assert!(served.wait_exit().await.success(), "it ends when it is asked to");
    copy(&place.path("data"), &place.path("before"));
    let mut served = served.restart().await;
    let tenant = served.rebind(tenant);
    let wire = wire(&scenarios()[0], &tenant);
    Connection::open(&served.proxy).call(REPLAYED_CALLS, &wire, "200");
    served.kill();
    copy(&place.path("before"), &place.path("replayed"));
    copy(&place.path("data/journal"), &place.path("replayed/journal"));
    let with = start_counted(binary, &place, "replayed").await;
    let without = start_counted(binary, &place, "before").await;
    for (part, function) in [("projector", RECOVERY), ("sqlite", "sqlite3_step")] {
        let rise = sum(&with, function).saturating_sub(sum(&without, function));
        figures.insert(format!("{part} instructions"), per_100(rise, REPLAYED_CALLS));
    }
}

/// What each thread executes from a start on this data to its end.
async fn start_counted(binary: &Path, place: &ConfigDir, data: &str) -> Vec<Profile> {
    let folder = place.path(&format!("{data}-profiles"));
    fs::create_dir(&folder).expect("the folder can be written");
    let mut launcher = callgrind::launcher(&folder, true);
    launcher.push(binary.display().to_string());
    let place = place.clone().launched_by(launcher);
    let data = place.path(data).display().to_string();
    let mut served = Server::start(place.with_env("METEOR__DATA__FOLDER", data)).await;
    served.terminate();
    assert!(served.wait_exit().await.success(), "it ends when it is asked to");
    callgrind::profiles(&folder)
}

/// Instructions that `function` and its callees executed, in all threads.
fn sum(profiles: &[Profile], function: &str) -> u64 {
    profiles.iter().map(|profile| profile.inclusive(function)).sum()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be written");
    for entry in fs::read_dir(from).expect("the folder can be read").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a file can be copied");
        }
    }
}

/// Fails if a figure rose, or is not recorded; says what every figure is, and what to do.
fn compare(figures: &Figures) {
    if std::env::var_os("METEOR_RECORD_COST").is_some() {
        let lines: Vec<String> =
            figures.iter().map(|(name, figure)| format!("  \"{name}\": {figure}")).collect();
        let text = format!("{{\n{}\n}}\n", lines.join(",\n"));
        fs::write(FIGURES, text).expect("the figures can be written");
    }
    let recorded = fs::read_to_string(FIGURES).expect("the figures can be read");
    let recorded = Json::new(&recorded);
    let mut risen = Vec::new();
    for (name, now) in figures {
        let before = recorded.find(name).map_or(0, |figure| figure.count());
        let line = format!("{name}: {now} per 100 calls, recorded {before}");
        println!("{line}");
        if *now * 100 > before * (100 + RISE_MAX_PERCENT) {
            risen.push(line);
        }
    }
    assert!(
        risen.is_empty(),
        "a call costs over {RISE_MAX_PERCENT} % more than recorded:\n{}\n\
         Find the cause with callgrind_annotate, and remove it. If the rise is worth its price, \
         record the new figures with `just record-cost` and give the reason in the commit.",
        risen.join("\n")
    );
}
