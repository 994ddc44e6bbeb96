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

use crate::harness::demo::{temp_folder, wait_ready};
use crate::harness::json::{Json, money};
use crate::harness::openai;
use crate::harness::openai::Usage;
use crate::harness::process::{Process, meteor_command};
use crate::harness::random_callers::{ClientView, Dialect, PIECE_BYTES, PLAN_HEADER, PlannedCall};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};
use crate::harness::{anthropic, gemini};

/// A limit of a tenant's own, which grows while the gateway is killed and started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitedBy {
    Nothing,
    Requests,
    Tokens,
    /// Over all projects of the organization.
    Spend,
    Wallet,
}

/// Who calls, under which limit.
pub struct LimitedTenant {
    pub tenant: Tenant,
    pub limited_by: LimitedBy,
    /// Where the limit stands; of a wallet, what was paid in.
    pub limit: i128,
}

/// Money that was paid in, or given back, and whether that was answered.
#[derive(Clone, Debug)]
pub struct Payment {
    /// Stands beside the record, and is the key under which it is done once.
    pub name: String,
    pub tenant: usize,
    pub path: &'static str,
    pub body: String,
    pub status: Option<u16>,
}

/// What a tenant has at first, and what it gets more of with each round.
pub const fn limit_step(bites: LimitedBy) -> i128 {
    match bites {
        LimitedBy::Nothing => 1_000_000_000_000,
        LimitedBy::Requests => 15,
        LimitedBy::Tokens => 2_500,
        LimitedBy::Spend | LimitedBy::Wallet => 16_000_000,
    }
}

/// A data folder and what is known of it from outside.
pub struct Deployment {
    folder: Arc<TempDir>,
    upstream: Upstream,
    open: Arc<AtomicUsize>,
    process: Option<Process>,
    pub limited_tenants: Vec<LimitedTenant>,
    pub client_views: Vec<ClientView>,
    pub payments: Vec<Payment>,
}

/// Counts an answer as open until its plan is dropped, however that comes.
struct OpenGuard(Arc<AtomicUsize>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Deployment {
    /// A folder with these tenants; a second project of the first one joins them.
    pub async fn new(bites: &[LimitedBy]) -> Self {
        let folder = temp_folder();
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
            limited_tenants: Vec::new(),
            client_views: Vec::new(),
            payments: Vec::new(),
        };
        let (operator, _) = site.start(None).await;
        let process = site.process.as_ref().expect("it was started");
        for bites in bites {
            let limit = limit_step(*bites);
            let (funds, quota) = match bites {
                LimitedBy::Wallet => (limit, "{}".to_owned()),
                LimitedBy::Spend => (limit_step(LimitedBy::Nothing), "{}".to_owned()),
                _ => (limit_step(LimitedBy::Nothing), quota(*bites, limit)),
            };
            let tenant = operator.create_tenant(process, funds, &quota).await;
            if *bites == LimitedBy::Spend {
                tenant.set_organization_quota(&self::quota(*bites, limit)).await;
            }
            site.limited_tenants.push(LimitedTenant { tenant, limited_by: *bites, limit });
        }
        let mut second = site.limited_tenants[0].tenant.create_second_project(process).await;
        second.key = second.create_key(process, r#"{"name":"third"}"#).await;
        site.limited_tenants.push(LimitedTenant {
            tenant: second,
            limited_by: LimitedBy::Nothing,
            limit: 0,
        });
        site
    }

    fn spawn(&self, crash: Option<&str>) -> Process {
        let mut command = meteor_command();
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
        let facts = Json::new(&process.wait_for_line(|line| line.contains("\"proxyUrl\"")).await);
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
        wait_ready(&operator.admin).await;
        let took = begun.elapsed();
        process.hides(&operator.token);
        for LimitedTenant { tenant, .. } in &mut self.limited_tenants {
            process.hides(&tenant.key);
            tenant.admin.clone_from(&operator.admin);
            tenant.proxy.clone_from(&operator.proxy);
        }
        self.process = Some(process);
        (operator, took)
    }

    /// Starts it at a point that it does not live to pass.
    pub async fn start_and_crash(&mut self, crash: &str) {
        assert!(self.process.is_none(), "one at a time");
        self.process = Some(self.spawn(Some(crash)));
        self.wait_for_crash().await;
    }

    /// Waits until it has killed itself.
    pub async fn wait_for_crash(&mut self) {
        let mut process = self.process.take().expect("it was started");
        let status = process.ended().await;
        assert_eq!(status.signal(), Some(9), "{status}: {}", process.log());
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it was started");
        assert!(process.is_running(), "it ended by itself: {}", process.log());
        process.kill();
    }

    pub fn tenants(&self) -> Vec<Tenant> {
        self.limited_tenants.iter().map(|place| place.tenant.clone()).collect()
    }

    /// How many answers the provider has begun and not ended.
    pub fn open_responses(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The first marker that no call has had.
    pub fn next_marker(&self) -> u32 {
        self.client_views.iter().map(|heard| heard.call.marker + 1).max().unwrap_or_default()
    }

    /// The calls that have reached the provider, as its own log has them.
    pub fn forwarded_markers(&self) -> Vec<u32> {
        let log = std::fs::read_to_string(self.folder.path().join("provider.log"));
        let log = log.expect("the provider's log can be read");
        log.lines().map(|line| line.parse().expect("a marker")).collect()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/meteor.db")
    }

    /// Gives every tenant that is at its limit room for some calls more.
    pub async fn raise_limits(&mut self) {
        for at in 0..self.limited_tenants.len() {
            let LimitedTenant { tenant, limited_by: bites, limit } = &mut self.limited_tenants[at];
            match bites {
                LimitedBy::Nothing => continue,
                LimitedBy::Wallet => {
                    let paid = recharge(self.payments.len(), at, limit_step(LimitedBy::Wallet));
                    self.pay(paid).await;
                    continue;
                }
                LimitedBy::Requests | LimitedBy::Tokens | LimitedBy::Spend => {
                    *limit += limit_step(*bites)
                }
            }
            let quota = quota(*bites, *limit);
            if *bites == LimitedBy::Spend {
                tenant.set_organization_quota(&quota).await;
            } else {
                tenant.set_quota(&quota).await;
            }
        }
    }

    /// Asks for all that was not answered once more: it is done once.
    pub async fn retry_payments(&mut self) {
        for at in 0..self.payments.len() {
            if self.payments[at].status.is_none() {
                let mut paid = self.payments[at].clone();
                paid.status = send_payment(&self.limited_tenants[paid.tenant].tenant, &paid).await;
                assert!(paid.status.is_some(), "an answer: {paid:?}");
                self.payments[at] = paid;
            }
        }
    }

    pub async fn pay(&mut self, mut paid: Payment) {
        paid.status = send_payment(&self.limited_tenants[paid.tenant].tenant, &paid).await;
        self.payments.push(paid);
    }
}

fn quota(bites: LimitedBy, limit: i128) -> String {
    match bites {
        LimitedBy::Nothing | LimitedBy::Wallet => "{}".to_owned(),
        LimitedBy::Requests => format!(r#"{{"dailyRequestLimit":{limit}}}"#),
        LimitedBy::Tokens => format!(r#"{{"dailyTokenLimit":{limit}}}"#),
        LimitedBy::Spend => format!(r#"{{"dailySpendLimit":{}}}"#, money(limit)),
    }
}

/// Money for the wallet of a place.
pub fn recharge(number: usize, place: usize, nano: i128) -> Payment {
    let name = format!("paid-{number}");
    let body = format!(r#"{{"amount":{},"reference":"{name}"}}"#, money(nano));
    Payment { name, tenant: place, path: "/api/organization/wallet/recharge", body, status: None }
}

/// A part of what a call has cost, given back.
pub fn refund(number: usize, heard: &ClientView) -> Payment {
    let (name, place) = (format!("paid-{number}"), heard.call.tenant);
    let (_, id) = heard.head.as_ref().expect("a call that came to its end");
    let at = [8, 12, 16, 20];
    let parts =
        [&id[..at[0]], &id[at[0]..at[1]], &id[at[1]..at[2]], &id[at[2]..at[3]], &id[at[3]..]];
    let body = format!(
        r#"{{"requestLogId":"{}","amount":{},"description":"{name}"}}"#,
        parts.join("-"),
        money(heard.call.cost() / 50)
    );
    Payment { name, tenant: place, path: "/api/organization/wallet/refund", body, status: None }
}

/// The status that it was answered with, if it was.
pub async fn send_payment(tenant: &Tenant, paid: &Payment) -> Option<u16> {
    let request = crate::harness::client::Request::post(paid.path, &paid.body);
    let request = tenant.authorize(request.header("idempotency-key", &paid.name));
    let mut answer = request.try_send(&tenant.admin).await.ok()?;
    answer.read_to_end().await.1.then_some(answer.status)
}

/// What the provider does: it notes the call first of all, and then says what it is told to.
fn plan(seen: &ReceivedRequest, log: &Mutex<File>, open: &Arc<AtomicUsize>) -> Plan {
    let told =
        seen.header(PLAN_HEADER).unwrap_or_else(|| panic!("no `{PLAN_HEADER}` in {}", seen.head));
    let told: Vec<u64> = told.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [marker, prompt, completion, cached, pieces, pace, fails] = told[..] else {
        panic!("not what a call tells: {told:?}")
    };
    let line = format!("{marker}\n");
    let noted = log.lock().expect("no test panics while it notes").write_all(line.as_bytes());
    noted.expect("the provider's log can be written");
    open.fetch_add(1, Ordering::SeqCst);
    let guard = OpenGuard(Arc::clone(open));
    let usage = Usage { cached, ..Usage::of(prompt, completion) };
    let plan = if fails == 1 {
        Plan::json(500, openai::error())
    } else {
        success_plan(seen, usage, pieces, Duration::from_millis(pace))
    };
    let keep = Step::Notify(Arc::new(move || {
        let _ = &guard;
    }));
    plan.insert_step(0, keep)
}

fn success_plan(seen: &ReceivedRequest, usage: Usage, pieces: u64, pace: Duration) -> Plan {
    let text = if pieces > 3 { "word ".repeat(PIECE_BYTES / 5) } else { "Hello".to_owned() };
    let words = vec![&*text; usize::try_from(pieces).expect("a few")];
    if seen.target.contains("/messages") {
        if seen.is_set("stream") {
            Plan::stream(anthropic::events(&words, usage), pace)
        } else {
            Plan::json(200, anthropic::complete_message(usage))
        }
    } else if seen.target.contains(":streamGenerateContent") {
        Plan::stream(gemini::events(&gemini::chunks(&words, usage)), pace)
    } else if seen.target.contains(":generateContent") {
        gemini::json(200, gemini::complete_content(usage))
    } else if seen.is_set("stream") {
        let asked = seen.is_set("stream_options.include_usage").then_some(usage);
        Plan::stream(openai::events(&words, asked), pace)
    } else {
        Plan::json(200, openai::completion(usage))
    }
}

/// One call that no other is beside.
pub fn single_call(marker: u32, way: crate::harness::random_callers::CallPlan) -> PlannedCall {
    let completion =
        if matches!(way, crate::harness::random_callers::CallPlan::LongStream) { 2_500 } else { 7 };
    let usage = Usage::of(20, completion);
    PlannedCall { marker, tenant: 0, dialect: Dialect::OpenAi, plan: way, usage, pace_ms: 20 }
}
