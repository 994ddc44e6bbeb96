//! Admission in a process of its own: real books, a real journal, no sockets.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

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
use crate::domain::usage::{Unit, Usage};
use crate::domain::wallet::Wallet;
use crate::journal::entry::Outcome;
use crate::journal::keeper::{Durability, Journal, JournalSettings};
use crate::journal::writer::Writer;
use crate::settings::admission::AdmissionSettings;

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const PATIENCE: Duration = Duration::from_millis(500);

/// One key, and a wallet with this balance.
struct Scene {
    desk: Rc<Desk>,
    caller: Arc<Caller>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(balance: i64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = JournalSettings {
            folder: folder.path().to_owned(),
            durability: Durability::Process,
            segment_bytes: 1 << 20,
            keep: Duration::from_mins(1),
            backlog_bytes_max: 1 << 30,
        };
        let journal = Journal::open(settings, 1, 1).expect("a journal");
        let journal = Arc::new(journal);
        journal.start_keeper().expect("a thread");
        let writer = Writer::new(Arc::clone(&journal.chains()[0])).expect("a segment");
        let admission = AdmissionSettings { hold_wait: PATIENCE, ..AdmissionSettings::default() };
        let books = Books::new(admission);
        let inputs = Arc::clone(books.inputs());
        let desk = Rc::new(Desk { writer, lender: Whole, admission, inputs });
        let project = books.open_project(ProjectId(1), || account(Quota::default()));
        let open = || (account(Quota::default()), Wallet::restore(Nano(balance), true));
        let organization = books.open_organization(OrganizationId(2), open);
        let caller = Arc::new(Caller {
            key: ApiKeyId(3),
            slot: project.set_key(ApiKeyId(3), Limits::default(), account),
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
        Self { desk, caller, _folder: folder }
    }

    async fn admit(&self, demand: Demand) -> Result<Permit, Denial> {
        admit(&self.desk, &self.caller, demand, || Some(Arc::clone(&self.caller))).await
    }
}

fn account(quota: Quota) -> Account {
    let (now, minute) = (clock::now(), (Minute(0), Amounts::default()));
    let counters = Counters::restore(quota.reset_day, now, minute, []);
    Account { quota, counters, queue: Queue::new(PATIENCE) }
}

/// A model at these prices, in nano-units per token.
fn model(list: &[(Unit, i64)]) -> Arc<Model> {
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

fn demand(id: u128, model: &Arc<Model>, body: &str, output_tokens: u64) -> Demand {
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
        hides_usage: false,
        counted_input: 1,
        stream: false,
        address: "::1".parse().expect("an address"),
        claim: None,
    }
}

#[tokio::test]
async fn a_text_is_not_refused_for_the_price_of_speech() {
    let scene = Scene::new(5_000);
    let prices = [(Unit::InputTokens, 1), (Unit::OutputTokens, 2), (Unit::OutputAudioTokens, 80)];
    let held = scene.admit(demand(1, &model(&prices), BODY, 1_000)).await.expect("2,057 of 5,000");
    assert_eq!(held.need.spend, Nano(2_057));
}

#[tokio::test]
async fn a_call_is_counted_before_its_patience_is_asked() {
    let model = model(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 1)]);
    // 250 words in a thousand bytes: loosely it needs more than a thousand, counted not 300.
    let words = " the".repeat(250);
    let long = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{words}"}}]}}"#);
    let scene = Scene::new(2_600);
    let open = scene.admit(demand(1, &model, BODY, 1_900)).await.expect("fits");
    // 643 are left. A large call waits first; behind it wait two that would fit together.
    let large = scene.admit(demand(2, &model, BODY, 1_700));
    let small = async |id| {
        tokio::time::sleep(PATIENCE / 5).await;
        scene.admit(demand(id, &model, &long, 10)).await.map_err(|denial| println!("{denial:?}"))
    };
    let (large, one, other) = tokio::join!(large, small(3), small(4));
    assert!(matches!(large, Err(Denial::Wallet { .. })), "nothing came back");
    for small in [one, other] {
        assert!(small.as_ref().is_ok_and(|held| held.bound.input_tokens < 300));
    }
    drop(open);
}

#[tokio::test]
async fn what_was_learned_at_one_endpoint_is_not_believed_at_another() {
    let model = model(&[(Unit::InputTokens, 1), (Unit::OutputTokens, 1)]);
    let words = "word ".repeat(2_000);
    let body = format!(r#"{{"model":"m","system":"{words}","messages":[]}}"#);
    let scene = Scene::new(6_000);
    let mut first = scene.admit(demand(1, &model, &body, 10)).await.expect("fits once counted");
    (first.course.forwarded, first.measured.complete) = (true, true);
    first.measured.reported = Some(Usage::tokens_of(8, 1));
    first.settle(Outcome::Completed);
    let messages = Demand { endpoint: Endpoint::Messages, ..demand(2, &model, &body, 10) };
    let second = scene.admit(messages).await.expect("fits once counted");
    assert!(2_000 <= second.bound.input_tokens, "{:?}", second.bound);
    drop(second);
    let again = scene.admit(demand(3, &model, &body, 10)).await.expect("known");
    assert_eq!(again.bound.input_tokens, 8, "the provider's own count of the same call");
}
