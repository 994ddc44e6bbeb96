//! Compares the node's memory with the model.

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

/// Checks all windows, wallets and holds, without advancing any time.
pub fn check_memory(world: &World) {
    let (model, live_state) = (&world.model, world.node.process().directory.live_state());
    for owner in KEYS {
        let caller = world.node.process().caller(owner.key);
        let mut project = caller.project.lock();
        check_limit_state(model, owner.project, &project.limits);
        check_limit_state(model, owner.key, project.keys.limit_state(caller.slot));
    }
    let (mut open, mut held) = (0, 0);
    for organization in [1, 2] {
        let state = live_state
            .organization(OrganizationId(organization.into()))
            .expect("the organization is loaded");
        let locked = state.lock();
        check_limit_state(model, organization, &locked.limits);
        let wallet = (locked.wallet.balance().0, locked.wallet.held().0, locked.wallet.is_active());
        let inactive = model.inactive_wallets.contains(&organization);
        let expected = (model.balance(organization), model.held_amount(organization), !inactive);
        assert_eq!(wallet, expected, "balance, frozen, active of {organization}");
        drop(locked);
        let holds = state.holds();
        let shown: Vec<_> =
            holds.iter().map(|(id, hold)| (id.0, hold.tokens, hold.amount.0)).collect();
        let calls = model.calls.iter();
        let open_calls =
            calls.filter(|call| call.owner.organization == organization && call.end.is_none());
        let mut expected_holds: Vec<_> =
            open_calls.map(|call| (u128::from(call.id), call.tokens, call.money)).collect();
        expected_holds.sort_unstable();
        assert_eq!(shown, expected_holds, "holds of {organization}");
        open += expected_holds.len();
        held += expected.1;
    }
    let (count, sum) = live_state.open_holds();
    assert_eq!((count, sum.0, live_state.waiting()), (open, held, 0), "open, held, waiting");
    for chain in world.node.process().journal.chains() {
        // A call admitted while the backlog has space may write its end when there is none.
        let max = world.node.backlog_bytes_max + SEGMENT_BYTES * 4;
        assert!(chain.backlog_bytes() < max, "{} bytes of backlog", chain.backlog_bytes());
    }
}

fn check_limit_state(model: &Model, subject: Subject, account: &LimitState) {
    let (counters, seen) = (&account.counters, model.latest_times[&subject]);
    assert_eq!(counters.last_seen().0, seen, "latest time of {subject}");
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

/// Checks what the API reports at the current time.
pub fn check_reported(world: &mut World, random: &mut Random) {
    let (owner, now) = (random.pick(&KEYS), UnixMs(world.now));
    let directory = &world.node.process().directory;
    if random.one_in(2) {
        world.model.advance_time(&[owner.project], now.0);
        let state = directory
            .live_state()
            .project(ProjectId(owner.project.into()))
            .expect("the project is loaded");
        let status = state.usage_snapshot(now);
        let shown = UsageStatus {
            minute: used_and_held(status.minute),
            day: used_and_held(status.day),
            month: used_and_held(status.month),
            open: status.open_calls,
        };
        assert_eq!(shown, world.model.usage_status(owner.project), "shown of {}", owner.project);
        return;
    }
    let at = world.model.advance_time(&owner.all(), now.0);
    let statuses = world.node.process().caller(owner.key).limit_statuses(now);
    for status in &statuses {
        let subject = match status.level {
            Level::Project => owner.project,
            Level::Key => owner.key,
            Level::Organization => owner.organization,
        };
        let (quota, rule) = (world.model.quota(subject), status.limit as usize);
        let expected = Model::used_and_held(&world.model.usage_status(subject), rule);
        assert_eq!([status.used, status.held], expected, "{status:?}");
        assert_eq!(Some(status.value), quota.limits[rule], "{status:?}");
        assert_eq!(status.enforced, quota.enforce, "{status:?}");
        let reset = match RULES[rule].0 {
            Span::Now => at,
            Span::Minute => (minute_of(at) + 1) * MINUTE_MS,
            Span::Day => (day_of(at) + 1) * DAY_MS,
            Span::Month => month_of(day_of(at), quota.reset_day).1 * DAY_MS,
        };
        assert_eq!(status.reset_at.0, reset, "{status:?}");
    }
    let set = owner.all().map(|subject| world.model.quota(subject).limits.into_iter().flatten());
    assert_eq!(statuses.len(), set.into_iter().flatten().count(), "every limit is shown");
}

/// Removes projected segments and checks that few are left.
pub fn check_segment_cleanup(world: &World) {
    let journal = &world.node.process().journal;
    journal.remove_old().expect("removed");
    let remaining = segment::list(journal.folder()).expect("a folder").len();
    // Each segment is full but for less than one entry; per worker one is being written and one is
    // spare.
    let process = world.node.process();
    let of_backlog = journal.backlog_bytes() / (SEGMENT_BYTES - 512);
    let max = usize::try_from(of_backlog).expect("few") + process.contexts.len() * 3;
    assert!(remaining <= max, "{remaining} segments are left");
}
