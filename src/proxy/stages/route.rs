//! Resolves the model of a call to the targets that serve it, and bounds the usage of the call.

use std::sync::Arc;

use crate::accounting::key_directory::Caller;
use crate::dialect::endpoint::{Dialect, Metering};
use crate::dialect::media::kind::Media;
use crate::dialect::media::usage::max_usage;
use crate::domain::call_pricing::CallPricing;
use crate::domain::catalog::{Model, Target};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::tariff::HoldPricing;
use crate::domain::time::UnixMs;
use crate::domain::usage::{Unit, Usage};
use crate::proxy::catalog::Catalog;
use crate::proxy::refusal::error_spec::{ForbiddenReason, InvalidRequest, Refusal};
use crate::proxy::stages::receive::ReceivedCall;
use crate::proxy::upstreams::route_target::RouteTarget;
use crate::proxy::upstreams::upstream::Upstream;

/// The targets of a call and the maximum it can use.
#[derive(Debug)]
pub struct Route {
    pub model: Arc<Model>,
    /// In order of preference; never empty.
    pub targets: Vec<RouteTarget>,
    /// Maximum usage at any target.
    pub bound: Bound,
    /// Whether the response omits a part of the generated output.
    hides_output: bool,
}

impl Route {
    /// Returns the prices of all targets, for the hold.
    pub fn hold_pricing(&self, call: &ReceivedCall) -> HoldPricing {
        let tariffs = self.targets.iter().flat_map(|target| target.pricing.tariffs());
        HoldPricing::new(tariffs.cloned().collect(), call.facts.service_tier)
    }

    /// Returns what a call for images or audio is charged if its response reports no usage: its token
    /// bound, and the units that have a price per item.
    pub fn max_media_usage(&self, call: &ReceivedCall, bound: Bound) -> Option<Usage> {
        let media = call.endpoint.media()?;
        let is_chargeable = |unit| Unit::MEDIA.contains(&unit) && is_priced(&self.targets, unit);
        let item_units = call.facts.item_units_max.filter(is_chargeable);
        let bound = if is_billed_per_item(&self.targets) { Bound::default() } else { bound };
        Some(max_usage(media, bound, call.facts.external_refs.media_tokens.is_some(), item_units))
    }

    /// True if the usage cannot be derived from a partial response, because output is hidden or an
    /// upstream bills the whole response after a disconnect.
    pub fn usage_is_hidden(&self) -> bool {
        let bills_on = |target: &RouteTarget| target.upstream.settings.bills_after_disconnect;
        self.hides_output || self.targets.iter().any(bills_on)
    }
}

/// Assumed context window of models without `max_input_tokens`.
const CONTEXT_WINDOW_TOKENS_DEFAULT: u64 = 1_000_000;

/// Finds the model and its targets, if the caller may use it and an upstream serves it in the dialect
/// of the call.
///
/// A call that refers to state at a provider goes to the upstream that issued the id to the project. If
/// none did, only dedicated upstreams are allowed, because elsewhere the state may belong to another
/// tenant.
pub fn route(
    catalog: &Catalog,
    caller: &Caller,
    call: &ReceivedCall,
    now: UnixMs,
) -> Result<Route, Refusal> {
    let name = &call.facts.model;
    let model = catalog.model(name).ok_or_else(|| unknown_model(name))?;
    // Nobody but us knows an alias.
    let canonical_name = (**name != *model.name).then(|| Arc::clone(&model.name));
    let to_route_target = |target: &Target, upstream: &Arc<Upstream>| {
        let renamed = target.upstream_model.clone().or_else(|| canonical_name.clone());
        let upstream_model = Arc::clone(renamed.as_ref().unwrap_or(&model.name));
        RouteTarget {
            upstream: Arc::clone(upstream),
            upstream_model: renamed,
            rank: target.rank,
            pricing: CallPricing::new(
                upstream_model,
                Arc::clone(target.schedule.effective_at(now)),
            ),
        }
    };
    let dialect = call.endpoint.dialect();
    let mut targets: Vec<RouteTarget> = catalog
        .targets(&model, dialect)
        .map(|(target, upstream)| to_route_target(target, upstream))
        .collect();
    if targets.is_empty() {
        return Err(unknown_model(name));
    }
    if !may_use(caller, &model, name) {
        return Err(Refusal::Forbidden(ForbiddenReason::Model));
    }
    let mut hides_output = model.hidden_output || call.facts.hides_output;
    let secondary = SecondaryModels { catalog, caller, dialect, now };
    for other in &call.facts.external_refs.other_models {
        hides_output |= secondary.add(&mut targets, other)?;
    }
    if let Some(state) = &call.facts.external_refs.state {
        let state_upstream =
            state.id.as_deref().and_then(|id| caller.project.state_upstream(id, now));
        targets.retain(|target| match &state_upstream {
            Some(upstream_name) => target.upstream.name() == upstream_name,
            None => target.upstream.settings.dedicated,
        });
        if targets.is_empty() {
            return Err(Refusal::Invalid(InvalidRequest::ForeignState(state.field)));
        }
    }
    require_prices(&mut targets, call)?;
    let bound = token_bound(&model, &targets, call);
    Ok(Route { model, targets, bound, hides_output })
}

/// An alias is one more name of the same model: it may be used by either.
fn may_use(caller: &Caller, model: &Model, requested: &str) -> bool {
    caller.may_use_model(requested) || caller.may_use_model(&model.name)
}

fn unknown_model(name: &str) -> Refusal {
    Refusal::UnknownModel(name.chars().take(128).collect())
}

/// Adds the other models that a call may use besides its own.
struct SecondaryModels<'a> {
    catalog: &'a Catalog,
    caller: &'a Caller,
    dialect: Dialect,
    now: UnixMs,
}

impl SecondaryModels<'_> {
    /// Adds the prices of a secondary model to every target. The model must be allowed, and served
    /// under this very name by the upstream of each target. Its usage is charged by its own prices
    /// and held at the higher of both. Returns whether the model hides output.
    fn add(&self, targets: &mut [RouteTarget], name: &str) -> Result<bool, Refusal> {
        let other = self.catalog.model(name).ok_or_else(|| unknown_model(name))?;
        if !may_use(self.caller, &other, name) {
            return Err(Refusal::Forbidden(ForbiddenReason::SecondaryModel));
        }
        for route_target in targets {
            let found = self.catalog.targets(&other, self.dialect).find(|(target, upstream)| {
                let upstream_model = target.upstream_model.as_deref().unwrap_or(&other.name);
                Arc::ptr_eq(upstream, &route_target.upstream) && upstream_model == name
            });
            let (target, _) = found.ok_or_else(|| unknown_model(name))?;
            let prices = Arc::clone(target.schedule.effective_at(self.now));
            route_target.pricing.add_model(name.into(), prices);
        }
        Ok(other.hidden_output)
    }
}

/// Leaves out the places that have no price for what the call asks for: nothing is free unseen.
/// Images and audio are paid by the piece or by the token. No list of prices knows what it costs to
/// search stored files or to run code: where they have none, that is told when it was done.
fn require_prices(targets: &mut Vec<RouteTarget>, call: &ReceivedCall) -> Result<(), Refusal> {
    let is_media = call.endpoint.media().is_some();
    let requested = call
        .facts
        .item_units_max
        .filter(|unit| !matches!(unit, Unit::FileSearches | Unit::CodeSessions));
    let first_unpriced_at = |target: &RouteTarget| {
        let by_token = is_media && prices_output(target);
        let unpriced =
            target.pricing.tariffs().find_map(|tariff| tariff.first_unpriced(&requested));
        unpriced.filter(|_| !by_token)
    };
    let unpriced = targets.first().and_then(first_unpriced_at);
    targets.retain(|target| first_unpriced_at(target).is_none());
    match unpriced.filter(|_| targets.is_empty()) {
        None => Ok(()),
        Some(unit) => Err(Refusal::Invalid(InvalidRequest::Unpriced(unit))),
    }
}

/// Input: no more tokens than bytes, for text in the body, and what these do not show. Output: the
/// client's own bound, else the model's, for each choice. A call that only counts uses nothing.
///
/// One that is priced by the piece uses no tokens. It holds one, so that no limit on tokens that is
/// spent lets it through.
fn token_bound(model: &Model, targets: &[RouteTarget], call: &ReceivedCall) -> Bound {
    let media = call.endpoint.media();
    if call.endpoint.metering() == Metering::Request {
        return Bound::default();
    }
    if media.is_some() && is_billed_per_item(targets) {
        return Bound { input_tokens: 1, output_tokens: 0 };
    }
    let external_refs = &call.facts.external_refs;
    let byte_bound = || (call.body.len() as u64).saturating_add(external_refs.unseen_tokens);
    let input = external_refs.media_tokens.unwrap_or_else(byte_bound);
    let window = model.max_input_tokens.unwrap_or(CONTEXT_WINDOW_TOKENS_DEFAULT);
    let output = match call.facts.output_tokens_max {
        // Nothing is spoken beyond what the model can say, where that is known.
        Some(requested) if media == Some(Media::Speech) && 0 < model.max_output_tokens => {
            requested.min(model.max_output_tokens)
        }
        requested => requested.unwrap_or(model.max_output_tokens),
    };
    Bound {
        input_tokens: if external_refs.has_external_content { input.max(window) } else { input },
        output_tokens: output.saturating_mul(call.facts.choices).min(Usage::COUNT_MAX),
    }
}

/// Whether a unit has a price of its own at one of those places.
fn is_priced(targets: &[RouteTarget], unit: Unit) -> bool {
    let rows = targets.iter().flat_map(|target| target.pricing.primary().rows());
    rows.into_iter().any(|row| row.prices.price_of(unit).is_some_and(|price| Nano::ZERO < price))
}

/// Whether pieces have a price at those places, and tokens have none.
fn is_billed_per_item(targets: &[RouteTarget]) -> bool {
    Unit::MEDIA.iter().any(|unit| is_priced(targets, *unit)) && !targets.iter().any(has_token_price)
}

/// Whether tokens cost something there.
fn has_token_price(target: &RouteTarget) -> bool {
    target
        .pricing
        .primary()
        .rows()
        .iter()
        .any(|row| Nano::ZERO < row.prices.max_rates().max_cost(1, 1))
}

/// Whether the prices there say what the output costs, if only that it is free.
fn prices_output(target: &RouteTarget) -> bool {
    target
        .pricing
        .primary()
        .rows()
        .iter()
        .all(|row| row.prices.price_of(Unit::OutputTokens).is_some())
}
