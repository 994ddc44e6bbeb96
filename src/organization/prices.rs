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
use crate::organization::services::{CatalogInput, Services};
use crate::organization::unit_of_work::{AuditChange, AuditTarget, UnitOfWork};
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
    services: &Services,
    principal: &Principal,
    model: Option<&str>,
) -> Result<Vec<ListedPrice>, UseCaseError> {
    principal.require(Action::ViewPlatform)?;
    let posted = prices::list(&services.database, model).await?;
    let mut listed: Vec<_> = posted.into_iter().map(ListedPrice::Api).collect();
    let names: Vec<String> =
        (services.catalog.upstreams)().into_iter().map(|upstream| upstream.name).collect();
    let configured = (services.catalog.configured_models)();
    for entry in configured.iter().filter(|entry| model.is_none_or(|name| *entry.name == *name)) {
        listed.extend(configured_prices(entry, &names));
    }
    Ok(listed)
}

/// Returns the configured prices of a model, one for each upstream, start time and service tier.
fn configured_prices(model: &Model, upstreams: &[String]) -> Vec<ListedPrice> {
    let mut listed = Vec::new();
    for target in &model.targets {
        let entries = target.schedule.entries();
        for (at, (from, tariff)) in entries.iter().enumerate() {
            for rows in tariff.rows().chunk_by(|a, b| a.tier == b.tier) {
                let price_override = PriceOverride {
                    model: Arc::clone(&model.name),
                    upstream: upstreams.get(target.upstream).map(|name| name.as_str().into()),
                    tier: rows[0].tier,
                    rows: rows.to_vec(),
                    from: *from,
                    until: entries.get(at + 1).map(|(next, _)| *next),
                };
                listed.push(ListedPrice::File(price_override, Arc::clone(tariff.version())));
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
    let price_override = PriceOverride {
        model: new.model.into(),
        upstream: new.upstream.map(Arc::from),
        tier,
        rows,
        from: new.from.unwrap_or(now),
        until: None,
    };
    let (id, created_by) = (PriceId(new_id(now)), principal.user.id);
    let mut price = StoredPrice { id, price_override, version, created_by, created_at: now };
    price.price_override.until = prices::insert(work.connection(), &price).await?;
    let after = Some(audit_json(&price));
    let change = AuditChange { after, ..audit_change("price.create", &price) };
    apply_and_audit(work, principal, change).await?;
    Ok(price)
}

/// Ends a price: from now on the next more general price applies, or the configured one.
pub async fn delete(
    work: &mut UnitOfWork,
    principal: &Principal,
    id: PriceId,
) -> Result<(), UseCaseError> {
    principal.require(Action::ChangePlatform)?;
    let now = work.now();
    let found = prices::by_id(work.connection(), id).await?;
    let is_open = |price: &StoredPrice| price.price_override.until.is_none_or(|until| now < until);
    let price = found.filter(is_open).ok_or(UseCaseError::NotFound)?;
    prices::end(work.connection(), &price, now).await?;
    let before = Some(audit_json(&price));
    let change = AuditChange { before, ..audit_change("price.delete", &price) };
    apply_and_audit(work, principal, change).await
}

/// Puts a change of prices in force and writes it into the audit log.
async fn apply_and_audit(
    work: &mut UnitOfWork,
    principal: &Principal,
    change: AuditChange,
) -> Result<(), UseCaseError> {
    activate_after_commit(work, CatalogInput::Current).await?;
    work.audit(&principal.actor(), change).await
}

fn audit_change(action: &'static str, price: &StoredPrice) -> AuditChange {
    let target = AuditTarget {
        kind: "price",
        id: price.id.to_string(),
        name: price.price_override.model.to_string(),
    };
    AuditChange { organization: None, action: action.into(), target, before: None, after: None }
}

/// Checks a new price against the catalog, and collects all errors.
fn check(services: &Services, new: &NewPrice, now: UnixMs) -> Result<(), UseCaseError> {
    let mut errors = Vec::new();
    let models = (services.catalog.models)();
    let model = models.iter().find(|model| *model.name == *new.model);
    if model.is_none() {
        let message = "model: unknown model; use an id from GET /api/models";
        errors.push(FieldError::new("/model", "unknown_model", message));
    }
    if let (Some(model), Some(upstream)) = (model, &new.upstream) {
        let upstreams = (services.catalog.upstreams)();
        let position = upstreams.iter().position(|entry| entry.name == *upstream);
        if model.targets.iter().all(|target| Some(target.upstream) != position) {
            let message =
                format!("upstream: does not serve {}; name an upstream that does", model.name);
            errors.push(FieldError::new("/upstream", "not_served", message));
        }
    }
    let has_output = model.is_none_or(|model| 0 < model.max_output_tokens);
    let tiers = new.tiers.iter().enumerate();
    let tiers = tiers.map(|(at, (_, prices))| (format!("/tiers/{at}/prices"), prices));
    for (param, prices) in [("/prices".to_owned(), &new.prices)].into_iter().chain(tiers) {
        let is_priced = |unit| prices.price_of(unit).is_some();
        for unit in required_units(is_priced, has_output).iter().filter(|unit| !is_priced(**unit)) {
            let message = format!("{}: required; use 0 if the unit is free", unit.name());
            errors.push(FieldError::new(format!("{param}/{}", unit.name()), "required", message));
        }
    }
    if new.from.is_some_and(|from| from < now) {
        let message = "effectiveFrom: must not be in the past; omit it to start now";
        errors.push(FieldError::new("/effectiveFrom", "in_the_past", message));
    }
    if errors.is_empty() { Ok(()) } else { Err(UseCaseError::Invalid(errors)) }
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
