//! One data folder with a gateway that is killed and restarted, its upstream, its tenants, and all
//! that clients and the upstream observed.

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

/// The limit of a tenant, which is raised in every round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitedBy {
    Nothing,
    Requests,
    Tokens,
    /// A spend limit of the organization.
    Spend,
    Wallet,
}

/// A tenant and its limit.
pub struct LimitedTenant {
    pub tenant: Tenant,
    pub limited_by: LimitedBy,
    /// The value of the limit. For a wallet: the amount paid in.
    pub limit: i128,
}

/// A recharge or refund, and whether it was confirmed.
#[derive(Clone, Debug)]
pub struct Payment {
    /// The reference of the wallet record, and the idempotency key.
    pub name: String,
    pub tenant: usize,
    pub path: &'static str,
    pub body: String,
    pub status: Option<u16>,
}

/// The initial limit of a tenant, and its increase per round.
pub const fn limit_step(limited_by: LimitedBy) -> i128 {
    match limited_by {
        LimitedBy::Nothing => 1_000_000_000_000,
        LimitedBy::Requests => 15,
        LimitedBy::Tokens => 2_500,
        LimitedBy::Spend | LimitedBy::Wallet => 16_000_000,
    }
}

/// A data folder and everything observed from outside.
pub struct Deployment {
    folder: Arc<TempDir>,
    upstream: Upstream,
    open: Arc<AtomicUsize>,
    process: Option<Process>,
    pub limited_tenants: Vec<LimitedTenant>,
    pub client_views: Vec<ClientView>,
    pub payments: Vec<Payment>,
}

/// Counts a response as open until its plan is dropped, however that happens.
struct OpenGuard(Arc<AtomicUsize>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Deployment {
    /// Creates these tenants, and a second project of the first one.
    pub async fn new(limited_by: &[LimitedBy]) -> Self {
        let folder = temp_folder();
        let log = folder.path().join("upstream.log");
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let (log, open) = (Mutex::new(log), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&open);
        let upstream = Upstream::start(move |seen| plan(seen, &log, &counted)).await;
        let mut deployment = Self {
            folder,
            upstream,
            open,
            process: None,
            limited_tenants: Vec::new(),
            client_views: Vec::new(),
            payments: Vec::new(),
        };
        let (operator, _) = deployment.start(None).await;
        let process = deployment.process.as_ref().expect("the process was started");
        for limited_by in limited_by {
            let limit = limit_step(*limited_by);
            let (funds, quota) = match limited_by {
                LimitedBy::Wallet => (limit, "{}".to_owned()),
                LimitedBy::Spend => (limit_step(LimitedBy::Nothing), "{}".to_owned()),
                _ => (limit_step(LimitedBy::Nothing), quota(*limited_by, limit)),
            };
            let tenant = operator.create_tenant(process, funds, &quota).await;
            if *limited_by == LimitedBy::Spend {
                tenant.set_organization_quota(&self::quota(*limited_by, limit)).await;
            }
            deployment.limited_tenants.push(LimitedTenant {
                tenant,
                limited_by: *limited_by,
                limit,
            });
        }
        let mut second = deployment.limited_tenants[0].tenant.create_second_project(process).await;
        second.key = second.create_key(process, r#"{"name":"third"}"#).await;
        deployment.limited_tenants.push(LimitedTenant {
            tenant: second,
            limited_by: LimitedBy::Nothing,
            limit: 0,
        });
        deployment
    }

    fn spawn(&self, crash: Option<&str>) -> Process {
        let mut command = meteor_command();
        command.args(["demo", "--json", "--upstream", &self.upstream.url, "--data"]);
        command.arg(self.folder.path().join("data")).env("RUST_LOG", "warn");
        command.env("METEOR__LOG__CALLS", "false").env("METEOR__JOURNAL__SEGMENT_BYTES", "1048576");
        // Refuse a call before the next kill instead of letting it wait.
        command.env("METEOR__ADMISSION__HOLD_WAIT_MS", "100");
        if let Some(crash) = crash {
            command.env("METEOR_CRASH", crash);
        }
        Process::start(command, |line| line.contains("\"proxyUrl\""))
    }

    /// Starts the gateway. Returns the operator and the time until it was ready.
    pub async fn start(&mut self, crash: Option<&str>) -> (Tenant, Duration) {
        assert!(self.process.is_none(), "one at a time");
        let begun = Instant::now();
        let process = self.spawn(crash);
        let info = Json::new(&process.wait_for_line(|line| line.contains("\"proxyUrl\"")).await);
        let text = |name: &str| info.at(name).text();
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
        process.forbid_in_log(&operator.token);
        for LimitedTenant { tenant, .. } in &mut self.limited_tenants {
            process.forbid_in_log(&tenant.key);
            tenant.admin.clone_from(&operator.admin);
            tenant.proxy.clone_from(&operator.proxy);
        }
        self.process = Some(process);
        (operator, took)
    }

    /// Starts the gateway with a crash point that it reaches before it is ready.
    pub async fn start_and_crash(&mut self, crash: &str) {
        assert!(self.process.is_none(), "one at a time");
        self.process = Some(self.spawn(Some(crash)));
        self.wait_for_crash().await;
    }

    /// Waits until the process has killed itself.
    pub async fn wait_for_crash(&mut self) {
        let mut process = self.process.take().expect("the process was started");
        let status = process.wait_exit().await;
        assert_eq!(status.signal(), Some(9), "{status}: {}", process.log());
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the process was started");
        assert!(process.is_running(), "the process exited by itself: {}", process.log());
        process.kill();
    }

    pub fn tenants(&self) -> Vec<Tenant> {
        self.limited_tenants.iter().map(|tenant_index| tenant_index.tenant.clone()).collect()
    }

    /// Number of responses that the upstream has begun and not ended.
    pub fn open_responses(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The first unused marker.
    pub fn next_marker(&self) -> u32 {
        self.client_views.iter().map(|view| view.call.marker + 1).max().unwrap_or_default()
    }

    /// Markers of the calls in the upstream's log.
    pub fn forwarded_markers(&self) -> Vec<u32> {
        let log = std::fs::read_to_string(self.folder.path().join("upstream.log"));
        let log = log.expect("the upstream's log can be read");
        log.lines().map(|line| line.parse().expect("a marker")).collect()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/meteor.db")
    }

    /// Raises the limit of every limited tenant by one step.
    pub async fn raise_limits(&mut self) {
        for index in 0..self.limited_tenants.len() {
            let LimitedTenant { tenant, limited_by, limit } = &mut self.limited_tenants[index];
            match limited_by {
                LimitedBy::Nothing => continue,
                LimitedBy::Wallet => {
                    let payment =
                        recharge(self.payments.len(), index, limit_step(LimitedBy::Wallet));
                    self.pay(payment).await;
                    continue;
                }
                LimitedBy::Requests | LimitedBy::Tokens | LimitedBy::Spend => {
                    *limit += limit_step(*limited_by);
                }
            }
            let quota = quota(*limited_by, *limit);
            if *limited_by == LimitedBy::Spend {
                tenant.set_organization_quota(&quota).await;
            } else {
                tenant.set_quota(&quota).await;
            }
        }
    }

    /// Repeats every payment without a response; idempotency keys keep it from applying twice.
    pub async fn retry_payments(&mut self) {
        for index in 0..self.payments.len() {
            if self.payments[index].status.is_none() {
                let mut payment = self.payments[index].clone();
                payment.status =
                    send_payment(&self.limited_tenants[payment.tenant].tenant, &payment).await;
                assert!(payment.status.is_some(), "a response: {payment:?}");
                self.payments[index] = payment;
            }
        }
    }

    pub async fn pay(&mut self, mut payment: Payment) {
        payment.status = send_payment(&self.limited_tenants[payment.tenant].tenant, &payment).await;
        self.payments.push(payment);
    }
}

fn quota(limited_by: LimitedBy, limit: i128) -> String {
    match limited_by {
        LimitedBy::Nothing | LimitedBy::Wallet => "{}".to_owned(),
        LimitedBy::Requests => format!(r#"{{"dailyRequestLimit":{limit}}}"#),
        LimitedBy::Tokens => format!(r#"{{"dailyTokenLimit":{limit}}}"#),
        LimitedBy::Spend => format!(r#"{{"dailySpendLimit":{}}}"#, money(limit)),
    }
}

/// A recharge of the wallet of a tenant.
pub fn recharge(number: usize, tenant_index: usize, nano: i128) -> Payment {
    let name = format!("paid-{number}");
    let body = format!(r#"{{"amount":{},"reference":"{name}"}}"#, money(nano));
    Payment {
        name,
        tenant: tenant_index,
        path: "/api/organization/wallet/recharge",
        body,
        status: None,
    }
}

/// A refund of a part of the cost of a call.
pub fn refund(number: usize, view: &ClientView) -> Payment {
    let (name, tenant_index) = (format!("paid-{number}"), view.call.tenant);
    let (_, id) = view.head.as_ref().expect("a call with a response");
    let index = [8, 12, 16, 20];
    let parts = [
        &id[..index[0]],
        &id[index[0]..index[1]],
        &id[index[1]..index[2]],
        &id[index[2]..index[3]],
        &id[index[3]..],
    ];
    let body = format!(
        r#"{{"requestLogId":"{}","amount":{},"description":"{name}"}}"#,
        parts.join("-"),
        money(view.call.cost() / 50)
    );
    Payment {
        name,
        tenant: tenant_index,
        path: "/api/organization/wallet/refund",
        body,
        status: None,
    }
}

/// Sends the payment; returns the status of the response, if a complete one arrived.
pub async fn send_payment(tenant: &Tenant, payment: &Payment) -> Option<u16> {
    let request = crate::harness::client::Request::post(payment.path, &payment.body);
    let request = tenant.authorize(request.header("idempotency-key", &payment.name));
    let mut response = request.try_send(&tenant.admin).await.ok()?;
    response.read_to_end().await.1.then_some(response.status)
}

/// Logs the call before anything else, then responds as its header says.
fn plan(seen: &ReceivedRequest, log: &Mutex<File>, open: &Arc<AtomicUsize>) -> Plan {
    let numbers =
        seen.header(PLAN_HEADER).unwrap_or_else(|| panic!("no `{PLAN_HEADER}` in {}", seen.head));
    let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [marker, prompt, completion, cached, pieces, pace, fails] = numbers[..] else {
        panic!("malformed plan header: {numbers:?}")
    };
    let line = format!("{marker}\n");
    let logged = log.lock().expect("the lock is not poisoned").write_all(line.as_bytes());
    logged.expect("the upstream's log can be written");
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
        let usage = seen.is_set("stream_options.include_usage").then_some(usage);
        Plan::stream(openai::events(&words, usage), pace)
    } else {
        Plan::json(200, openai::completion(usage))
    }
}

/// A call that runs alone.
pub fn single_call(marker: u32, plan: crate::harness::random_callers::CallPlan) -> PlannedCall {
    let completion = if matches!(plan, crate::harness::random_callers::CallPlan::LongStream) {
        2_500
    } else {
        7
    };
    let usage = Usage::of(20, completion);
    PlannedCall { marker, tenant: 0, dialect: Dialect::OpenAi, plan, usage, pace_ms: 20 }
}
