//! A storm: many calls, 64 abreast, against one limit; and what became of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::harness::client::Request;
use crate::harness::demo::Gateway;
use crate::harness::limit_assertions::{FullResponse, Level, Limit, MINUTE_SECONDS};
use crate::harness::openai::{Usage, bound, chat, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::tenant::Tenant;
use crate::harness::upstream;
use crate::harness::upstream::{Plan, Step, Upstream};
use crate::harness::wait::eventually;

const CONCURRENCY: usize = 64;
pub const MAX_TOKENS: u64 = 20;
/// The most that the model says.
pub const OUTPUT_MAX: u64 = 16_384;
pub const FUNDS: i128 = 1_000_000_000_000;

/// How long the provider takes.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Ms(u64),
    /// Until this many calls are open and all others were answered.
    UntilOpen(usize),
}

/// How the calls of a storm go.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    pub calls: usize,
    pub stream: bool,
    pub pace: Pace,
    /// What it reports.
    pub usage: Usage,
    /// Whether the calls name a bound of their output.
    pub bounded: bool,
}

/// What became of them.
pub struct LoadOutcome {
    pub served: usize,
    /// How many reached the provider.
    pub reached: usize,
    /// How many were open there at once.
    pub open_max: usize,
    pub refused: Vec<FullResponse>,
}

/// The most that one of its calls can use.
pub fn max_usage(stream: bool) -> Usage {
    bound(&chat(GPT_4O_MINI.model, MAX_TOKENS, stream), MAX_TOKENS)
}

impl LoadSpec {
    /// Calls of which each uses all that it may.
    pub fn at_max_usage(calls: usize, stream: bool, latency_ms: u64) -> Self {
        Self { calls, stream, pace: Pace::Ms(latency_ms), usage: max_usage(stream), bounded: true }
    }

    /// One of its calls. Its headers tell the provider what to do.
    pub fn request(&self, key: &str) -> Request {
        let Usage { prompt, completion, .. } = self.usage;
        let mut body = chat(GPT_4O_MINI.model, MAX_TOKENS, self.stream);
        if !self.bounded {
            body = body.replace(&format!("\"max_tokens\":{MAX_TOKENS},"), "");
        }
        let call = Request::chat(key, body).header("x-usage", &format!("{prompt} {completion}"));
        match self.pace {
            Pace::Ms(latency) => call.header("x-latency-ms", &latency.to_string()),
            Pace::UntilOpen(_) => call,
        }
    }
}

/// What the provider has seen of one storm.
#[derive(Clone, Copy, Default)]
struct LoadCounters {
    reached: usize,
    open: usize,
    open_max: usize,
}

/// What it has seen of each.
#[derive(Default)]
struct LoadRegistry(Mutex<HashMap<String, LoadCounters>>);

impl LoadRegistry {
    fn update<T>(&self, storm: &str, note: impl FnOnce(&mut LoadCounters) -> T) -> T {
        let mut storms = self.0.lock().expect("no test panics while it counts");
        note(storms.entry(storm.to_owned()).or_default())
    }

    fn call_started(&self, storm: &str) {
        self.update(storm, |seen| {
            seen.reached += 1;
            seen.open += 1;
            seen.open_max = seen.open_max.max(seen.open);
        });
    }

    fn call_ended(&self, storm: &str) {
        self.update(storm, |seen| seen.open -= 1);
    }
}

type Worker = JoinHandle<Vec<FullResponse>>;

/// Begins to send so many calls, 64 abreast: these in turn, each to its proxy.
fn spawn_workers(
    requests: Vec<(Request, String)>,
    calls: usize,
    answered: &Arc<AtomicUsize>,
) -> Vec<Worker> {
    let tickets = Arc::new(AtomicUsize::new(0));
    let worker = |(request, proxy): (Request, String)| {
        let (tickets, answered) = (Arc::clone(&tickets), Arc::clone(answered));
        tokio::spawn(async move {
            let mut answers = Vec::new();
            while tickets.fetch_add(1, Ordering::Relaxed) < calls {
                answers.push(FullResponse::read(request.send(&proxy).await).await);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            answers
        })
    };
    requests.into_iter().cycle().take(CONCURRENCY).map(worker).collect()
}

/// All that was answered.
async fn collect_responses(workers: Vec<Worker>) -> Vec<FullResponse> {
    let mut answers = Vec::new();
    for worker in workers {
        answers.extend(worker.await.expect("no worker fails"));
    }
    answers
}

/// Sends this call so many times, 64 abreast; all answers.
pub async fn send_concurrently(proxy: &str, request: &Request, calls: usize) -> Vec<FullResponse> {
    collect_responses(spawn_workers(
        vec![(request.clone(), proxy.to_owned())],
        calls,
        &Arc::default(),
    ))
    .await
}

/// A gateway before a provider that does as the headers of each call say.
pub struct LoadGateway {
    pub gateway: Gateway,
    upstream: Upstream,
    loads: Arc<LoadRegistry>,
}

impl LoadGateway {
    pub async fn new() -> Self {
        let storms = Arc::new(LoadRegistry::default());
        let noted = Arc::clone(&storms);
        let upstream = Upstream::start(move |request| plan(request, &noted)).await;
        Self { gateway: Gateway::with_upstream(&upstream).await, upstream, loads: storms }
    }

    /// Sends them all, by these callers in turn.
    pub async fn run(&self, storm: LoadSpec, callers: &[Tenant]) -> LoadOutcome {
        static STORMS: AtomicUsize = AtomicUsize::new(0);
        let name = STORMS.fetch_add(1, Ordering::Relaxed).to_string();
        let answered = Arc::new(AtomicUsize::new(0));
        let request = |caller: &Tenant| {
            (storm.request(&caller.key).header("x-storm", &name), caller.proxy.clone())
        };
        let workers = spawn_workers(callers.iter().map(request).collect(), storm.calls, &answered);
        if let Pace::UntilOpen(open) = storm.pace {
            eventually("all but the open calls are answered", async || {
                (open + answered.load(Ordering::Relaxed) == storm.calls).then_some(())
            })
            .await;
            eventually("they are open", async || {
                (open <= self.loads.update(&name, |seen| seen.open)).then_some(())
            })
            .await;
            self.upstream.release();
        }
        let mut refused = collect_responses(workers).await;
        self.upstream.stall_again();
        assert_eq!(refused.len(), storm.calls);
        refused.retain(|answer| answer.status != 200);
        let LoadCounters { reached, open_max, .. } = self.loads.update(&name, |seen| *seen);
        LoadOutcome { served: storm.calls - refused.len(), reached, open_max, refused }
    }
}

/// A call is open until the last of its answer is about to be sent.
fn plan(request: &upstream::ReceivedRequest, storms: &Arc<LoadRegistry>) -> Plan {
    let usage = numbers(request, "x-usage");
    let bound = ["max_tokens", "max_completion_tokens"]
        .into_iter()
        .find_map(|field| request.json().find(field));
    let said = usage[1].min(bound.map_or(OUTPUT_MAX, |bound| bound.count()));
    let plan = reply(request, Usage::of(usage[0], said), Duration::ZERO);
    let plan = match request.header("x-latency-ms") {
        Some(_) => plan.with_latency(Duration::from_millis(numbers(request, "x-latency-ms")[0])),
        None => plan.insert_step(0, Step::Stall),
    };
    let storm = request.header("x-storm").unwrap_or_default().to_owned();
    storms.call_started(&storm);
    let (storms, pieces) = (Arc::clone(storms), plan.send_count());
    plan.insert_step(pieces - 1, Step::Notify(Arc::new(move || storms.call_ended(&storm))))
}

fn numbers(request: &upstream::ReceivedRequest, name: &str) -> Vec<u64> {
    let text = request.header(name).unwrap_or_else(|| panic!("no `{name}` in {}", request.head));
    text.split(' ').map(|number| number.parse().expect("a number")).collect()
}

/// Who calls under one limit, and somebody beside it.
pub struct Tenants {
    pub limited: Vec<Tenant>,
    pub unlimited: Option<Tenant>,
}

impl Tenants {
    /// Two keys of one project, both secrets of one key, or two projects of one organization.
    pub async fn with_limit(limit: &Limit, level: Level, value: i128, gateway: &Gateway) -> Self {
        let quota = limit.quota_json(value);
        let tenant = async |quota: &str| Tenant::new(gateway, FUNDS, quota).await;
        let one = match level {
            Level::Project => tenant(&quota).await,
            Level::Key | Level::Organization => tenant("{}").await,
        };
        match level {
            Level::Project => {
                let key = one.create_key(gateway, r#"{"name":"second"}"#).await;
                let free = one.create_second_project(gateway).await;
                Self { limited: vec![one.clone(), Tenant { key, ..one }], unlimited: Some(free) }
            }
            Level::Key => {
                let body = format!(r#"{{"name":"own",{}"#, &quota[1..]);
                let old = one.create_key(gateway, &body).await;
                let new = one.rotate_key("own", gateway).await;
                let with = |key| Tenant { key, ..one.clone() };
                Self { limited: vec![with(old), with(new)], unlimited: Some(one) }
            }
            Level::Organization => {
                one.set_organization_quota(&quota).await;
                let second = one.create_second_project(gateway).await;
                Self { limited: vec![one, second], unlimited: None }
            }
        }
    }

    pub async fn assert_settled(&self) {
        for tenant in &self.limited {
            tenant.assert_settled().await;
        }
    }
}

/// Does it within one minute: once more when a new one begins in its midst.
pub async fn within_one_minute<T>(work: impl AsyncFn() -> T) -> T {
    loop {
        let begun = unix_minute();
        let done = work().await;
        if begun == unix_minute() {
            return done;
        }
    }
}

/// Waits, where it must, until what takes a moment fits into the running minute.
pub async fn wait_for_early_minute() {
    eventually("a minute begins", async || {
        (unix_seconds() % MINUTE_SECONDS < MINUTE_SECONDS - 5).then_some(())
    })
    .await;
}

fn unix_minute() -> u64 {
    unix_seconds() / MINUTE_SECONDS
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}
