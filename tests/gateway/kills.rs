//! Killed with -9 at random moments under 200 streams, again and again, the books stay exact.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::crowd::{Ask, Crowd, Dialect, Dice, Heard, Tally, Way, call};
use crate::reconcile::Accounts;
use crate::site::{Bites, Paid, Site, lone, pay, recharge, refund};
use crate::tenant::Tenant;
use crate::wait::eventually;

const CALLERS: usize = 200;
/// How many answers are open when it is killed, by the count of the provider and by the clients'.
const OPEN: usize = 50;
/// How often a folder is killed before another takes its place: reconciliation stays cheap.
const KILLS_A_FOLDER: u64 = 25;
const TENANTS: [Bites; 5] =
    [Bites::Never, Bites::Requests, Bites::Tokens, Bites::Spend, Bites::Wallet];

const FREE: &[Way] = &[Way::Whole, Way::Stream, Way::Long, Way::Long, Way::Long, Way::Leave];
const LIMITED: &[Way] = &[Way::Whole, Way::Whole, Way::Stream, Way::Stream, Way::Long];

pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// More than half of them have no limit; the others share the limited tenants.
fn places() -> Vec<(usize, &'static [Way])> {
    let limited = [(1, LIMITED), (2, LIMITED), (3, LIMITED), (4, LIMITED)];
    let free = [(0, FREE), (5, FREE)];
    let limited = limited.iter().cycle().take(CALLERS * 2 / 5);
    limited.chain(free.iter().cycle().take(CALLERS * 3 / 5)).copied().collect()
}

/// What the time from the start to the first answer was, of every start.
#[derive(Default)]
struct Starts(Vec<Duration>);

impl Starts {
    fn told(&mut self) -> String {
        self.0.sort();
        let (max, median) = (self.0.last(), self.0.get(self.0.len() / 2));
        format!("{} starts, ready after {median:?} at the median and {max:?} at most", self.0.len())
    }
}

/// Recharges and refunds without a pause until the gateway is gone.
async fn payments(site: (Vec<Tenant>, usize), ended: Vec<Heard>, tally: Arc<Tally>) -> Vec<Paid> {
    let mut all = Vec::new();
    let (tenants, mut first) = site;
    let mut ended = ended.into_iter().cycle();
    while !tally.stop.load(Ordering::Relaxed) {
        let mut paid = match ended.next() {
            Some(heard) if first % 2 == 0 => refund(first, &heard),
            _ => recharge(first, 4, 100_000),
        };
        first += 1;
        paid.answer = pay(&tenants[paid.place], &paid).await;
        let gone = paid.answer.is_none();
        all.push(paid);
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all
}

/// A gateway under load, up to its death.
pub struct Life {
    crowd: Crowd,
    paying: JoinHandle<Vec<Paid>>,
}

impl Life {
    /// Everybody has room for some calls more, and makes them.
    pub async fn begin(site: &mut Site, places: &[(usize, &'static [Way])], seed: u64) -> Self {
        site.raise().await;
        let ended = site.heard.iter().rev().filter(|heard| heard.ended && heard.ask.tenant == 0);
        let ended = ended.take(20).cloned().collect();
        let crowd = Crowd::begin(&site.tenants(), places, site.next_marker(), seed);
        let (payers, tally) = ((site.tenants(), site.paid.len()), Arc::clone(&crowd.tally));
        let paying = tokio::spawn(payments(payers, ended, tally));
        Self { crowd, paying }
    }

    /// Waits for so many answers that the provider has begun and clients have seen.
    pub async fn open(&self, site: &Site, answers: usize) -> (usize, usize) {
        eventually("the answers are open", async || {
            let clients = self.crowd.tally.open.load(Ordering::SeqCst);
            (answers <= site.open().min(clients)).then_some((site.open(), clients))
        })
        .await
    }

    /// The gateway is gone: what was seen of it.
    pub async fn end(self, site: &mut Site) {
        // Whoever gets the gateway's port next is not to be called.
        self.crowd.tally.stop.store(true, Ordering::Relaxed);
        site.heard.extend(self.crowd.end().await);
        site.paid.extend(self.paying.await.expect("the payer ends"));
    }
}

/// Calls until the limit says no: it stands where it stood, however often the gateway was killed.
async fn fill(site: &mut Site, place: usize) {
    let tenant = site.places[place].tenant.clone();
    let way = if site.places[place].bites == Bites::Requests { Way::Whole } else { Way::Long };
    for _ in 0..10_000 {
        let own = Ask { tenant: place, dialect: Dialect::Anthropic, pace: 0, ..lone(0, way) };
        let ask = Ask { marker: site.next_marker(), ..own };
        let heard = call(ask, &tenant, &Tally::default()).await;
        let status = heard.head.as_ref().map(|(status, _)| *status);
        site.heard.push(heard);
        if matches!(status, Some(429 | 402)) {
            return;
        }
        assert_eq!(status, Some(200), "served or refused");
    }
    panic!("{:?} bites nobody", site.places[place].bites);
}

/// One folder, killed so many times.
async fn folder(kills: u64, seed: u64) -> Starts {
    let mut dice = Dice::new(seed);
    let mut starts = Starts::default();
    let mut site = Site::new(&TENANTS).await;
    for _ in 0..kills {
        let life = Life::begin(&mut site, &places(), dice.roll(u64::MAX)).await;
        life.open(&site, OPEN).await;
        tokio::time::sleep(Duration::from_micros(dice.roll(1_200_000))).await;
        let (provider, clients) = life.open(&site, OPEN).await;
        site.kill();
        assert!(OPEN <= provider && OPEN <= clients, "{provider} and {clients} answers are open");
        life.end(&mut site).await;
        let (_, took) = site.start(None).await;
        starts.0.push(took);
        Accounts::of(&site).await.reconcile().await;
        site.pay_again().await;
    }
    for place in 1..5 {
        fill(&mut site, place).await;
    }
    Accounts::of(&site).await.reconcile().await;
    let ended = site.heard.iter().filter(|heard| heard.ended).count();
    println!("{kills} kills: {} calls, {ended} to their end", site.heard.len());
    starts
}

/// `METEOR_KILLS` says how often, `METEOR_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_under_200_streams_the_books_are_exact() {
    let kills = number("METEOR_KILLS").unwrap_or(5);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let seed = number("METEOR_SEED").unwrap_or(now.as_secs());
    println!("METEOR_SEED={seed}");
    let folders = kills.div_ceil(KILLS_A_FOLDER);
    let lane = async |lane: u64| {
        let mut starts = Vec::new();
        for at in (0..folders).filter(|at| at % 2 == lane) {
            let own = (kills - at * KILLS_A_FOLDER).min(KILLS_A_FOLDER);
            starts.extend(folder(own, seed ^ (at << 32)).await.0);
        }
        starts
    };
    let (mut starts, others) = tokio::join!(lane(0), lane(1));
    starts.extend(others);
    println!("{}", Starts(starts).told());
}
