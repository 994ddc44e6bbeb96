//! A node without sockets for admission tests: real live state and a real journal.

use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use crate::accounting::admit::{AdmissionError, admit};
use crate::accounting::key_directory::Caller;
use crate::accounting::limit_state::LimitState;
use crate::accounting::live_state::LiveState;
use crate::accounting::permit::{AdmissionContext, AdmissionRequest, Permit};
use crate::accounting::wait_queue::WaitQueue;
use crate::clock;
use crate::counters::memory::LocalLender;
use crate::dialect::endpoint::Endpoint;
use crate::domain::catalog::{Model, Target, TargetRank};
use crate::domain::counter::WindowCounters;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::{Amounts, Limits};
use crate::domain::money::Nano;
use crate::domain::price::PriceTable;
use crate::domain::quota::Quota;
use crate::domain::service_tier::ServiceTier;
use crate::domain::settlement::Bound;
use crate::domain::tariff::{HoldPricing, PriceSchedule, Tariff};
use crate::domain::time::{Minute, UnixMs};
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};
use crate::domain::wallet::Wallet;
use crate::journal::chains::{Durability, Journal, JournalSettings};
use crate::journal::entry::Entry;
use crate::journal::reader::Reader;
use crate::journal::writer::Writer;
use crate::settings::admission::AdmissionSettings;

pub const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
pub const HOLD_WAIT: Duration = Duration::from_millis(500);

/// Wallet balance, limits and workers of a test node.
#[derive(Debug, Clone, Copy)]
pub struct TestNodeConfig {
    pub balance: i64,
    pub project: Limits,
    pub key: Limits,
    pub organization: Limits,
    pub hold_wait: Duration,
    pub waiting_max: usize,
    pub workers: u16,
    pub segment_bytes: u64,
}

impl Default for TestNodeConfig {
    fn default() -> Self {
        let (project, key) = (Limits::default(), Limits::default());
        let (organization, hold_wait) = (Limits::default(), Duration::from_mins(1));
        let (balance, workers, segment_bytes) = (1 << 50, 1, 1 << 20);
        let waiting_max = AdmissionSettings::default().waiting_max;
        Self { balance, project, key, organization, hold_wait, waiting_max, workers, segment_bytes }
    }
}

/// One API key with its project and organization, and the journal of all workers.
#[derive(Debug)]
pub struct TestNode {
    pub caller: Arc<Caller>,
    pub live_state: LiveState,
    journal: Arc<Journal>,
    _folder: TempDir,
}

/// One worker of a test node.
pub struct TestWorker {
    pub context: Rc<AdmissionContext>,
    pub node: Arc<TestNode>,
}

impl TestNodeConfig {
    pub fn start(self) -> Arc<TestNode> {
        // In memory if possible, because tests create thousands of journals.
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        let settings = JournalSettings {
            folder: folder.path().to_owned(),
            durability: Durability::Process,
            segment_bytes: self.segment_bytes,
            retention: Duration::from_mins(1),
            backlog_bytes_max: 1 << 40,
        };
        let journal = Arc::new(Journal::open(settings, 1, self.workers).expect("a journal"));
        let (hold_wait, waiting_max) = (self.hold_wait, self.waiting_max);
        let admission =
            AdmissionSettings { hold_wait, waiting_max, ..AdmissionSettings::default() };
        let live_state = LiveState::new(admission);
        let quota = |limits| Quota { limits, ..Quota::default() };
        let limit_state = |quota| limit_state_with(quota, self.hold_wait);
        let project = live_state.open_project(ProjectId(1), || limit_state(quota(self.project)));
        let open =
            || (limit_state(quota(self.organization)), Wallet::restore(Nano(self.balance), true));
        let organization = live_state.open_organization(OrganizationId(2), open);
        let caller = Arc::new(Caller {
            key: ApiKeyId(3),
            slot: project.set_key(ApiKeyId(3), self.key, limit_state),
            project,
            organization,
            enabled: true,
            expires_at: None,
            project_active: true,
            organization_active: true,
            output_clamp: true,
            on_disconnect_drain: false,
            allowed_models: vec![],
            allowed_cidrs: None,
        });
        Arc::new(TestNode { caller, live_state, journal, _folder: folder })
    }
}

impl Deref for TestWorker {
    type Target = TestNode;

    fn deref(&self) -> &TestNode {
        &self.node
    }
}

impl TestNode {
    /// Returns a worker. Tests that write much must call `make_segments`.
    pub fn worker(self: &Arc<Self>, worker: usize) -> TestWorker {
        let writer = Writer::new(Arc::clone(&self.journal.chains()[worker])).expect("a segment");
        self.journal.create_next_segments();
        let settings = self.live_state.admission();
        let input_cache = Arc::clone(self.live_state.input_cache());
        let context =
            Rc::new(AdmissionContext { writer, lender: LocalLender, settings, input_cache });
        TestWorker { context, node: Arc::clone(self) }
    }

    /// Creates the next journal segments.
    pub fn make_segments(&self) {
        self.journal.create_next_segments();
    }
}

impl TestWorker {
    pub fn new(balance: i64) -> Self {
        Self::with(balance, HOLD_WAIT, 10)
    }

    pub fn with(balance: i64, hold_wait: Duration, waiting_max: usize) -> Self {
        TestNodeConfig { balance, hold_wait, waiting_max, ..TestNodeConfig::default() }
            .start()
            .worker(0)
    }

    pub async fn wait_until_waiting(&self, count: usize) {
        let deadline = clock::monotonic_now() + HOLD_WAIT * 10;
        while self.live_state.waiting() != count {
            assert!(
                clock::monotonic_now() < deadline,
                "{} calls wait instead of {count}",
                self.live_state.waiting()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns all entries of the journal of this worker.
    pub fn entries(&self) -> Vec<Entry<String>> {
        self.context.writer.commit();
        let mut entries = Vec::new();
        let mut reader = Reader::new(self.journal.folder(), self.context.writer.chain().name, 0, 0);
        reader.read_to_end(|entry| entries.push(entry)).expect("entries");
        entries
    }

    /// Returns settled requests and tokens of the day, and the wallet balance.
    pub fn settled(&self) -> (i64, i64, i64) {
        let used = self.caller.project.usage_snapshot(clock::wall_now()).day.used;
        (used.requests, used.tokens, self.caller.organization.lock().wallet.balance().0)
    }

    pub async fn admit(&self, request: AdmissionRequest) -> Result<Permit, AdmissionError> {
        let caller = &self.node.caller;
        admit(&self.context, caller, request, || Some(Arc::clone(caller))).await
    }
}

pub fn limit_state(quota: Quota) -> LimitState {
    limit_state_with(quota, HOLD_WAIT)
}

fn limit_state_with(quota: Quota, hold_wait: Duration) -> LimitState {
    let (now, minute) = (clock::wall_now(), (Minute(0), Amounts::default()));
    let counters = WindowCounters::restore(quota.reset_day, now, minute, []);
    LimitState { quota, counters, queue: WaitQueue::new(hold_wait) }
}

/// Returns a model with these prices in nano-units per token.
pub fn model(list: &[(Unit, i64)]) -> Arc<Model> {
    let price = |prices: PriceTable, (unit, nano): &(Unit, i64)| {
        prices.with(*unit, nano * 1_000_000).expect("in range")
    };
    let prices = list.iter().fold(PriceTable::default(), price);
    let schedule = PriceSchedule::always(Tariff::flat(prices, "v".into()));
    Arc::new(Model {
        name: "gpt-4o".into(),
        aliases: Vec::new(),
        max_output_tokens: 1_000,
        output_field: "max_tokens",
        hidden_output: false,
        max_input_tokens: None,
        targets: vec![Target {
            upstream: 0,
            upstream_model: None,
            rank: TargetRank::default(),
            schedule,
        }],
    })
}

pub fn request(id: u128, model: &Arc<Model>, body: &str, output_tokens: u64) -> AdmissionRequest {
    let tariff = model.targets[0].schedule.effective_at(UnixMs(0));
    AdmissionRequest {
        id: RequestLogId(id),
        received_at: clock::wall_now(),
        started_at: clock::monotonic_now(),
        now: clock::wall_now(),
        endpoint: Endpoint::ChatCompletions,
        model: Arc::clone(model),
        bound: Bound { input_tokens: body.len() as u64, output_tokens },
        item_units_max: UnitCounts::default(),
        pricing: HoldPricing::new(vec![Arc::clone(tariff)], ServiceTier::DEFAULT),
        choices: 1,
        output_unbounded: false,
        body: Bytes::copy_from_slice(body.as_bytes()),
        has_external_content: false,
        counted_input: 1,
        usage_is_hidden: false,
        claim: None,
        stream: false,
        address: "::1".parse().expect("an address"),
    }
}

/// Returns a model at which input and output tokens cost one nano-unit each.
pub fn unit_price_model() -> Arc<Model> {
    model(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 1)])
}

/// Marks the call as answered by an upstream that reported this usage.
pub fn mark_answered(permit: &mut Permit, input: u64, output: u64) {
    permit.set_forwarded(true);
    permit.measured.complete = true;
    permit.measured.reported = Some(Usage::from_tokens(input, output));
}
