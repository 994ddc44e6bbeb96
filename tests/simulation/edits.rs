//! Edits of limits and wallets: committed, and then brought into the books, as the admin side does.

use meteor::domain::ids::{OrganizationId, ProjectId, RequestLogId};
use meteor::domain::limit::{Limit, Limits};
use meteor::domain::money::Nano;
use meteor::domain::quota::Quota;
use meteor::domain::record::RecordKind;
use meteor::domain::time::{ResetDay, UnixMs};
use meteor::ledger::records;
use meteor::ledger::wallets::{self, NewRecord};
use meteor::store::quotas;
use uuid::Uuid;

use crate::calendar::{day_of, month_of};
use crate::history::Random;
use crate::model::{self, RULES, Subject};
use crate::node::KEYS;
use crate::world::World;

/// A value near which calls run into the limit.
fn value(rule: usize, dice: &mut Random) -> i64 {
    let most = match RULES[rule] {
        (model::Span::Now, _) => 5,
        (model::Span::Minute, measure) => [6, 200, 900][measure],
        (model::Span::Day, measure) => [12, 400, 1_800][measure],
        (model::Span::Month, measure) => [20, 700, 3_000][measure],
    };
    dice.between(0, most)
}

pub async fn quota(world: &mut World, dice: &mut Random) {
    let who = dice.pick(&KEYS);
    let is_project = !dice.one_in(3);
    let subject = if is_project { who.project } else { who.organization };
    let mut quota = world.model.quota(subject);
    if dice.one_in(4) {
        quota.limits = [None; 9];
    }
    for _ in 0..dice.between(0, 2) {
        let rule = dice.index(9);
        quota.limits[rule] = (!dice.one_in(5)).then(|| value(rule, dice));
    }
    if dice.one_in(4) {
        quota.enforce = !quota.enforce;
    }
    if dice.one_in(2) {
        let today = day_of(world.now) - month_of(day_of(world.now), 1).0 + 1;
        let near = today + dice.between(-1, 1);
        quota.reset_day = if dice.one_in(3) { dice.between(1, 28) } else { near.clamp(1, 28) };
    }
    world.trace(format!("{subject} {quota:?}"));
    let limits = Limit::ALL.into_iter().zip(quota.limits);
    let stored = Quota {
        limits: limits.fold(Limits::default(), |limits, (limit, value)| limits.with(limit, value)),
        enforce: quota.enforce,
        reset_day: u8::try_from(quota.reset_day).ok().and_then(ResetDay::new).expect("1..=28"),
    };
    let (database, now) = (&world.node.database, UnixMs(world.now));
    let mut tx = database.begin().await.expect("a transaction");
    quotas::replace(&mut tx, u128::from(subject), &stored, now).await.expect("replaced");
    tx.commit().await.expect("committed");
    world.model.quotas.insert(subject, quota);
    refresh(world, subject, is_project).await;
}

/// Brings what was committed of a project or an organization into the books.
async fn refresh(world: &World, subject: Subject, is_project: bool) {
    let (database, now) = (&world.node.database, UnixMs(world.now));
    let (directory, id) = (&world.node.process().directory, u128::from(subject));
    let refreshed = if is_project {
        directory.refresh_project(database, ProjectId(id), now).await
    } else {
        directory.refresh_organization(database, OrganizationId(id), now).await
    };
    refreshed.expect("refreshed");
}

pub async fn key_limits(world: &mut World, dice: &mut Random) {
    let who = dice.pick(&KEYS);
    let mut quota = model::Quota::default();
    for rule in [4, 8] {
        quota.limits[rule] = (!dice.one_in(3)).then(|| value(rule, dice));
    }
    world.trace(format!("{} {:?}", who.key, quota.limits));
    let mut tx = world.node.database.begin().await.expect("a transaction");
    sqlx::query(
        "UPDATE api_keys SET requests_per_minute_limit = $2, monthly_spend_limit_nano = $3
         WHERE id = $1",
    )
    .bind(Uuid::from_u128(u128::from(who.key)))
    .bind(quota.limits[4])
    .bind(quota.limits[8])
    .execute(&mut *tx)
    .await
    .expect("updated");
    tx.commit().await.expect("committed");
    world.model.quotas.insert(who.key, quota);
    refresh(world, who.project, true).await;
}

pub async fn toggle_wallet(world: &mut World, dice: &mut Random) {
    let organization = dice.pick(&[1, 2]);
    let was_off = world.model.inactive_wallets.contains(&organization);
    world.trace(format!("{organization} {}", if was_off { "on" } else { "off" }));
    let (id, now) = (OrganizationId(u128::from(organization)), UnixMs(world.now));
    let mut tx = world.node.database.begin().await.expect("a transaction");
    wallets::set_active(&mut tx, id, was_off, true, now).await.expect("switched");
    tx.commit().await.expect("committed");
    if was_off {
        world.model.inactive_wallets.remove(&organization);
    } else {
        world.model.inactive_wallets.insert(organization);
    }
    refresh(world, organization, false).await;
}

pub async fn recharge(world: &mut World, organization: Subject, amount: i64) {
    pay(world, organization, amount, None).await;
}

/// Gives back a part of what a call cost that is in the ledger.
pub async fn refund(world: &mut World, dice: &mut Random) {
    let mut tx = world.node.database.begin_snapshot().await.expect("a picture");
    let mut left = Vec::new();
    for call in world.model.calls.iter().rev().take(12) {
        let organization = OrganizationId(u128::from(call.owner.organization));
        let id = RequestLogId(u128::from(call.id));
        if let Some(record) = records::consume(&mut tx, organization, id).await.expect("read") {
            let refunded = record.refunded.unwrap_or_default();
            left.push((call.owner.organization, call.id, (record.amount - refunded).0));
        }
    }
    drop(tx);
    left.retain(|(.., left)| 0 < *left);
    if left.is_empty() {
        return;
    }
    let (organization, call, most) = dice.pick(&left);
    pay(world, organization, dice.between(1, most), Some(call)).await;
}

async fn pay(world: &mut World, organization: Subject, amount: i64, call: Option<u64>) {
    world.trace(format!("{amount} to {organization} for {call:?}"));
    let (id, now) = (OrganizationId(u128::from(organization)), UnixMs(world.now));
    let mut tx = world.node.database.begin().await.expect("a transaction");
    let consume = match call {
        Some(call) => {
            let call = RequestLogId(u128::from(call));
            records::consume(&mut tx, id, call).await.expect("a record")
        }
        None => None,
    };
    let kind = if call.is_some() { RecordKind::Refund } else { RecordKind::Recharge };
    let posting = NewRecord {
        kind,
        amount: Nano(amount),
        consume: consume.as_ref(),
        description: None,
        reference: None,
        actor: "{}",
    };
    wallets::post(&mut tx, id, &posting, now).await.expect("posted");
    tx.commit().await.expect("committed");
    world.model.payments.push((organization, amount, call));
    let book = world.node.process().directory.live_state().organization(id).expect("a book");
    book.credit(Nano(amount));
}
