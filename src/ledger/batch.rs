//! A batch: what a stretch of the journal says, gathered for one transaction.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState as FastHash;

use crate::domain::counter::Windows;
use crate::domain::ids::{ApiKeyId, RequestLogId};
use crate::domain::limit::Amounts;
use crate::domain::money::Nano;
use crate::domain::time::{Day, Minute};
use crate::domain::usage::Unit;
use crate::journal::entry::{CallResult, Entry, Hold, Progress};
use crate::ledger::finished_call::{AdmittedCall, CallEnd, FinishedCall};
use crate::store::columns::Subject;

/// A call that was admitted and has not ended.
#[derive(Debug, Clone)]
pub struct OpenCall {
    /// As it was admitted.
    pub hold: Box<Hold<String>>,
    /// What it cost at the last word.
    pub progress: Option<Progress>,
    /// Whether the database knows it, in this very state.
    persisted: PersistState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PersistState {
    /// Not at all.
    Absent,
    /// Without its last progress.
    Stale,
    /// As it is.
    Current,
}

/// What was used in a window, tokens apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayUsage {
    /// Calls that reached an upstream.
    pub requests: i64,
    /// Input tokens.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Money, in nano-units.
    pub spend_nano: i64,
}

/// The open calls of all chains, and what has come since the last commit.
#[derive(Debug, Default)]
pub struct Batch {
    node: String,
    open: HashMap<RequestLogId, OpenCall, FastHash>,
    /// Calls that are over, in the order of their ends.
    pub calls: Vec<FinishedCall>,
    /// Usage by subject and day.
    pub days: HashMap<(Subject, Day), DayUsage, FastHash>,
    /// Usage by subject in the latest minute that it was used in.
    pub minutes: HashMap<Subject, (Minute, Amounts), FastHash>,
    /// The minute that each key was last used in, as far as it is news.
    pub keys_used: BTreeMap<ApiKeyId, Minute>,
    last_key_minutes: HashMap<ApiKeyId, Minute, FastHash>,
    /// Calls that ended and that the database still lists as open.
    pub closed: Vec<RequestLogId>,
    /// Ends whose hold is unknown: were they posted before, they are not to be posted again.
    late_results: Vec<(CallResult<String>, bool)>,
    /// How many entries were taken.
    pub entries: u64,
}

impl Batch {
    /// A batch of that node, which begins with the calls that the database lists as open.
    pub fn restore(
        node: &str,
        open: impl IntoIterator<Item = (Hold<String>, Option<Progress>)>,
    ) -> Self {
        let call = |(hold, progress): (Hold<String>, _)| {
            let id = hold.header.id;
            (id, OpenCall { hold: Box::new(hold), progress, persisted: PersistState::Current })
        };
        let open = open.into_iter().map(call).collect();
        Self { node: node.to_owned(), open, ..Self::default() }
    }

    /// Takes one entry, in the order of its chain.
    pub fn apply(&mut self, entry: Entry<String>) {
        self.entries += 1;
        match entry {
            Entry::Hold(hold) => {
                let id = hold.header.id;
                let (key, minute) = (hold.header.key, hold.windows.minute);
                if self.last_key_minutes.insert(key, minute) != Some(minute) {
                    self.keys_used.insert(key, minute);
                }
                let open = OpenCall {
                    hold: Box::new(hold),
                    progress: None,
                    persisted: PersistState::Absent,
                };
                self.open.insert(id, open);
            }
            Entry::Progress(progress) => {
                if let Some(open) = self.open.get_mut(&progress.id) {
                    open.progress = Some(progress);
                    open.persisted = if open.persisted == PersistState::Absent {
                        PersistState::Absent
                    } else {
                        PersistState::Stale
                    };
                }
            }
            Entry::Settled(ended) => self.end_call(ended, true),
            Entry::Voided(ended) => self.end_call(ended, false),
            Entry::Refused(refused) => {
                let end = CallEnd::Refused(Box::new(refused));
                self.calls.push(FinishedCall::new(end, &self.node));
            }
        }
    }

    fn end_call(&mut self, ended: CallResult<String>, charged: bool) {
        let Some(open) = self.open.remove(&ended.id) else {
            return self.late_results.push((ended, charged));
        };
        if open.persisted != PersistState::Absent {
            self.closed.push(ended.id);
        }
        self.add_call(AdmittedCall {
            hold: open.hold,
            result: Box::new(ended),
            charged,
            late: false,
        });
    }

    /// An end whose hold is unknown, and whether it is charged.
    pub fn next_late(&self) -> Option<&(CallResult<String>, bool)> {
        self.late_results.last()
    }

    /// Takes the end that `late` shows by what it says itself, or leaves it out.
    pub fn resolve_late(&mut self, is_new: bool) {
        if let Some((ended, charged)) = self.late_results.pop().filter(|_| is_new) {
            let hold = Box::new(ended.synthesize_hold());
            self.add_call(AdmittedCall { hold, result: Box::new(ended), charged, late: true });
        }
    }

    /// Whether a call has ended in this batch.
    pub fn has_ended(&self, id: RequestLogId) -> bool {
        self.calls.iter().any(|call| call.header().id == id)
    }

    fn add_call(&mut self, ending: AdmittedCall) {
        let AdmittedCall { hold, result, .. } = &ending;
        let tokens = |unit| i64::try_from(result.charge.usage.get(unit)).unwrap_or(i64::MAX);
        let used = DayUsage {
            requests: i64::from(result.counted),
            input_tokens: tokens(Unit::InputTokens),
            output_tokens: tokens(Unit::OutputTokens),
            spend_nano: result.charge.cost.0,
        };
        let (asked, windows) = (&hold.header, hold.windows);
        for subject in [asked.project.0, asked.key.0, asked.organization.0] {
            self.add_usage(subject, windows, &used);
        }
        self.calls.push(FinishedCall::new(CallEnd::Admitted(ending), &self.node));
    }

    /// Adds to the windows of one of those whose usage the call is.
    fn add_usage(&mut self, subject: Subject, windows: Windows, used: &DayUsage) {
        let day = self.days.entry((subject, windows.day)).or_default();
        day.requests = day.requests.saturating_add(used.requests);
        day.input_tokens = day.input_tokens.saturating_add(used.input_tokens);
        day.output_tokens = day.output_tokens.saturating_add(used.output_tokens);
        day.spend_nano = day.spend_nano.saturating_add(used.spend_nano);
        let minute = self.minutes.entry(subject).or_insert((windows.minute, Amounts::default()));
        if minute.0 < windows.minute {
            *minute = (windows.minute, Amounts::default());
        }
        if minute.0 == windows.minute {
            minute.1 += Amounts {
                requests: used.requests,
                tokens: used.input_tokens.saturating_add(used.output_tokens),
                spend: Nano(used.spend_nano),
            };
        }
    }

    /// Open calls that the database does not know as they are.
    pub fn unpersisted(&self) -> impl Iterator<Item = &OpenCall> {
        self.open.values().filter(|open| open.persisted != PersistState::Current)
    }

    /// All open calls, oldest first.
    pub fn open_calls(&self) -> Vec<OpenCall> {
        let mut open: Vec<OpenCall> = self.open.values().cloned().collect();
        open.sort_by_key(|open| open.hold.header.id);
        open
    }

    /// Whether there is nothing to commit.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Begins anew after a commit, with the same open calls.
    pub fn reset(&mut self) {
        for open in self.open.values_mut() {
            open.persisted = PersistState::Current;
        }
        self.calls.clear();
        self.days.clear();
        self.minutes.clear();
        self.keys_used.clear();
        self.closed.clear();
        self.entries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::persist::CALL;
    use crate::ledger::tests::recovery::{CallFixture, progress};

    #[test]
    fn the_use_of_a_key_is_news_once_a_minute_whatever_is_committed_meanwhile() {
        let mut batch = Batch::default();
        for (minute, news) in [(3, &[3][..]), (3, &[]), (4, &[4]), (4, &[])] {
            batch.apply(CallFixture { minute: Minute(minute), ..CALL }.hold(1));
            let used: Vec<i64> = batch.keys_used.values().map(|minute| minute.0).collect();
            assert_eq!(used, news);
            batch.reset();
        }
    }

    #[test]
    fn an_end_closes_what_the_database_lists_and_only_that() {
        for (committed_after, unsaved, closed) in [
            (3, [1, 1, 0], &[][..]),
            (0, [0, 1, 0], &[RequestLogId(1)]),
            (1, [1, 0, 0], &[RequestLogId(1)]),
        ] {
            let mut batch = Batch::default();
            for ((at, entry), unsaved) in
                [CALL.hold(1), progress(1), CALL.end(1)].into_iter().enumerate().zip(unsaved)
            {
                batch.apply(entry);
                if at == committed_after {
                    batch.reset();
                }
                assert_eq!(batch.unpersisted().count(), unsaved, "{committed_after}, {at}");
            }
            assert_eq!(batch.closed, closed, "{committed_after}");
        }
    }
}
