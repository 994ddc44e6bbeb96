//! Many calls, 64 concurrently, against one limit, and their outcome.

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
/// The maximum output of the model.
pub const OUTPUT_MAX: u64 = 16_384;
pub const FUNDS: i128 = 1_000_000_000_000;

/// How long the upstream takes.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Ms(u64),
    /// Until this many calls are open and all others have a response.
    UntilOpen(usize),
}

/// The calls of one load.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    pub calls: usize,
    pub stream: bool,
    pub pace: Pace,
    /// The usage that the upstream reports.
    pub usage: Usage,
    /// True if the calls set an output limit.
    pub bounded: bool,
}

/// The outcome of all calls of a load.
pub struct LoadOutcome {
    pub served: usize,
    /// Calls that reached the upstream.
    pub reached: usize,
    /// The largest number of calls open at the upstream at one time.
    pub open_max: usize,
    pub refused: Vec<FullResponse>,
}

/// The largest usage of one call.
pub fn max_usage(stream: bool) -> Usage {
    bound(&chat(GPT_4O_MINI.model, MAX_TOKENS, stream), MAX_TOKENS)
}

impl LoadSpec {
    /// Calls that each use their maximum.
    pub fn at_max_usage(calls: usize, stream: bool, latency_ms: u64) -> Self {
        Self { calls, stream, pace: Pace::Ms(latency_ms), usage: max_usage(stream), bounded: true }
    }

    /// One call. Its headers control the upstream's response.
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

/// What the upstream observes of one load.
#[derive(Clone, Copy, Default)]
struct LoadCounters {
    reached: usize,
    open: usize,
    open_max: usize,
}

/// The counters of each load, by name.
#[derive(Default)]
struct LoadRegistry(Mutex<HashMap<String, LoadCounters>>);

impl LoadRegistry {
    fn update<T>(&self, load: &str, change: impl FnOnce(&mut LoadCounters) -> T) -> T {
        let mut loads = self.0.lock().expect("the lock is not poisoned");
        change(loads.entry(load.to_owned()).or_default())
    }

    fn call_started(&self, load: &str) {
        self.update(load, |seen| {
            seen.reached += 1;
            seen.open += 1;
            seen.open_max = seen.open_max.max(seen.open);
        });
    }

    fn call_ended(&self, load: &str) {
        self.update(load, |seen| seen.open -= 1);
    }
}

type Worker = JoinHandle<Vec<FullResponse>>;

/// Starts `CONCURRENCY` workers that send `calls` calls in total, taking `requests` in turn, each
/// to its proxy address.
fn spawn_workers(
    requests: Vec<(Request, String)>,
    calls: usize,
    answered: &Arc<AtomicUsize>,
) -> Vec<Worker> {
    let tickets = Arc::new(AtomicUsize::new(0));
    let worker = |(request, proxy): (Request, String)| {
        let (tickets, answered) = (Arc::clone(&tickets), Arc::clone(answered));
        tokio::spawn(async move {
            let mut responses = Vec::new();
            while tickets.fetch_add(1, Ordering::Relaxed) < calls {
                responses.push(FullResponse::read(request.send(&proxy).await).await);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            responses
        })
    };
    requests.into_iter().cycle().take(CONCURRENCY).map(worker).collect()
}

/// Collects the responses of all workers.
async fn collect_responses(workers: Vec<Worker>) -> Vec<FullResponse> {
    let mut responses = Vec::new();
    for worker in workers {
        responses.extend(worker.await.expect("no worker fails"));
    }
    responses
}

/// Sends this request `calls` times, 64 concurrently; returns all responses.
pub async fn send_concurrently(proxy: &str, request: &Request, calls: usize) -> Vec<FullResponse> {
    collect_responses(spawn_workers(
        vec![(request.clone(), proxy.to_owned())],
        calls,
        &Arc::default(),
    ))
    .await
}

/// A gateway in front of an upstream that the headers of each call control.
pub struct LoadGateway {
    pub gateway: Gateway,
    upstream: Upstream,
    loads: Arc<LoadRegistry>,
}

impl LoadGateway {
    pub async fn new() -> Self {
        let loads = Arc::new(LoadRegistry::default());
        let registry = Arc::clone(&loads);
        let upstream = Upstream::start(move |request| plan(request, &registry)).await;
        Self { gateway: Gateway::with_upstream(&upstream).await, upstream, loads }
    }

    /// Sends all calls, alternating between the callers.
    pub async fn run(&self, load: LoadSpec, callers: &[Tenant]) -> LoadOutcome {
        static STORMS: AtomicUsize = AtomicUsize::new(0);
        let name = STORMS.fetch_add(1, Ordering::Relaxed).to_string();
        let answered = Arc::new(AtomicUsize::new(0));
        let request = |caller: &Tenant| {
            (load.request(&caller.key).header("x-load", &name), caller.proxy.clone())
        };
        let workers = spawn_workers(callers.iter().map(request).collect(), load.calls, &answered);
        if let Pace::UntilOpen(open) = load.pace {
            eventually("all but the open calls have a response", async || {
                (open + answered.load(Ordering::Relaxed) == load.calls).then_some(())
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
        assert_eq!(refused.len(), load.calls);
        refused.retain(|response| response.status != 200);
        let LoadCounters { reached, open_max, .. } = self.loads.update(&name, |seen| *seen);
        LoadOutcome { served: load.calls - refused.len(), reached, open_max, refused }
    }
}

/// A call counts as open until the last piece of its response is about to be sent.
fn plan(request: &upstream::ReceivedRequest, loads: &Arc<LoadRegistry>) -> Plan {
    let usage = numbers(request, "x-usage");
    let bound = ["max_tokens", "max_completion_tokens"]
        .into_iter()
        .find_map(|field| request.json().find(field));
    let output = usage[1].min(bound.map_or(OUTPUT_MAX, |bound| bound.count()));
    let plan = reply(request, Usage::of(usage[0], output), Duration::ZERO);
    let plan = match request.header("x-latency-ms") {
        Some(_) => plan.with_latency(Duration::from_millis(numbers(request, "x-latency-ms")[0])),
        None => plan.insert_step(0, Step::Stall),
    };
    let load = request.header("x-load").unwrap_or_default().to_owned();
    loads.call_started(&load);
    let (loads, pieces) = (Arc::clone(loads), plan.send_count());
    plan.insert_step(pieces - 1, Step::Notify(Arc::new(move || loads.call_ended(&load))))
}

fn numbers(request: &upstream::ReceivedRequest, name: &str) -> Vec<u64> {
    let text = request.header(name).unwrap_or_else(|| panic!("no `{name}` in {}", request.head));
    text.split(' ').map(|number| number.parse().expect("a number")).collect()
}

/// Callers that share one limit, and one that it does not apply to.
pub struct Tenants {
    pub limited: Vec<Tenant>,
    pub unlimited: Option<Tenant>,
}

impl Tenants {
    /// Creates two keys of one project, two secrets of one key, or two projects of one
    /// organization, depending on the level.
    pub async fn with_limit(limit: &Limit, level: Level, value: i128, gateway: &Gateway) -> Self {
        let quota = limit.quota_json(value);
        let tenant = async |quota: &str| Tenant::new(gateway, FUNDS, quota).await;
        let first = match level {
            Level::Project => tenant(&quota).await,
            Level::Key | Level::Organization => tenant("{}").await,
        };
        match level {
            Level::Project => {
                let key = first.create_key(gateway, r#"{"name":"second"}"#).await;
                let free = first.create_second_project(gateway).await;
                Self {
                    limited: vec![first.clone(), Tenant { key, ..first }],
                    unlimited: Some(free),
                }
            }
            Level::Key => {
                let body = format!(r#"{{"name":"own",{}"#, &quota[1..]);
                let old = first.create_key(gateway, &body).await;
                let new = first.rotate_key("own", gateway).await;
                let with = |key| Tenant { key, ..first.clone() };
                Self { limited: vec![with(old), with(new)], unlimited: Some(first) }
            }
            Level::Organization => {
                first.set_organization_quota(&quota).await;
                let second = first.create_second_project(gateway).await;
                Self { limited: vec![first, second], unlimited: None }
            }
        }
    }

    pub async fn assert_settled(&self) {
        for tenant in &self.limited {
            tenant.assert_settled().await;
        }
    }
}

/// Runs `work` within one minute; repeats it if a new minute began meanwhile.
pub async fn within_one_minute<T>(work: impl AsyncFn() -> T) -> T {
    loop {
        let started = unix_minute();
        let result = work().await;
        if started == unix_minute() {
            return result;
        }
    }
}

/// Waits until at least 5 seconds are left of the current minute.
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
