//! What does not fit at once: counted, waited for, or refused.

use std::time::Duration;

use crate::accounting::admit::Denial;
use crate::accounting::permit::Demand;
use crate::accounting::tests::scene::{BODY, House, Scene, demand, model};
use crate::dialect::endpoint::Endpoint;
use crate::domain::money::Nano;
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::Outcome;

const PATIENCE: Duration = Duration::from_millis(500);

fn scene(balance: i64) -> Scene {
    House { balance, patience: PATIENCE, ..House::default() }.open().scene(0)
}

#[tokio::test]
async fn a_text_is_not_refused_for_the_price_of_speech() {
    let scene = scene(5_000);
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
    let scene = scene(2_600);
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
    let scene = scene(6_000);
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
