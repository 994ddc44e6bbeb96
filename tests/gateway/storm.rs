//! A storm: many calls, 64 abreast, against one limit; and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Request;
use crate::gateway::Gateway;
use crate::openai::{Usage, bound, chat, reply};
use crate::price::GPT_4O_MINI;
use crate::tenant::Tenant;
use crate::told::{MINUTE, Told};
use crate::upstream::{Seen, Upstream};

const ABREAST: usize = 64;
pub const MAX_TOKENS: u64 = 20;

/// How the calls of a storm go.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    pub calls: usize,
    pub stream: bool,
    /// How long the provider takes.
    pub latency_ms: u64,
    /// What it reports.
    pub usage: Usage,
}

/// What became of them.
pub struct Outcome {
    pub served: usize,
    /// How many reached the provider.
    pub reached: usize,
    pub refused: Vec<Told>,
}

/// The most that one of its calls can use.
pub fn most(stream: bool) -> Usage {
    bound(&chat(GPT_4O_MINI.model, MAX_TOKENS, stream), MAX_TOKENS)
}

impl Storm {
    /// Calls of which each uses all that it may.
    pub fn full(calls: usize, stream: bool, latency_ms: u64) -> Self {
        Self { calls, stream, latency_ms, usage: most(stream) }
    }

    /// One of its calls. Its headers tell the provider what to do.
    pub fn call(&self, key: &str) -> Request {
        let Usage { prompt, completion, .. } = self.usage;
        Request::chat(key, chat(GPT_4O_MINI.model, MAX_TOKENS, self.stream))
            .header("x-latency-ms", &self.latency_ms.to_string())
            .header("x-usage", &format!("{prompt} {completion}"))
    }
}

/// A gateway before a provider that does as the headers of each call say.
pub struct Scene {
    pub gateway: Gateway,
    pub upstream: Upstream,
}

impl Scene {
    pub async fn new() -> Self {
        let upstream = Upstream::start(|seen| {
            let latency = Duration::from_millis(numbers(seen, "x-latency-ms")[0]);
            let usage = numbers(seen, "x-usage");
            reply(seen, Usage::of(usage[0], usage[1]), Duration::ZERO).after(latency)
        })
        .await;
        Self { gateway: Gateway::before(&upstream).await, upstream }
    }

    /// Sends them all, by these callers in turn.
    pub async fn storm(&self, storm: Storm, callers: &[Tenant]) -> Outcome {
        static STORMS: AtomicUsize = AtomicUsize::new(0);
        let name = STORMS.fetch_add(1, Ordering::Relaxed).to_string();
        let tickets = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..ABREAST)
            .zip(callers.iter().cycle())
            .map(|(_, caller)| {
                let request = storm.call(&caller.key).header("x-storm", &name);
                let (tickets, proxy) = (Arc::clone(&tickets), caller.proxy.clone());
                tokio::spawn(async move {
                    let mut answers = Vec::new();
                    while tickets.fetch_add(1, Ordering::Relaxed) < storm.calls {
                        answers.push(Told::by(request.send(&proxy).await).await);
                    }
                    answers
                })
            })
            .collect();
        let mut refused = Vec::new();
        for worker in workers {
            refused.extend(worker.await.expect("no worker fails"));
        }
        assert_eq!(refused.len(), storm.calls);
        refused.retain(|answer| answer.status != 200);
        let seen = self.upstream.seen();
        let reached = seen.iter().filter(|seen| seen.header("x-storm") == Some(&name)).count();
        Outcome { served: storm.calls - refused.len(), reached, refused }
    }
}

fn numbers(seen: &Seen, name: &str) -> Vec<u64> {
    let text = seen.header(name).unwrap_or_else(|| panic!("no `{name}` in {}", seen.head));
    text.split(' ').map(|number| number.parse().expect("a number")).collect()
}

/// Does it within one minute: once more when a new one begins in its midst.
pub async fn in_one_minute<T>(work: impl AsyncFn() -> T) -> T {
    loop {
        let begun = minute();
        let done = work().await;
        if begun == minute() {
            return done;
        }
    }
}

fn minute() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    now.as_secs() / MINUTE
}
