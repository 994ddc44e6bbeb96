//! Prices: what the operator lays over those of the file, until it is deleted.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::catalog::Model;
use crate::domain::ids::PriceId;
use crate::domain::overlay::Laid;
use crate::domain::price::{Prices, needed};
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::Row;
use crate::domain::time::UnixMs;
use crate::organization::access::Principal;
use crate::organization::catalog::follow;
use crate::organization::denied::{Denied, Fault};
use crate::organization::platform::Platform;
use crate::organization::rights::Right;
use crate::organization::work::{Change, Work};
use crate::store::columns::new_id;
use crate::store::price_lists;
use crate::store::prices::{self, Price};

/// A price that is asked for.
#[derive(Debug)]
pub struct NewPrice {
    /// The public name of the model.
    pub model: String,
    /// The name of the one upstream where it costs that; `None`: wherever it is served.
    pub upstream: Option<String>,
    /// The tier.
    pub tier: ServiceTier,
    /// What each unit costs.
    pub prices: Prices,
    /// The same with more input than so many tokens.
    pub tiers: Vec<(u64, Prices)>,
    /// From when on; `None`: now.
    pub from: Option<UnixMs>,
}

/// A price that holds or held.
#[derive(Debug)]
pub enum Listed {
    /// The operator posted it.
    Api(Price),
    /// The file says so, for one place; the version of its prices there.
    File(Laid, Arc<str>),
}

/// The prices of the admin API, newest first, ended ones too; then those of the file in force.
pub async fn list(
    platform: &Platform,
    principal: &Principal,
    model: Option<&str>,
) -> Result<Vec<Listed>, Denied> {
    principal.may(Right::ViewPlatform)?;
    let posted = prices::list(&platform.database, model).await?;
    let mut listed: Vec<_> = posted.into_iter().map(Listed::Api).collect();
    let names: Vec<String> =
        platform.reload.upstreams().into_iter().map(|upstream| upstream.name).collect();
    let filed = platform.reload.filed();
    for known in filed.iter().filter(|known| model.is_none_or(|name| *known.name == *name)) {
        listed.extend(of_file(known, &names));
    }
    Ok(listed)
}

/// What the file says of a model: for each place, time and tier.
fn of_file(model: &Model, upstreams: &[String]) -> Vec<Listed> {
    let mut listed = Vec::new();
    for target in &model.targets {
        let turns = target.schedule.turns();
        for (at, (from, tariff)) in turns.iter().enumerate() {
            for rows in tariff.rows().chunk_by(|one, other| one.tier == other.tier) {
                let laid = Laid {
                    model: Arc::clone(&model.name),
                    upstream: upstreams.get(target.upstream).map(|name| name.as_str().into()),
                    tier: rows[0].tier,
                    rows: rows.to_vec(),
                    from: *from,
                    until: turns.get(at + 1).map(|(next, _)| *next),
                };
                listed.push(Listed::File(laid, Arc::clone(tariff.version())));
            }
        }
    }
    listed
}

/// Lays a price over those of the file. It ends the one before it, of the same model, place and
/// tier.
pub async fn create(
    work: &mut Work,
    principal: &Principal,
    new: NewPrice,
) -> Result<Price, Denied> {
    principal.may(Right::ChangePlatform)?;
    let now = work.now();
    check(work.platform(), &new, now)?;
    let tier = if new.tier.is_default() { ServiceTier::DEFAULT } else { new.tier };
    let row = |(above_input_tokens, prices)| Row { tier, above_input_tokens, prices };
    let mut rows: Vec<Row> = [(0, new.prices)].into_iter().chain(new.tiers).map(row).collect();
    rows.sort_by_key(|row| row.above_input_tokens);
    let version = price_lists::version("api", &rows);
    let laid = Laid {
        model: new.model.into(),
        upstream: new.upstream.map(Arc::from),
        tier,
        rows,
        from: new.from.unwrap_or(now),
        until: None,
    };
    let (id, created_by) = (PriceId(new_id(now)), principal.user.id);
    let mut price = Price { id, laid, version, created_by, created_at: now };
    price.laid.until = prices::insert(work.connection(), &price).await?;
    let after = (None, Some(told(&price)));
    change(work, principal, "price.create", &price, after).await?;
    Ok(price)
}

/// Ends a price: from now on the file's holds, or that of every place.
pub async fn delete(work: &mut Work, principal: &Principal, which: PriceId) -> Result<(), Denied> {
    principal.may(Right::ChangePlatform)?;
    let now = work.now();
    let found = prices::by_id(work.connection(), which).await?;
    let goes_on = |price: &Price| price.laid.until.is_none_or(|until| now < until);
    let price = found.filter(goes_on).ok_or(Denied::NotFound)?;
    prices::end(work.connection(), &price, now).await?;
    change(work, principal, "price.delete", &price, (Some(told(&price)), None)).await
}

/// Puts what was done in force, and into the audit log.
async fn change(
    work: &mut Work,
    principal: &Principal,
    action: &'static str,
    price: &Price,
    (before, after): (Option<Value>, Option<Value>),
) -> Result<(), Denied> {
    follow(work, |reload, laid| Ok(reload.lay(laid))).await?;
    let target = ("price", price.id.to_string(), price.laid.model.to_string());
    let change = Change { organization: None, action: action.into(), target, before, after };
    work.audit(&principal.actor(), change).await
}

/// Finds every fault that only the catalog shows.
fn check(platform: &Platform, new: &NewPrice, now: UnixMs) -> Result<(), Denied> {
    let mut faults = Vec::new();
    let models = platform.reload.models();
    let model = models.iter().find(|model| *model.name == *new.model);
    if model.is_none() {
        let message = "model: is not listed; give the id of one of GET /api/models";
        faults.push(Fault::new("/model", "unknown_model", message));
    }
    if let (Some(model), Some(upstream)) = (model, &new.upstream) {
        let upstreams = platform.reload.upstreams();
        let place = upstreams.iter().position(|known| known.name == *upstream);
        if model.targets.iter().all(|target| Some(target.upstream) != place) {
            let message = format!("upstream: does not serve {}; name one that does", model.name);
            faults.push(Fault::new("/upstream", "not_served", message));
        }
    }
    let answers = model.is_none_or(|model| 0 < model.max_output_tokens);
    let tiers = new.tiers.iter().enumerate();
    let tiers = tiers.map(|(at, (_, prices))| (format!("/tiers/{at}/prices"), prices));
    for (param, prices) in [("/prices".to_owned(), &new.prices)].into_iter().chain(tiers) {
        let given = |unit| prices.given(unit).is_some();
        for unit in needed(given, answers).iter().filter(|unit| !given(**unit)) {
            let message = format!("{}: is missing; give 0 if it is free", unit.name());
            faults.push(Fault::new(format!("{param}/{}", unit.name()), "required", message));
        }
    }
    if new.from.is_some_and(|from| from < now) {
        let message = "effectiveFrom: give an instant that is still to come, or none for now";
        faults.push(Fault::new("/effectiveFrom", "in_the_past", message));
    }
    if faults.is_empty() { Ok(()) } else { Err(Denied::Invalid(faults)) }
}

fn told(price: &Price) -> Value {
    let (prices, tiers) = prices::told(&price.laid);
    json!({
        "model": *price.laid.model,
        "upstream": price.laid.upstream.as_deref(),
        "serviceTier": price_lists::tier(price.laid.tier),
        "prices": prices,
        "tiers": tiers,
        "effectiveFrom": price.laid.from.to_string(),
    })
}
