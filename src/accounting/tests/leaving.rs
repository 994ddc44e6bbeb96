//! Clients that leave: what is read on without them, and what it costs.

use crate::accounting::permit::{Demand, Permit};
use crate::accounting::presence::Presence;
use crate::accounting::tests::scene::{BODY, Scene, answered, demand, plain};
use crate::clock;
use crate::domain::money::Nano;
use crate::journal::entry::{Entry, Outcome};

async fn hiding(scene: &Scene, id: u128) -> Permit {
    let demand = Demand { hides_usage: true, ..demand(id, &plain(), BODY, 43) };
    scene.admit(demand).await.expect("fits")
}

#[test]
fn a_client_leaves_once_and_that_is_news_once() {
    for drains in [true, false] {
        let presence = Presence::new(drains);
        assert_eq!((presence.drains(), presence.is_forwarded()), (drains, false));
        presence.set_forwarded(true);
        assert!(presence.is_forwarded() && !presence.is_news());
        assert_eq!(presence.left(), None);
        let before = clock::tick();
        let left = presence.leave();
        assert!(before <= left);
        assert_eq!((presence.left(), presence.leave()), (Some(left), left));
        assert!(presence.is_news() && !presence.is_news());
    }
}

#[tokio::test]
async fn a_call_that_hides_its_usage_is_read_on_until_that_is_known() {
    let scene = Scene::new(1_000_000);
    let seen = scene.admit(demand(1, &plain(), BODY, 43)).await.expect("fits");
    assert!(seen.presence().is_none() && !seen.has_left() && !seen.is_read_on());
    let mut permit = hiding(&scene, 2).await;
    assert!(permit.is_read_on() && !permit.has_left());
    permit.set_forwarded(true);
    assert!(permit.presence().is_some_and(|presence| presence.is_forwarded()));
    permit.course.is_free = true;
    assert!(!permit.is_read_on(), "it costs nothing");
    permit.course.is_free = false;
    permit.measured.complete = true;
    assert!(!permit.is_read_on(), "nothing more is to be learned");
}

#[tokio::test]
async fn what_drains_is_read_to_its_end_though_its_usage_is_known() {
    let scene = Scene::new(1_000_000);
    let mut permit = hiding(&scene, 1).await;
    permit.presence = Some(Presence::new(true).into());
    answered(&mut permit, 8, 2);
    assert!(permit.is_read_on());
    permit.presence = None;
    assert!(!permit.is_read_on());
}

#[tokio::test]
async fn who_left_an_answer_without_an_end_is_charged_all_that_was_held_and_that_is_noted_once() {
    let scene = Scene::new(1_000_000);
    let mut permit = hiding(&scene, 1).await;
    permit.set_forwarded(true);
    permit.note_leaving();
    let presence = permit.presence().map(std::rc::Rc::clone).expect("it is read on");
    presence.leave();
    permit.note_leaving();
    permit.note_leaving();
    assert!(permit.has_left());
    permit.settle(Outcome::Completed);
    let entries = scene.entries();
    let [Entry::Hold(_), Entry::Progress(noted), Entry::Settle(ended)] = &*entries else {
        panic!("{entries:?}")
    };
    assert_eq!((noted.charge.cost, ended.charge.cost), (Nano(100), Nano(100)));
    assert_eq!((ended.outcome, scene.settled().2), (Outcome::Cancelled, 999_900));
}
