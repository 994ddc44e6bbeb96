//! Admission in a process of its own: real books, a real journal, no sockets.

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
use crate::domain::catalog::{Model, Target};
use crate::domain::counter::Counters;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::limit::{Amounts, Limits};
use crate::domain::money::Nano;
use crate::domain::price::Prices;
use crate::domain::quota::Quota;
use crate::domain::settlement::Bound;
use crate::domain::time::Minute;
use crate::domain::usage::Unit;
use crate::domain::wallet::Wallet;
use crate::journal::keeper::{Durability, Journal, JournalSettings};
use crate::journal::writer::Writer;
use crate::settings::admission::AdmissionSettings;

pub const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

/// What a scene is made of: a wallet with this balance, these limits, and so many workers.
#[derive(Debug, Clone, Copy)]
pub struct House {
    pub balance: i64,
    pub project: Limits,
    pub key: Limits,
    pub organization: Limits,
    pub patience: Duration,
    pub workers: u16,
    pub segment_bytes: u64,
}

impl Default for House {
    fn default() -> Self {
        let (project, key) = (Limits::default(), Limits::default());
        let (organization, patience) = (Limits::default(), Duration::from_mins(1));
        let (balance, workers, segment_bytes) = (1 << 50, 1, 1 << 20);
        Self { balance, project, key, organization, patience, workers, segment_bytes }
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
        let admission =
            AdmissionSettings { hold_wait: self.patience, ..AdmissionSettings::default() };
        let books = Books::new(admission);
        let quota = |limits| Quota { limits, ..Quota::default() };
        let account = |quota| account(quota, self.patience);
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
    pub async fn admit(&self, demand: Demand) -> Result<Permit, Denial> {
        let caller = &self.opened.caller;
        admit(&self.desk, caller, demand, || Some(Arc::clone(caller))).await
    }
}

fn account(quota: Quota, patience: Duration) -> Account {
    let (now, minute) = (clock::now(), (Minute(0), Amounts::default()));
    let counters = Counters::restore(quota.reset_day, now, minute, []);
    Account { quota, counters, queue: Queue::new(patience) }
}

/// A model at these prices, in nano-units per token.
pub fn model(list: &[(Unit, i64)]) -> Arc<Model> {
    let price = |prices: Prices, (unit, nano): &(Unit, i64)| {
        prices.with(*unit, nano * 1_000_000).expect("in range")
    };
    Arc::new(Model {
        name: "gpt-4o".into(),
        max_output_tokens: 1_000,
        output_field: "max_tokens",
        hidden_output: false,
        max_input_tokens: None,
        prices: list.iter().fold(Prices::default(), price),
        price_version: "v".into(),
        targets: vec![Target { upstream: 0, upstream_model: None }],
    })
}

pub fn demand(id: u128, model: &Arc<Model>, body: &str, output_tokens: u64) -> Demand {
    Demand {
        id: RequestLogId(id),
        at: clock::now(),
        arrived: clock::tick(),
        now: clock::now(),
        endpoint: Endpoint::ChatCompletions,
        model: Arc::clone(model),
        bound: Bound { input_tokens: body.len() as u64, output_tokens },
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
