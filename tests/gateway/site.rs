//! A site: one data folder, before which a gateway is killed and started again and again, with the
//! provider behind it, its tenants, and all that was seen of their calls.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::crowd::{Ask, Dialect, Heard, PIECE_BYTES, TOLD};
use crate::gateway::{fresh_folder, ready};
use crate::json::{Json, money};
use crate::openai::{self, Usage};
use crate::process::{Process, binary};
use crate::tenant::Tenant;
use crate::upstream::{Plan, Seen, Step, Upstream};
use crate::{anthropic, gemini};

/// A limit of a tenant's own, which grows while the gateway is killed and started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bites {
    Never,
    Requests,
    Tokens,
    /// Over all projects of the organization.
    Spend,
    Wallet,
}

/// Who calls, under which limit.
pub struct Place {
    pub tenant: Tenant,
    pub bites: Bites,
    /// Where the limit stands; of a wallet, what was paid in.
    pub limit: i128,
}

/// Money that was paid in, or given back, and whether that was answered.
#[derive(Clone, Debug)]
pub struct Paid {
    /// Stands beside the record, and is the key under which it is done once.
    pub name: String,
    pub place: usize,
    pub path: &'static str,
    pub body: String,
    pub answer: Option<u16>,
}

/// What a tenant has at first, and what it gets more of with each round.
pub const fn step(bites: Bites) -> i128 {
    match bites {
        Bites::Never => 1_000_000_000_000,
        Bites::Requests => 15,
        Bites::Tokens => 2_500,
        Bites::Spend | Bites::Wallet => 16_000_000,
    }
}

/// A data folder and what is known of it from outside.
pub struct Site {
    folder: Arc<TempDir>,
    upstream: Upstream,
    open: Arc<AtomicUsize>,
    process: Option<Process>,
    pub places: Vec<Place>,
    pub heard: Vec<Heard>,
    pub paid: Vec<Paid>,
}

/// Counts an answer as open until its plan is dropped, however that comes.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Site {
    /// A folder with these tenants; a second project of the first one joins them.
    pub async fn new(bites: &[Bites]) -> Self {
        let folder = fresh_folder();
        let log = folder.path().join("provider.log");
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let (log, open) = (Mutex::new(log), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&open);
        let upstream = Upstream::start(move |seen| plan(seen, &log, &counted)).await;
        let mut site = Self {
            folder,
            upstream,
            open,
            process: None,
            places: Vec::new(),
            heard: Vec::new(),
            paid: Vec::new(),
        };
        let (operator, _) = site.start(None).await;
        let process = site.process.as_ref().expect("it was started");
        for bites in bites {
            let limit = step(*bites);
            let (funds, quota) = match bites {
                Bites::Wallet => (limit, "{}".to_owned()),
                Bites::Spend => (step(Bites::Never), "{}".to_owned()),
                _ => (step(Bites::Never), quota(*bites, limit)),
            };
            let tenant = operator.found(process, funds, &quota).await;
            if *bites == Bites::Spend {
                tenant.organization_quota(&self::quota(*bites, limit)).await;
            }
            site.places.push(Place { tenant, bites: *bites, limit });
        }
        let mut second = site.places[0].tenant.second_project(process).await;
        second.key = second.new_key(process, r#"{"name":"third"}"#).await;
        site.places.push(Place { tenant: second, bites: Bites::Never, limit: 0 });
        site
    }

    fn spawn(&self, crash: Option<&str>) -> Process {
        let mut command = binary();
        command.args(["demo", "--json", "--upstream", &self.upstream.url, "--data"]);
        command.arg(self.folder.path().join("data")).env("RUST_LOG", "warn");
        command.env("METEOR__LOG__CALLS", "false").env("METEOR__JOURNAL__SEGMENT_BYTES", "1048576");
        // So that a call is refused before the next kill, and does not wait for it.
        command.env("METEOR__ADMISSION__HOLD_WAIT_MS", "100");
        if let Some(crash) = crash {
            command.env("METEOR_CRASH", crash);
        }
        Process::start(command, |line| line.contains("\"proxyUrl\""))
    }

    /// Starts the gateway; who runs it, and how long it took until it was ready.
    pub async fn start(&mut self, crash: Option<&str>) -> (Tenant, Duration) {
        assert!(self.process.is_none(), "one at a time");
        let begun = Instant::now();
        let process = self.spawn(crash);
        let facts = Json::new(&process.line(|line| line.contains("\"proxyUrl\"")).await);
        let text = |name: &str| facts.at(name).text();
        let authority = |name: &str| text(name).trim_start_matches("http://").to_owned();
        let operator = Tenant {
            admin: authority("adminUrl"),
            proxy: authority("proxyUrl"),
            token: text("adminToken"),
            organization: text("organizationId"),
            project: text("projectId"),
            key: text("apiKey"),
        };
        ready(&operator.admin).await;
        let took = begun.elapsed();
        process.hides(&operator.token);
        for Place { tenant, .. } in &mut self.places {
            process.hides(&tenant.key);
            tenant.admin.clone_from(&operator.admin);
            tenant.proxy.clone_from(&operator.proxy);
        }
        self.process = Some(process);
        (operator, took)
    }

    /// Starts it at a point that it does not live to pass.
    pub async fn start_in_vain(&mut self, crash: &str) {
        assert!(self.process.is_none(), "one at a time");
        self.process = Some(self.spawn(Some(crash)));
        self.dies().await;
    }

    /// Waits until it has killed itself.
    pub async fn dies(&mut self) {
        let mut process = self.process.take().expect("it was started");
        let status = process.ended().await;
        assert_eq!(status.signal(), Some(9), "{status}: {}", process.log());
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it was started");
        assert!(process.alive(), "it ended by itself: {}", process.log());
        process.kill();
    }

    pub fn tenants(&self) -> Vec<Tenant> {
        self.places.iter().map(|place| place.tenant.clone()).collect()
    }

    /// How many answers the provider has begun and not ended.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The first marker that no call has had.
    pub fn next_marker(&self) -> u32 {
        self.heard.iter().map(|heard| heard.ask.marker + 1).max().unwrap_or_default()
    }

    /// The calls that have reached the provider, as its own log has them.
    pub fn provided(&self) -> Vec<u32> {
        let log = std::fs::read_to_string(self.folder.path().join("provider.log"));
        let log = log.expect("the provider's log can be read");
        log.lines().map(|line| line.parse().expect("a marker")).collect()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/meteor.db")
    }

    /// Gives every tenant that is at its limit room for some calls more.
    pub async fn raise(&mut self) {
        for at in 0..self.places.len() {
            let Place { tenant, bites, limit } = &mut self.places[at];
            match bites {
                Bites::Never => continue,
                Bites::Wallet => {
                    let paid = recharge(self.paid.len(), at, step(Bites::Wallet));
                    self.pay(paid).await;
                    continue;
                }
                Bites::Requests | Bites::Tokens | Bites::Spend => *limit += step(*bites),
            }
            let quota = quota(*bites, *limit);
            if *bites == Bites::Spend {
                tenant.organization_quota(&quota).await;
            } else {
                tenant.quota(&quota).await;
            }
        }
    }

    /// Asks for all that was not answered once more: it is done once.
    pub async fn pay_again(&mut self) {
        for at in 0..self.paid.len() {
            if self.paid[at].answer.is_none() {
                let mut paid = self.paid[at].clone();
                paid.answer = pay(&self.places[paid.place].tenant, &paid).await;
                assert!(paid.answer.is_some(), "an answer: {paid:?}");
                self.paid[at] = paid;
            }
        }
    }

    pub async fn pay(&mut self, mut paid: Paid) {
        paid.answer = pay(&self.places[paid.place].tenant, &paid).await;
        self.paid.push(paid);
    }
}

fn quota(bites: Bites, limit: i128) -> String {
    match bites {
        Bites::Never | Bites::Wallet => "{}".to_owned(),
        Bites::Requests => format!(r#"{{"dailyRequestLimit":{limit}}}"#),
        Bites::Tokens => format!(r#"{{"dailyTokenLimit":{limit}}}"#),
        Bites::Spend => format!(r#"{{"dailySpendLimit":{}}}"#, money(limit)),
    }
}

/// Money for the wallet of a place.
pub fn recharge(number: usize, place: usize, nano: i128) -> Paid {
    let name = format!("paid-{number}");
    let body = format!(r#"{{"amount":{},"reference":"{name}"}}"#, money(nano));
    Paid { name, place, path: "/api/organization/wallet/recharge", body, answer: None }
}

/// A part of what a call has cost, given back.
pub fn refund(number: usize, heard: &Heard) -> Paid {
    let (name, place) = (format!("paid-{number}"), heard.ask.tenant);
    let (_, id) = heard.head.as_ref().expect("a call that came to its end");
    let at = [8, 12, 16, 20];
    let parts =
        [&id[..at[0]], &id[at[0]..at[1]], &id[at[1]..at[2]], &id[at[2]..at[3]], &id[at[3]..]];
    let body = format!(
        r#"{{"requestLogId":"{}","amount":{},"description":"{name}"}}"#,
        parts.join("-"),
        money(heard.ask.cost() / 50)
    );
    Paid { name, place, path: "/api/organization/wallet/refund", body, answer: None }
}

/// The status that it was answered with, if it was.
pub async fn pay(tenant: &Tenant, paid: &Paid) -> Option<u16> {
    let request = crate::client::Request::post(paid.path, &paid.body);
    let request = tenant.signed(request.header("idempotency-key", &paid.name));
    let mut answer = request.try_send(&tenant.admin).await.ok()?;
    answer.rest().await.1.then_some(answer.status)
}

/// What the provider does: it notes the call first of all, and then says what it is told to.
fn plan(seen: &Seen, log: &Mutex<File>, open: &Arc<AtomicUsize>) -> Plan {
    let told = seen.header(TOLD).unwrap_or_else(|| panic!("no `{TOLD}` in {}", seen.head));
    let told: Vec<u64> = told.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [marker, prompt, completion, cached, pieces, pace, fails] = told[..] else {
        panic!("not what a call tells: {told:?}")
    };
    let line = format!("{marker}\n");
    let noted = log.lock().expect("no test panics while it notes").write_all(line.as_bytes());
    noted.expect("the provider's log can be written");
    open.fetch_add(1, Ordering::SeqCst);
    let guard = Open(Arc::clone(open));
    let usage = Usage { cached, ..Usage::of(prompt, completion) };
    let plan = if fails == 1 {
        Plan::json(500, openai::error())
    } else {
        answer(seen, usage, pieces, Duration::from_millis(pace))
    };
    let keep = Step::Tell(Arc::new(move || {
        let _ = &guard;
    }));
    plan.but(0, keep)
}

fn answer(seen: &Seen, usage: Usage, pieces: u64, pace: Duration) -> Plan {
    let text = if pieces > 3 { "word ".repeat(PIECE_BYTES / 5) } else { "Hello".to_owned() };
    let words = vec![&*text; usize::try_from(pieces).expect("a few")];
    if seen.target.contains("/messages") {
        if seen.wants("stream") {
            Plan::stream(anthropic::events(&words, usage), pace)
        } else {
            Plan::json(200, anthropic::whole(usage))
        }
    } else if seen.target.contains(":streamGenerateContent") {
        Plan::stream(gemini::events(&gemini::chunks(&words, usage)), pace)
    } else if seen.target.contains(":generateContent") {
        gemini::json(200, gemini::whole(usage))
    } else if seen.wants("stream") {
        let asked = seen.wants("stream_options.include_usage").then_some(usage);
        Plan::stream(openai::events(&words, asked), pace)
    } else {
        Plan::json(200, openai::completion(usage))
    }
}

/// One call that no other is beside.
pub fn lone(marker: u32, way: crate::crowd::Way) -> Ask {
    let completion = if matches!(way, crate::crowd::Way::Long) { 2_500 } else { 7 };
    let usage = Usage::of(20, completion);
    Ask { marker, tenant: 0, dialect: Dialect::OpenAi, way, usage, pace: 20 }
}
