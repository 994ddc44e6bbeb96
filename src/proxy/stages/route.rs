//! Route: from a model's name to where it is served, and the most that the call can use there.

use std::sync::Arc;

use crate::accounting::directory::Caller;
use crate::dialect::endpoint::{Dialect, Media, Metering};
use crate::dialect::media::usage::max_usage;
use crate::domain::call_pricing::CallPricing;
use crate::domain::catalog::{Model, Target, TargetRank};
use crate::domain::money::Nano;
use crate::domain::settlement::Bound;
use crate::domain::tariff::HoldPricing;
use crate::domain::time::UnixMs;
use crate::domain::usage::{Unit, Usage};
use crate::proxy::catalog::Catalog;
use crate::proxy::refusal::reason::Refusal;
use crate::proxy::stages::receive::ReceivedCall;
use crate::proxy::upstream::provider_endpoint::Upstream;

/// Where a call goes.
#[derive(Debug)]
pub struct Route {
    /// The model.
    pub model: Arc<Model>,
    /// Where it is served, first choice first.
    pub targets: Vec<RouteTarget>,
    /// The most the call can use, wherever it is served.
    pub bound: Bound,
    /// Whether part of what it generates does not show in its answer.
    hides_output: bool,
}

impl Route {
    /// What the call may cost, wherever it is served.
    pub fn hold_pricing(&self, call: &ReceivedCall) -> HoldPricing {
        let tariffs = self.targets.iter().flat_map(|target| target.pricing.tariffs());
        HoldPricing::new(tariffs.cloned().collect(), call.facts.service_tier)
    }

    /// What images or audio are charged where their answer does not tell what they used: all that
    /// they are bound by, and the pieces that have a price.
    pub fn max_usage(&self, call: &ReceivedCall, bound: Bound) -> Option<Usage> {
        let media = call.endpoint.media()?;
        let is_chargeable = |unit| Unit::MEDIA.contains(&unit) && is_priced(&self.targets, unit);
        let item_units = call.facts.item_units_max.filter(is_chargeable);
        let bound = if is_billed_per_item(&self.targets) { Bound::default() } else { bound };
        Some(max_usage(media, bound, call.facts.external_refs.media_tokens.is_some(), item_units))
    }

    /// Whether what a call uses here cannot be told from what comes of its answer: part is hidden,
    /// or an upstream goes on when nobody listens any more.
    pub fn usage_is_hidden(&self) -> bool {
        let bills_on = |target: &RouteTarget| target.upstream.settings.bills_after_disconnect;
        self.hides_output || self.targets.iter().any(bills_on)
    }
}

/// One place where a model is served.
#[derive(Debug)]
pub struct RouteTarget {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The model's name there, if it is another.
    pub upstream_model: Option<Arc<str>>,
    /// When it is chosen.
    pub rank: TargetRank,
    /// What it costs there.
    pub pricing: CallPricing,
}

impl RouteTarget {
    /// What the model is called there, which is `public` unless it has another name.
    pub fn model_name<'a>(&'a self, public_name: &'a str) -> &'a str {
        self.upstream_model.as_deref().unwrap_or(public_name)
    }
}

/// What a context window is taken to be where the catalog does not say.
const CONTEXT_WINDOW_TOKENS_DEFAULT: u64 = 1_000_000;

/// Finds the model, if this caller may use it and some upstream serves it in the call's dialect.
///
/// A call that refers to state kept at a provider goes to the upstream that gave the project its
/// id. If none did, it goes to dedicated upstreams only: elsewhere the state may be another
/// tenant's.
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
    let to_route_target = |(target, upstream): (&Target, &Arc<Upstream>)| {
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
    let mut targets: Vec<RouteTarget> =
        catalog.targets(&model, dialect).map(to_route_target).collect();
    if targets.is_empty() {
        return Err(unknown_model(name));
    }
    if !may_use(caller, &model, name) {
        return Err(Refusal::Forbidden("this key may not use this model"));
    }
    let mut hides_output = model.hidden_output || call.facts.hides_output;
    for other in &call.facts.external_refs.other_models {
        hides_output |= add_secondary_model(catalog, caller, &mut targets, (dialect, now), other)?;
    }
    if let Some(state) = &call.facts.external_refs.state {
        let state_upstream =
            state.id.as_deref().and_then(|id| caller.project.state_upstream(id, now));
        targets.retain(|target| match &state_upstream {
            Some(upstream_name) => target.upstream.name() == upstream_name,
            None => target.upstream.settings.dedicated,
        });
        if targets.is_empty() {
            return Err(foreign_state(state.field));
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

/// Another model may work on the call: it must be served by the same upstreams under this very name,
/// and allowed as well. What it does is priced by its own tariff, and held at the dearer of both.
/// Says whether the other one hides what it generates.
fn add_secondary_model(
    catalog: &Catalog,
    caller: &Caller,
    targets: &mut [RouteTarget],
    (dialect, now): (Dialect, UnixMs),
    name: &str,
) -> Result<bool, Refusal> {
    let other = catalog.model(name).ok_or_else(|| unknown_model(name))?;
    if !may_use(caller, &other, name) {
        return Err(Refusal::Forbidden("this key may not use a model that the call names"));
    }
    for route_target in targets {
        let has_name = |(target, upstream): &(&Target, &Arc<Upstream>)| {
            let upstream_model = target.upstream_model.as_deref().unwrap_or(&other.name);
            Arc::ptr_eq(upstream, &route_target.upstream) && upstream_model == name
        };
        let found = catalog.targets(&other, dialect).find(has_name);
        let (target, _) = found.ok_or_else(|| unknown_model(name))?;
        route_target.pricing.add_model(name.into(), Arc::clone(target.schedule.effective_at(now)));
    }
    Ok(other.hidden_output)
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
        Some(unit) => Err(Refusal::Malformed {
            param: Some("model"),
            message: format!(
                "this model has no price for {}, which the call asks for; leave that out, or name \
                 another model",
                unit.name()
            ),
        }),
    }
}

fn foreign_state(field: &'static str) -> Refusal {
    let message = format!(
        "`{field}` refers to state kept at the provider, under a credential that others share; \
         send the content itself"
    );
    Refusal::Malformed { param: Some(field), message }
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
