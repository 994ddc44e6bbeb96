//! Whether what the node holds in memory is what the model says.

use meteor::accounting::limit_state::LimitState;
use meteor::domain::counter::WindowUsage;
use meteor::domain::ids::{OrganizationId, ProjectId};
use meteor::domain::limit::{Amounts, Level, Window};
use meteor::domain::time::UnixMs;
use meteor::journal::segment;

use crate::calendar::{DAY_MS, MINUTE_MS, day_of, minute_of, month_of};
use crate::history::Random;
use crate::model::{Model, RULES, Span, Subject, Sums, UsageStatus};
use crate::node::{KEYS, SEGMENT_BYTES};
use crate::world::World;

fn sums(amounts: Amounts) -> Sums {
    [amounts.requests, amounts.tokens, amounts.spend.0]
}

fn used_and_held(tally: WindowUsage) -> [Sums; 2] {
    [sums(tally.used), sums(tally.held)]
}

/// Every window of everybody, every wallet and every hold; without moving any.
pub fn check_memory(world: &World) {
    let (model, books) = (&world.model, world.node.process().directory.live_state());
    for who in KEYS {
        let caller = world.node.process().caller(who.key);
        let mut project = caller.project.lock();
        check_limit_state(model, who.project, &project.limits);
        check_limit_state(model, who.key, project.keys.limit_state(caller.slot));
    }
    let (mut open, mut held) = (0, 0);
    for organization in [1, 2] {
        let book = books.organization(OrganizationId(organization.into())).expect("a book");
        let page = book.lock();
        check_limit_state(model, organization, &page.limits);
        let wallet = (page.wallet.balance().0, page.wallet.held().0, page.wallet.is_active());
        let off = model.inactive_wallets.contains(&organization);
        let expected = (model.balance(organization), model.held_amount(organization), !off);
        assert_eq!(wallet, expected, "balance, frozen, active of {organization}");
        drop(page);
        let holds = book.holds();
        let shown: Vec<_> =
            holds.iter().map(|(id, hold)| (id.0, hold.tokens, hold.amount.0)).collect();
        let calls = model.calls.iter();
        let own =
            calls.filter(|call| call.owner.organization == organization && call.end.is_none());
        let mut told: Vec<_> =
            own.map(|call| (u128::from(call.id), call.tokens, call.money)).collect();
        told.sort_unstable();
        assert_eq!(shown, told, "holds of {organization}");
        open += told.len();
        held += expected.1;
    }
    let (count, sum) = books.open_holds();
    assert_eq!((count, sum.0, books.waiting()), (open, held, 0), "open, held, waiting");
    for chain in world.node.process().journal.chains() {
        // Whoever is admitted while there is room may write its end when there is none.
        let most = world.node.backlog_bytes_max + SEGMENT_BYTES * 4;
        assert!(chain.backlog_bytes() < most, "{} bytes of backlog", chain.backlog_bytes());
    }
}

fn check_limit_state(model: &Model, subject: Subject, account: &LimitState) {
    let (counters, seen) = (&account.counters, model.latest_times[&subject]);
    assert_eq!(counters.last_seen().0, seen, "what {subject} has seen of time");
    let shown = UsageStatus {
        minute: used_and_held(counters.window_usage(Window::Minute)),
        day: used_and_held(counters.window_usage(Window::Day)),
        month: used_and_held(counters.window_usage(Window::Month)),
        open: counters.open_calls(),
    };
    assert_eq!(shown, model.usage_status(subject), "[used, held] of {subject}");
    let month = (counters.month().first.0, counters.month().end.0);
    assert_eq!(month, month_of(day_of(seen), model.quota(subject).reset_day), "of {subject}");
}

/// What the API shows now. Whoever asks sees the windows of this moment.
pub fn check_reported(world: &mut World, dice: &mut Random) {
    let (who, now) = (dice.pick(&KEYS), UnixMs(world.now));
    let directory = &world.node.process().directory;
    if dice.one_in(2) {
        world.model.advance_time(&[who.project], now.0);
        let book = directory.live_state().project(ProjectId(who.project.into())).expect("a book");
        let standing = book.usage_snapshot(now);
        let shown = UsageStatus {
            minute: used_and_held(standing.minute),
            day: used_and_held(standing.day),
            month: used_and_held(standing.month),
            open: standing.open_calls,
        };
        assert_eq!(shown, world.model.usage_status(who.project), "shown of {}", who.project);
        return;
    }
    let at = world.model.advance_time(&who.all(), now.0);
    let standings = world.node.process().caller(who.key).limit_statuses(now);
    for standing in &standings {
        let subject = match standing.level {
            Level::Project => who.project,
            Level::Key => who.key,
            Level::Organization => who.organization,
        };
        let (quota, rule) = (world.model.quota(subject), standing.limit as usize);
        let told = Model::used_and_held(&world.model.usage_status(subject), rule);
        assert_eq!([standing.used, standing.held], told, "{standing:?}");
        assert_eq!(Some(standing.value), quota.limits[rule], "{standing:?}");
        assert_eq!(standing.enforced, quota.enforce, "{standing:?}");
        let reset = match RULES[rule].0 {
            Span::Now => at,
            Span::Minute => (minute_of(at) + 1) * MINUTE_MS,
            Span::Day => (day_of(at) + 1) * DAY_MS,
            Span::Month => month_of(day_of(at), quota.reset_day).1 * DAY_MS,
        };
        assert_eq!(standing.reset_at.0, reset, "{standing:?}");
    }
    let set = who.all().map(|subject| world.model.quota(subject).limits.into_iter().flatten());
    assert_eq!(standings.len(), set.into_iter().flatten().count(), "every limit is shown");
}

/// Segments that were projected are removed; what is not projected stays, and is little.
pub fn check_segment_cleanup(world: &World) {
    let journal = &world.node.process().journal;
    journal.remove_old().expect("removed");
    let left = segment::list(journal.folder()).expect("a folder").len();
    // Segments hold the backlog but for less than an entry each; one is written, one is spare.
    let process = world.node.process();
    let of_backlog = journal.backlog_bytes() / (SEGMENT_BYTES - 512);
    let most = usize::try_from(of_backlog).expect("few") + process.contexts.len() * 3;
    assert!(left <= most, "{left} segments are left");
}
