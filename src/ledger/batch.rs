//! A batch: the journal entries that are committed to the database in one transaction.

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
    pub hold: Box<Hold<String>>,
    /// The last progress entry.
    pub progress: Option<Progress>,
    /// Whether this state of the call is in the database.
    persisted: PersistState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PersistState {
    /// Not in the database.
    Absent,
    /// In the database, without the last progress.
    Stale,
    /// In the database.
    Current,
}

/// Usage on one day, with input and output tokens counted separately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayUsage {
    /// Calls that reached an upstream.
    pub requests: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub spend_nano: i64,
}

/// The open calls of all chains, and the changes since the last commit.
#[derive(Debug, Default)]
pub struct Batch {
    node: String,
    open: HashMap<RequestLogId, OpenCall, FastHash>,
    /// Finished calls, in the order in which they ended.
    pub calls: Vec<FinishedCall>,
    pub days: HashMap<(Subject, Day), DayUsage, FastHash>,
    /// Usage of each subject in its latest minute.
    pub minutes: HashMap<Subject, (Minute, Amounts), FastHash>,
    /// Keys whose minute of last use has changed since the last commit.
    pub keys_used: BTreeMap<ApiKeyId, Minute>,
    last_key_minutes: HashMap<ApiKeyId, Minute, FastHash>,
    /// Calls that ended and are still listed as open in the database.
    pub closed: Vec<RequestLogId>,
    /// Results whose hold is unknown, and whether they are charged. They may have been posted
    /// before.
    late_results: Vec<(CallResult<String>, bool)>,
    /// How many entries were applied.
    pub entries: u64,
}

impl Batch {
    /// Creates a batch with the calls that the database lists as open.
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

    /// Applies one entry. Entries must come in the order of their chain.
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
            Entry::Settled(result) => self.end_call(result, true),
            Entry::Voided(result) => self.end_call(result, false),
            Entry::Refused(refused) => {
                let end = CallEnd::Refused(Box::new(refused));
                self.calls.push(FinishedCall::new(end, &self.node));
            }
        }
    }

    fn end_call(&mut self, result: CallResult<String>, charged: bool) {
        let Some(open) = self.open.remove(&result.id) else {
            return self.late_results.push((result, charged));
        };
        if open.persisted != PersistState::Absent {
            self.closed.push(result.id);
        }
        self.add_call(AdmittedCall {
            hold: open.hold,
            result: Box::new(result),
            charged,
            late: false,
        });
    }

    /// Returns a result whose hold is unknown, and whether it is charged.
    pub fn next_late(&self) -> Option<&(CallResult<String>, bool)> {
        self.late_results.last()
    }

    /// Posts the result returned by [`next_late`](Self::next_late), or drops it if it is not new.
    pub fn resolve_late(&mut self, is_new: bool) {
        if let Some((result, charged)) = self.late_results.pop().filter(|_| is_new) {
            let hold = Box::new(result.synthesize_hold());
            self.add_call(AdmittedCall { hold, result: Box::new(result), charged, late: true });
        }
    }

    /// Returns true if the call has ended in this batch.
    pub fn has_ended(&self, id: RequestLogId) -> bool {
        self.calls.iter().any(|call| call.header().id == id)
    }

    fn add_call(&mut self, call: AdmittedCall) {
        let AdmittedCall { hold, result, .. } = &call;
        let tokens = |unit| i64::try_from(result.charge.usage.get(unit)).unwrap_or(i64::MAX);
        let used = DayUsage {
            requests: i64::from(result.counted),
            input_tokens: tokens(Unit::InputTokens),
            output_tokens: tokens(Unit::OutputTokens),
            spend_nano: result.charge.cost.0,
        };
        let (header, windows) = (&hold.header, hold.windows);
        for subject in [header.project.0, header.key.0, header.organization.0] {
            self.add_usage(subject, windows, &used);
        }
        self.calls.push(FinishedCall::new(CallEnd::Admitted(call), &self.node));
    }

    /// Adds usage to the day and the minute of one subject.
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

    /// Returns the open calls whose current state is not in the database.
    pub fn unpersisted(&self) -> impl Iterator<Item = &OpenCall> {
        self.open.values().filter(|open| open.persisted != PersistState::Current)
    }

    /// Returns all open calls, oldest first.
    pub fn open_calls(&self) -> Vec<OpenCall> {
        let mut open: Vec<OpenCall> = self.open.values().cloned().collect();
        open.sort_by_key(|open| open.hold.header.id);
        open
    }

    /// Returns true if there is nothing to commit.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Clears the batch after a commit. The open calls stay.
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
    fn the_use_of_a_key_is_recorded_once_per_minute() {
        let mut batch = Batch::default();
        for (minute, recorded) in [(3, &[3][..]), (3, &[]), (4, &[4]), (4, &[])] {
            batch.apply(CallFixture { minute: Minute(minute), ..CALL }.hold(1));
            let used: Vec<i64> = batch.keys_used.values().map(|minute| minute.0).collect();
            assert_eq!(used, recorded);
            batch.reset();
        }
    }

    #[test]
    fn a_result_closes_only_calls_listed_in_the_database() {
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
