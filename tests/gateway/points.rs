//! The crash points: at each the gateway dies by its own hand, and what the table of crashes says of
//! it is so after the next start.

use std::time::Duration;

use crate::crashes::{By, Client, Ledger, Provider, ROWS, Row};
use crate::crowd::{Dice, Heard, Tally, Way, call};
use crate::kills::{Life, number};
use crate::reconcile::{Accounts, State};
use crate::site::{Bites, Paid, Site, lone, pay, recharge, refund};

/// What was under way when the gateway died.
enum Victim {
    Call(Heard),
    Paid(Paid),
    Many,
}

/// Has one call or payment, alone, pass the point.
async fn alone(site: &mut Site, by: By) -> Victim {
    let tenant = site.places[0].tenant.clone();
    let victim = match by {
        By::Call(way) => {
            let heard = call(lone(site.next_marker(), way), &tenant, &Tally::default()).await;
            site.heard.push(heard.clone());
            Victim::Call(heard)
        }
        By::Recharge | By::Refund | By::Either => {
            let number = site.paid.len();
            let ended = site.heard.iter().find(|heard| heard.ended);
            let mut paid = match ended {
                Some(heard) if by == By::Refund => refund(number, heard),
                _ => recharge(number, 0, 7),
            };
            paid.answer = pay(&tenant, &paid).await;
            site.paid.push(paid.clone());
            Victim::Paid(paid)
        }
        By::Calls | By::Start => Victim::Many,
    };
    site.dies().await;
    victim
}

/// Compares what became of it with the row.
fn compare(row: &Row, victim: &Victim, accounts: &Accounts<'_>, counted: u64) {
    let point = row.point;
    match (victim, row.ledger) {
        (Victim::Call(heard), Ledger::Call(states)) => {
            let marker = heard.ask.marker;
            let state = accounts.state(marker);
            assert!(states.contains(&state), "{point}: {state:?} is none of {states:?}: {heard:?}");
            assert_eq!(counted, u64::from(state != State::Absent), "{point}: counted {heard:?}");
            let reached = accounts.has_reached_the_provider(marker);
            let told = if reached { Provider::Yes } else { Provider::No };
            let as_told = row.provider == Provider::Maybe || row.provider == told;
            assert!(as_told, "{point}: {reached} is not {:?}", row.provider);
            match row.client {
                Client::Nothing => assert!(heard.head.is_none(), "{point}: {heard:?}"),
                Client::NoEnd => assert!(!heard.ended, "{point}: {heard:?}"),
                Client::MaybeEnd | Client::NoAnswer => {}
            }
        }
        (Victim::Paid(paid), Ledger::Payment(done)) => {
            assert_eq!(paid.answer, None, "{point}: {paid:?}");
            let lines = accounts.lines_named(&paid.name);
            assert_eq!(lines.len(), usize::from(done), "{point}: {paid:?} {lines:?}");
        }
        (Victim::Many, _) => {}
        _ => panic!("{point}: a row of something else"),
    }
}

const MIXED: &[Way] =
    &[Way::Whole, Way::Stream, Way::Stream, Way::Long, Way::Leave, Way::Fail, Way::Bulky];

/// 24 callers of three tenants, who do as `ways` says; every fourth makes bulky calls.
fn crowd(ways: &'static [Way]) -> Vec<(usize, &'static [Way])> {
    let caller = |at: usize| (at % 3, if at.is_multiple_of(4) { &[Way::Bulky] } else { ways });
    (0..24).map(caller).collect()
}

const TENANTS: [Bites; 5] =
    [Bites::Never, Bites::Requests, Bites::Never, Bites::Tokens, Bites::Wallet];

/// Leaves long streams open that the next start has to end.
async fn left_open(site: &mut Site, seed: u64) {
    const LONG: &[Way] = &[Way::Long];
    let life = Life::begin(site, &[(0, LONG); 24], seed).await;
    life.open(site, 22).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    life.open(site, 22).await;
    site.kill();
    life.end(site).await;
}

/// A site of which a call is known that came to its end.
async fn site() -> Site {
    let mut site = Site::new(&TENANTS).await;
    let first = call(lone(0, Way::Whole), &site.places[0].tenant, &Tally::default()).await;
    assert!(first.ended, "{first:?}");
    site.heard.push(first);
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn at_each_point_a_gateway_dies_and_is_as_its_row_says_after_the_next_start() {
    let mut site = site().await;
    // Those with many calls come last: all that came before is looked at again each time.
    let (many, few): (Vec<_>, Vec<_>) = ROWS.iter().partition(|row| row.by == By::Calls);
    for row in few.into_iter().chain(many) {
        let armed = format!("{}:1", row.point);
        if row.by == By::Start {
            let first = site.next_marker();
            left_open(&mut site, 1).await;
            site.start_in_vain(&armed).await;
            site.start(None).await;
            let accounts = Accounts::of(&site).await;
            accounts.reconcile().await;
            orphans(row, &accounts, first);
            continue;
        }
        let times = if row.by == By::Either { 2 } else { 1 };
        for time in 0..times {
            site.kill();
            site.start(Some(&armed)).await;
            let before = Accounts::of(&site).await.used(0).requests;
            let first = site.next_marker();
            let victim = match row.by {
                By::Calls => under_load(&mut site, 1).await,
                By::Either if time == 1 => alone(&mut site, By::Refund).await,
                by => alone(&mut site, by).await,
            };
            site.start(None).await;
            let accounts = Accounts::of(&site).await;
            accounts.reconcile().await;
            compare(row, &victim, &accounts, accounts.used(0).requests - before);
            somebody(row, &site, &accounts, first);
            site.pay_again().await;
            Accounts::of(&site).await.reconcile().await;
        }
    }
    site.kill();
}

/// Every call from `first` on that a death left open has ended: for nothing, or by its progress.
fn orphans(row: &Row, accounts: &Accounts<'_>, first: u32) {
    let orphans = accounts.books.logs.iter().filter(|log| log.is_orphan() && first <= log.marker);
    let states: Vec<State> = orphans.map(|orphan| accounts.state(orphan.marker)).collect();
    assert!(20 <= states.len(), "{}: {} orphans", row.point, states.len());
    let is_told = |state: &State| [State::Void, State::Estimate].contains(state);
    assert!(states.iter().all(is_told), "{}: {states:?}", row.point);
}

/// Of the calls from `first` on that did not end, somebody is as the row says.
fn somebody(row: &Row, site: &Site, accounts: &Accounts<'_>, first: u32) {
    let Ledger::Call(states) = row.ledger else { return };
    let mut own = site.heard.iter().filter(|heard| first <= heard.ask.marker && !heard.ended);
    let found = own.any(|heard| states.contains(&accounts.state(heard.ask.marker)));
    // Where it may have ended, nobody need be left.
    assert!(found || states.contains(&State::Usage), "{}: nobody is {states:?}", row.point);
}

/// Has a crowd, and somebody who pays, pass the point until the gateway dies there.
async fn under_load(site: &mut Site, seed: u64) -> Victim {
    let life = Life::begin(site, &crowd(MIXED), seed).await;
    site.dies().await;
    life.end(site).await;
    Victim::Many
}

/// `METEOR_POINTS` says how many different passings of each point are tried under load.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_passing_of_every_point_leaves_the_books_exact() {
    let passings = number("METEOR_POINTS").unwrap_or(0);
    let lane = async |lane: usize| {
        for row in ROWS.iter().skip(lane).step_by(2) {
            loaded(row, passings).await;
        }
    };
    tokio::join!(lane(0), lane(1));
}

async fn loaded(row: &Row, passings: u64) {
    let mut dice = Dice::new(passings);
    let mut site = None;
    for passing in 1..=passings {
        let site = match &mut site {
            Some(site) => site,
            none => none.insert(self::site().await),
        };
        let armed = format!("{}:{}", row.point, passing.min(row.most));
        println!("{armed}");
        let first = site.next_marker();
        if row.by == By::Start {
            left_open(site, dice.roll(u64::MAX)).await;
            site.start_in_vain(&armed).await;
        } else {
            site.kill();
            site.start(Some(&armed)).await;
            under_load(site, dice.roll(u64::MAX)).await;
        }
        site.start(None).await;
        let accounts = Accounts::of(site).await;
        accounts.reconcile().await;
        if row.by == By::Start {
            orphans(row, &accounts, first);
        }
        somebody(row, site, &accounts, first);
        site.pay_again().await;
    }
}
