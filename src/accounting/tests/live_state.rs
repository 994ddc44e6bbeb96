//! Live state: opening, lookup by id, and waiting calls.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::accounting::live_state::LiveState;
use crate::accounting::tests::test_node::limit_state;
use crate::accounting::wait_queue::{Ticket, WaitQueue};
use crate::clock;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
use crate::domain::limit::{Limit, Limits};
use crate::domain::money::Nano;
use crate::domain::quota::Quota;
use crate::domain::wallet::Wallet;
use crate::settings::admission::AdmissionSettings;

fn requests(max: i64) -> Limits {
    Limits::default().with(Limit::DailyRequests, Some(max))
}

fn wait(queue: &mut WaitQueue) -> Arc<Notify> {
    let signal = Arc::new(Notify::new());
    queue.join(Ticket::new(clock::monotonic_now()), Arc::clone(&signal));
    signal
}

fn is_woken(signal: &Notify) -> bool {
    std::pin::pin!(signal.notified()).as_mut().enable()
}

#[test]
fn state_is_opened_one_time_and_found_by_its_id() {
    let live_state = LiveState::new(AdmissionSettings { waiting_max: 7, ..Default::default() });
    let project = live_state.open_project(ProjectId(1), || limit_state(Quota::default()));
    let again = live_state.open_project(ProjectId(1), || panic!("it is open"));
    assert!(Arc::ptr_eq(&project, &again));
    assert!(live_state.project(ProjectId(1)).is_some_and(|found| Arc::ptr_eq(&found, &project)));
    let open = || (limit_state(Quota::default()), Wallet::restore(Nano(5), true));
    let organization = live_state.open_organization(OrganizationId(2), open);
    let found = live_state.organization(OrganizationId(2)).expect("it is open");
    assert!(Arc::ptr_eq(&found, &organization) && live_state.project(ProjectId(2)).is_none());
    assert!(live_state.organization(OrganizationId(1)).is_none());
    assert_eq!(live_state.admission().waiting_max, 7);
}

#[test]
fn a_new_project_quota_keeps_the_limits_of_its_keys() {
    let live_state = LiveState::new(AdmissionSettings::default());
    let project = live_state.open_project(ProjectId(1), || limit_state(Quota::default()));
    let slot = project.set_key(ApiKeyId(1), requests(3), limit_state);
    let other = project.set_key(ApiKeyId(2), requests(4), limit_state);
    assert_eq!(project.set_key(ApiKeyId(1), requests(5), |_| panic!("the key exists")), slot);
    project.set_quota(Quota { limits: requests(9), enforce: false, ..Quota::default() });
    let state = &mut *project.lock();
    assert_eq!(state.limits.quota.limits, requests(9));
    for (slot, own) in [(slot, requests(5)), (other, requests(4))] {
        let quota = state.keys.limit_state(slot).quota;
        assert_eq!(
            (quota.limits, quota.enforce),
            (own, false),
            "the other settings are those of the project"
        );
    }
}

#[test]
fn waiting_calls_of_every_queue_are_counted_and_woken_by_a_change() {
    let live_state = LiveState::new(AdmissionSettings::default());
    let project = live_state.open_project(ProjectId(1), || limit_state(Quota::default()));
    let slot = project.set_key(ApiKeyId(1), Limits::default(), limit_state);
    let open = || (limit_state(Quota::default()), Wallet::restore(Nano(5), true));
    let organization = live_state.open_organization(OrganizationId(2), open);
    assert_eq!(live_state.waiting(), 0);
    let mut signals = vec![wait(&mut organization.lock().limits.queue)];
    for _ in 0..2 {
        signals.push(wait(&mut project.lock().limits.queue));
        signals.push(wait(&mut project.lock().keys.limit_state(slot).queue));
    }
    assert_eq!(live_state.waiting(), 5);
    project.wake_all();
    organization.wake_all();
    assert!(signals.iter().all(|signal| is_woken(signal)));
    organization.credit(Nano(2));
    assert!(is_woken(&signals[0]), "there is more money");
    assert_eq!(organization.lock().wallet.available(), Nano(7));
    organization.set_active(false);
    assert!(!organization.lock().wallet.is_active());
}
