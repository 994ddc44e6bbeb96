//! Prices that the operator sets through the API. They override the configured prices.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::catalog::Model;
use crate::domain::ids::PriceId;
use crate::domain::price::{PriceTable, required_units};
use crate::domain::price_override::PriceOverride;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::PriceRow;
use crate::domain::time::UnixMs;
use crate::organization::access::Principal;
use crate::organization::catalog::activate_after_commit;
use crate::organization::error::{FieldError, UseCaseError};
use crate::organization::rights::Action;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, UnitOfWork};
use crate::store::columns::new_id;
use crate::store::price_lists;
use crate::store::prices::{self, StoredPrice};

/// A price to create.
#[derive(Debug)]
pub struct NewPrice {
    pub model: String,
    /// The upstream at which the price applies; `None`: at all upstreams of the model.
    pub upstream: Option<String>,
    /// The service tier.
    pub tier: ServiceTier,
    /// The price of each unit.
    pub prices: PriceTable,
    /// The prices above a number of input tokens.
    pub tiers: Vec<(u64, PriceTable)>,
    /// When the price takes effect; `None`: now.
    pub from: Option<UnixMs>,
}

/// A price that is or was in force.
#[derive(Debug)]
pub enum ListedPrice {
    /// Set by the operator through the API.
    Api(StoredPrice),
    /// Configured in the file for one upstream, with its price version.
    File(PriceOverride, Arc<str>),
}

/// Returns the prices set through the API, newest first, including ended ones, and then the
/// configured prices.
pub async fn list(
    platform: &Services,
    principal: &Principal,
    model: Option<&str>,
) -> Result<Vec<ListedPrice>, UseCaseError> {
    principal.require(Action::ViewPlatform)?;
    let posted = prices::list(&platform.database, model).await?;
    let mut listed: Vec<_> = posted.into_iter().map(ListedPrice::Api).collect();
    let names: Vec<String> =
        platform.catalog.upstreams().into_iter().map(|upstream| upstream.name).collect();
    let filed = platform.catalog.configured_models();
    for known in filed.iter().filter(|known| model.is_none_or(|name| *known.name == *name)) {
        listed.extend(configured_prices(known, &names));
    }
    Ok(listed)
}

/// Returns the configured prices of a model, one for each upstream, start time and service tier.
fn configured_prices(model: &Model, upstreams: &[String]) -> Vec<ListedPrice> {
    let mut listed = Vec::new();
    for target in &model.targets {
        let turns = target.schedule.entries();
        for (at, (from, tariff)) in turns.iter().enumerate() {
            for rows in tariff.rows().chunk_by(|one, other| one.tier == other.tier) {
                let laid = PriceOverride {
                    model: Arc::clone(&model.name),
                    upstream: upstreams.get(target.upstream).map(|name| name.as_str().into()),
                    tier: rows[0].tier,
                    rows: rows.to_vec(),
                    from: *from,
                    until: turns.get(at + 1).map(|(next, _)| *next),
                };
                listed.push(ListedPrice::File(laid, Arc::clone(tariff.version())));
            }
        }
    }
    listed
}

/// Creates a price. It ends the earlier price for the same model, upstream and service tier.
pub async fn create(
    work: &mut UnitOfWork,
    principal: &Principal,
    new: NewPrice,
) -> Result<StoredPrice, UseCaseError> {
    principal.require(Action::ChangePlatform)?;
    let now = work.now();
    check(work.services(), &new, now)?;
    let tier = if new.tier.is_default() { ServiceTier::DEFAULT } else { new.tier };
    let row = |(above_input_tokens, prices)| PriceRow { tier, above_input_tokens, prices };
    let mut rows: Vec<PriceRow> = [(0, new.prices)].into_iter().chain(new.tiers).map(row).collect();
    rows.sort_by_key(|row| row.above_input_tokens);
    let version = price_lists::version("api", &rows);
    let laid = PriceOverride {
        model: new.model.into(),
        upstream: new.upstream.map(Arc::from),
        tier,
        rows,
        from: new.from.unwrap_or(now),
        until: None,
    };
    let (id, created_by) = (PriceId(new_id(now)), principal.user.id);
    let mut price = StoredPrice { id, price_override: laid, version, created_by, created_at: now };
    price.price_override.until = prices::insert(work.connection(), &price).await?;
    let after = (None, Some(audit_json(&price)));
    apply_and_audit(work, principal, "price.create", &price, after).await?;
    Ok(price)
}

/// Ends a price: from now on the next more general price applies, or the configured one.
pub async fn delete(
    work: &mut UnitOfWork,
    principal: &Principal,
    which: PriceId,
) -> Result<(), UseCaseError> {
    principal.require(Action::ChangePlatform)?;
    let now = work.now();
    let found = prices::by_id(work.connection(), which).await?;
    let goes_on = |price: &StoredPrice| price.price_override.until.is_none_or(|until| now < until);
    let price = found.filter(goes_on).ok_or(UseCaseError::NotFound)?;
    prices::end(work.connection(), &price, now).await?;
    apply_and_audit(work, principal, "price.delete", &price, (Some(audit_json(&price)), None)).await
}

/// Puts a change of prices in force and writes it into the audit log.
async fn apply_and_audit(
    work: &mut UnitOfWork,
    principal: &Principal,
    action: &'static str,
    price: &StoredPrice,
    (before, after): (Option<Value>, Option<Value>),
) -> Result<(), UseCaseError> {
    activate_after_commit(work, |reload, laid| Ok(reload.with_overrides(laid))).await?;
    let target = ("price", price.id.to_string(), price.price_override.model.to_string());
    let change = AuditChange { organization: None, action: action.into(), target, before, after };
    work.audit(&principal.actor(), change).await
}

/// Checks a new price against the catalog, and collects all errors.
fn check(platform: &Services, new: &NewPrice, now: UnixMs) -> Result<(), UseCaseError> {
    let mut faults = Vec::new();
    let models = platform.catalog.models();
    let model = models.iter().find(|model| *model.name == *new.model);
    if model.is_none() {
        let message = "model: is not listed; give the id of one of GET /api/models";
        faults.push(FieldError::new("/model", "unknown_model", message));
    }
    if let (Some(model), Some(upstream)) = (model, &new.upstream) {
        let upstreams = platform.catalog.upstreams();
        let place = upstreams.iter().position(|known| known.name == *upstream);
        if model.targets.iter().all(|target| Some(target.upstream) != place) {
            let message = format!("upstream: does not serve {}; name one that does", model.name);
            faults.push(FieldError::new("/upstream", "not_served", message));
        }
    }
    let answers = model.is_none_or(|model| 0 < model.max_output_tokens);
    let tiers = new.tiers.iter().enumerate();
    let tiers = tiers.map(|(at, (_, prices))| (format!("/tiers/{at}/prices"), prices));
    for (param, prices) in [("/prices".to_owned(), &new.prices)].into_iter().chain(tiers) {
        let given = |unit| prices.price_of(unit).is_some();
        for unit in required_units(given, answers).iter().filter(|unit| !given(**unit)) {
            let message = format!("{}: is missing; give 0 if it is free", unit.name());
            faults.push(FieldError::new(format!("{param}/{}", unit.name()), "required", message));
        }
    }
    if new.from.is_some_and(|from| from < now) {
        let message = "effectiveFrom: give an instant that is still to come, or none for now";
        faults.push(FieldError::new("/effectiveFrom", "in_the_past", message));
    }
    if faults.is_empty() { Ok(()) } else { Err(UseCaseError::Invalid(faults)) }
}

fn audit_json(price: &StoredPrice) -> Value {
    let (prices, tiers) = prices::columns_json(&price.price_override);
    json!({
        "model": *price.price_override.model,
        "upstream": price.price_override.upstream.as_deref(),
        "serviceTier": price_lists::tier_name(price.price_override.tier),
        "prices": prices,
        "tiers": tiers,
        "effectiveFrom": price.price_override.from.to_string(),
    })
}
