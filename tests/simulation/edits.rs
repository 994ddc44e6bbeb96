//! Changes of limits and wallets: committed to the database, then applied to the live state, as the
//! admin API does.

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

/// A limit that the calls of a history come close to.
fn value(rule: usize, random: &mut Random) -> i64 {
    let max = match RULES[rule] {
        (model::Span::Now, _) => 5,
        (model::Span::Minute, measure) => [6, 200, 900][measure],
        (model::Span::Day, measure) => [12, 400, 1_800][measure],
        (model::Span::Month, measure) => [20, 700, 3_000][measure],
    };
    random.between(0, max)
}

pub async fn quota(world: &mut World, random: &mut Random) {
    let owner = random.pick(&KEYS);
    let is_project = !random.one_in(3);
    let subject = if is_project { owner.project } else { owner.organization };
    let mut quota = world.model.quota(subject);
    if random.one_in(4) {
        quota.limits = [None; 9];
    }
    for _ in 0..random.between(0, 2) {
        let rule = random.index(9);
        quota.limits[rule] = (!random.one_in(5)).then(|| value(rule, random));
    }
    if random.one_in(4) {
        quota.enforce = !quota.enforce;
    }
    if random.one_in(2) {
        let today = day_of(world.now) - month_of(day_of(world.now), 1).0 + 1;
        let near = today + random.between(-1, 1);
        quota.reset_day = if random.one_in(3) { random.between(1, 28) } else { near.clamp(1, 28) };
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

/// Applies the committed settings of a project or an organization to the live state.
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

pub async fn key_limits(world: &mut World, random: &mut Random) {
    let owner = random.pick(&KEYS);
    let mut quota = model::Quota::default();
    for rule in [4, 8] {
        quota.limits[rule] = (!random.one_in(3)).then(|| value(rule, random));
    }
    world.trace(format!("{} {:?}", owner.key, quota.limits));
    let mut tx = world.node.database.begin().await.expect("a transaction");
    sqlx::query(
        "UPDATE api_keys SET requests_per_minute_limit = $2, monthly_spend_limit_nano = $3
         WHERE id = $1",
    )
    .bind(Uuid::from_u128(u128::from(owner.key)))
    .bind(quota.limits[4])
    .bind(quota.limits[8])
    .execute(&mut *tx)
    .await
    .expect("updated");
    tx.commit().await.expect("committed");
    world.model.quotas.insert(owner.key, quota);
    refresh(world, owner.project, true).await;
}

pub async fn toggle_wallet(world: &mut World, random: &mut Random) {
    let organization = random.pick(&[1, 2]);
    let was_inactive = world.model.inactive_wallets.contains(&organization);
    world.trace(format!("{organization} {}", if was_inactive { "on" } else { "off" }));
    let (id, now) = (OrganizationId(u128::from(organization)), UnixMs(world.now));
    let mut tx = world.node.database.begin().await.expect("a transaction");
    wallets::set_active(&mut tx, id, was_inactive, true, now).await.expect("switched");
    tx.commit().await.expect("committed");
    if was_inactive {
        world.model.inactive_wallets.remove(&organization);
    } else {
        world.model.inactive_wallets.insert(organization);
    }
    refresh(world, organization, false).await;
}

pub async fn recharge(world: &mut World, organization: Subject, amount: i64) {
    pay(world, organization, amount, None).await;
}

/// Refunds part of the cost of a call in the ledger.
pub async fn refund(world: &mut World, random: &mut Random) {
    let mut tx = world.node.database.begin_snapshot().await.expect("a picture");
    let mut refundable = Vec::new();
    for call in world.model.calls.iter().rev().take(12) {
        let organization = OrganizationId(u128::from(call.owner.organization));
        let id = RequestLogId(u128::from(call.id));
        if let Some(record) = records::consume(&mut tx, organization, id).await.expect("read") {
            let refunded = record.refunded.unwrap_or_default();
            refundable.push((call.owner.organization, call.id, (record.amount - refunded).0));
        }
    }
    drop(tx);
    refundable.retain(|(.., refundable)| 0 < *refundable);
    if refundable.is_empty() {
        return;
    }
    let (organization, call, max) = random.pick(&refundable);
    pay(world, organization, random.between(1, max), Some(call)).await;
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
    let state = world
        .node
        .process()
        .directory
        .live_state()
        .organization(id)
        .expect("the organization is loaded");
    state.credit(Nano(amount));
}
