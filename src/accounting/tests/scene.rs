//! Admission in a process of its own: real books, a real journal, no sockets.

use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use crate::accounting::account::Account;
use crate::accounting::admit::{Denial, admit};
use crate::accounting::books::Books;
use crate::accounting::directory::Caller;
use crate::accounting::permit::{Demand, Desk, Permit};
use crate::accounting::queue::Queue;
use crate::clock;
use crate::counters::memory::Whole;
use crate::dialect::endpoint::Endpoint;
use crate::domain::catalog::{Model, Rank, Target};
use crate::domain::counter::Counters;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::{Amounts, Limits};
use crate::domain::money::Nano;
use crate::domain::pieces::Pieces;
use crate::domain::price::Prices;
use crate::domain::quota::Quota;
use crate::domain::service_tier::ServiceTier;
use crate::domain::settlement::Bound;
use crate::domain::tariff::{Costs, Schedule, Tariff};
use crate::domain::time::{Minute, UnixMs};
use crate::domain::usage::{Unit, Usage};
use crate::domain::wallet::Wallet;
use crate::journal::entry::Entry;
use crate::journal::keeper::{Durability, Journal, JournalSettings};
use crate::journal::reader::Reader;
use crate::journal::writer::Writer;
use crate::settings::admission::AdmissionSettings;

pub const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
pub const PATIENCE: Duration = Duration::from_millis(500);

/// What a scene is made of: a wallet with this balance, these limits, and so many workers.
#[derive(Debug, Clone, Copy)]
pub struct House {
    pub balance: i64,
    pub project: Limits,
    pub key: Limits,
    pub organization: Limits,
    pub patience: Duration,
    pub waiting_max: usize,
    pub workers: u16,
    pub segment_bytes: u64,
}

impl Default for House {
    fn default() -> Self {
        let (project, key) = (Limits::default(), Limits::default());
        let (organization, patience) = (Limits::default(), Duration::from_mins(1));
        let (balance, workers, segment_bytes) = (1 << 50, 1, 1 << 20);
        let waiting_max = AdmissionSettings::default().waiting_max;
        Self { balance, project, key, organization, patience, waiting_max, workers, segment_bytes }
    }
}

/// One key, its project and its organization, and the chains of all workers.
#[derive(Debug)]
pub struct Opened {
    pub caller: Arc<Caller>,
    pub books: Books,
    journal: Arc<Journal>,
    _folder: TempDir,
}

/// What one worker sees of it.
pub struct Scene {
    pub desk: Rc<Desk>,
    pub opened: Arc<Opened>,
}

impl House {
    pub fn open(self) -> Arc<Opened> {
        // In memory, where there is such a place: thousands of journals begin here.
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        let settings = JournalSettings {
            folder: folder.path().to_owned(),
            durability: Durability::Process,
            segment_bytes: self.segment_bytes,
            keep: Duration::from_mins(1),
            backlog_bytes_max: 1 << 40,
        };
        let journal = Arc::new(Journal::open(settings, 1, self.workers).expect("a journal"));
        let (hold_wait, waiting_max) = (self.patience, self.waiting_max);
        let admission =
            AdmissionSettings { hold_wait, waiting_max, ..AdmissionSettings::default() };
        let books = Books::new(admission);
        let quota = |limits| Quota { limits, ..Quota::default() };
        let account = |quota| patient(quota, self.patience);
        let project = books.open_project(ProjectId(1), || account(quota(self.project)));
        let open =
            || (account(quota(self.organization)), Wallet::restore(Nano(self.balance), true));
        let organization = books.open_organization(OrganizationId(2), open);
        let caller = Arc::new(Caller {
            key: ApiKeyId(3),
            slot: project.set_key(ApiKeyId(3), self.key, account),
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
        Arc::new(Opened { caller, books, journal, _folder: folder })
    }
}

impl Deref for Scene {
    type Target = Opened;

    fn deref(&self) -> &Opened {
        &self.opened
    }
}

impl Opened {
    /// The place of one worker. Whoever writes much has `keep` called.
    pub fn scene(self: &Arc<Self>, worker: usize) -> Scene {
        let writer = Writer::new(Arc::clone(&self.journal.chains()[worker])).expect("a segment");
        self.journal.make_spares();
        let (admission, inputs) = (self.books.admission(), Arc::clone(self.books.inputs()));
        let desk = Rc::new(Desk { writer, lender: Whole, admission, inputs });
        Scene { desk, opened: Arc::clone(self) }
    }

    /// Makes the segments that are missing.
    pub fn keep(&self) {
        self.journal.make_spares();
    }
}

impl Scene {
    pub fn new(balance: i64) -> Self {
        Self::with(balance, PATIENCE, 10)
    }

    pub fn with(balance: i64, patience: Duration, waiting_max: usize) -> Self {
        House { balance, patience, waiting_max, ..House::default() }.open().scene(0)
    }

    pub async fn until_so_many_wait(&self, count: usize) {
        let until = clock::tick() + PATIENCE * 10;
        while self.books.waiting() != count {
            assert!(clock::tick() < until, "{} wait, not {count}", self.books.waiting());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the journal says.
    pub fn entries(&self) -> Vec<Entry<String>> {
        self.desk.writer.commit();
        let mut entries = Vec::new();
        let mut reader = Reader::new(self.journal.folder(), self.desk.writer.chain().name, 0, 0);
        reader.read_to_end(|entry| entries.push(entry)).expect("entries");
        entries
    }

    /// Requests and tokens of the day that are settled, and the balance.
    pub fn settled(&self) -> (i64, i64, i64) {
        let used = self.caller.project.standing(clock::now()).day.used;
        (used.requests, used.tokens, self.caller.organization.lock().wallet.balance().0)
    }

    pub async fn admit(&self, demand: Demand) -> Result<Permit, Denial> {
        let caller = &self.opened.caller;
        admit(&self.desk, caller, demand, || Some(Arc::clone(caller))).await
    }
}

pub fn account(quota: Quota) -> Account {
    patient(quota, PATIENCE)
}

fn patient(quota: Quota, patience: Duration) -> Account {
    let (now, minute) = (clock::now(), (Minute(0), Amounts::default()));
    let counters = Counters::restore(quota.reset_day, now, minute, []);
    Account { quota, counters, queue: Queue::new(patience) }
}

/// A model at these prices, in nano-units per token.
pub fn model(list: &[(Unit, i64)]) -> Arc<Model> {
    let price = |prices: Prices, (unit, nano): &(Unit, i64)| {
        prices.with(*unit, nano * 1_000_000).expect("in range")
    };
    let prices = list.iter().fold(Prices::default(), price);
    let schedule = Schedule::always(Tariff::flat(prices, "v".into()));
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
            rank: Rank::default(),
            schedule,
        }],
    })
}

pub fn demand(id: u128, model: &Arc<Model>, body: &str, output_tokens: u64) -> Demand {
    let tariff = model.targets[0].schedule.at(UnixMs(0));
    Demand {
        id: RequestLogId(id),
        at: clock::now(),
        arrived: clock::tick(),
        now: clock::now(),
        endpoint: Endpoint::ChatCompletions,
        model: Arc::clone(model),
        bound: Bound { input_tokens: body.len() as u64, output_tokens },
        pieces: Pieces::default(),
        costs: Costs::new(vec![Arc::clone(tariff)], ServiceTier::DEFAULT),
        choices: 1,
        is_unbounded: false,
        body: Bytes::copy_from_slice(body.as_bytes()),
        refers: false,
        counted_input: 1,
        hides_usage: false,
        claim: None,
        stream: false,
        address: "::1".parse().expect("an address"),
    }
}

/// A token costs a nano-unit, of whatever kind it is.
pub fn plain() -> Arc<Model> {
    model(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 1)])
}

/// Answered by an upstream that reported that much.
pub fn answered(permit: &mut Permit, input: u64, output: u64) {
    permit.set_forwarded(true);
    permit.measured.complete = true;
    permit.measured.reported = Some(Usage::tokens_of(input, output));
}
