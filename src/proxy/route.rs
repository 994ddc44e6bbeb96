//! Route: from a model's name to where it is served, and the most that the call can use there.

use std::sync::Arc;

use crate::accounting::directory::Caller;
use crate::dialect::endpoint::{Dialect, Media, Metering};
use crate::dialect::media::usage::most;
use crate::domain::catalog::{Model, Rank, Target};
use crate::domain::money::Nano;
use crate::domain::pieces::Pieces;
use crate::domain::settlement::Bound;
use crate::domain::tariff::Costs;
use crate::domain::tariffs::Tariffs;
use crate::domain::time::UnixMs;
use crate::domain::usage::{Unit, Usage};
use crate::proxy::catalog::Catalog;
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::upstream::Upstream;

/// Where a call goes.
#[derive(Debug)]
pub struct Route {
    /// The model.
    pub model: Arc<Model>,
    /// Where it is served, first choice first.
    pub stops: Vec<Stop>,
    /// The most the call can use, wherever it is served.
    pub bound: Bound,
    /// Whether part of what it generates does not show in its answer.
    hides_output: bool,
}

impl Route {
    /// What the call may cost, wherever it is served.
    pub fn costs(&self, call: &Call) -> Costs {
        let tariffs = self.stops.iter().flat_map(|stop| stop.tariffs.all());
        Costs::new(tariffs.cloned().collect(), call.request.service_tier)
    }

    /// What images or audio are charged where their answer does not tell what they used: all that
    /// they are bound by, and the pieces that have a price.
    pub fn most(&self, call: &Call, bound: Bound) -> Option<Usage> {
        let media = call.endpoint.media()?;
        let priced = |unit, count| if is_priced(&self.stops, unit) { count } else { 0 };
        let pieces = Pieces {
            images: priced(Unit::Images, call.request.pieces.images),
            audio_seconds: priced(Unit::AudioSeconds, call.request.pieces.audio_seconds),
            characters: priced(Unit::Characters, call.request.pieces.characters),
            ..Pieces::default()
        };
        let bound = if is_by_the_piece(&self.stops) { Bound::default() } else { bound };
        Some(most(media, bound, call.request.outside.media_tokens.is_some(), pieces))
    }

    /// Whether what a call uses here cannot be told from what comes of its answer: part is hidden,
    /// or an upstream goes on when nobody listens any more.
    pub fn hides_usage(&self) -> bool {
        let bills_on = |stop: &Stop| stop.upstream.settings.bills_on;
        self.hides_output || self.stops.iter().any(bills_on)
    }
}

/// One place where a model is served.
#[derive(Debug)]
pub struct Stop {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The model's name there, if it is another.
    pub model: Option<Arc<str>>,
    /// When it is chosen.
    pub rank: Rank,
    /// What it costs there.
    pub tariffs: Tariffs,
}

impl Stop {
    /// What the model is called there, which is `public` unless it has another name.
    pub fn name<'a>(&'a self, public: &'a str) -> &'a str {
        self.model.as_deref().unwrap_or(public)
    }
}

/// What a context window is taken to be where the catalog does not say.
const WINDOW_TOKENS_DEFAULT: u64 = 1_000_000;

/// Finds the model, if this caller may use it and some upstream serves it in the call's dialect.
///
/// A call that refers to state kept at a provider goes to the upstream that gave the project its
/// id. If none did, it goes to dedicated upstreams only: elsewhere the state may be another
/// tenant's.
pub fn route(
    catalog: &Catalog,
    caller: &Caller,
    call: &Call,
    now: UnixMs,
) -> Result<Route, Refusal> {
    let name = &call.request.model;
    let model = catalog.model(name).ok_or_else(|| unknown(name))?;
    // Nobody but us knows an alias.
    let known = (**name != *model.name).then(|| Arc::clone(&model.name));
    let stop = |(target, upstream): (&Target, &Arc<Upstream>)| {
        let renamed = target.upstream_model.clone().or_else(|| known.clone());
        let there = Arc::clone(renamed.as_ref().unwrap_or(&model.name));
        Stop {
            upstream: Arc::clone(upstream),
            model: renamed,
            rank: target.rank,
            tariffs: Tariffs::of(there, Arc::clone(target.schedule.at(now))),
        }
    };
    let dialect = call.endpoint.dialect();
    let mut stops: Vec<Stop> = catalog.targets(&model, dialect).map(stop).collect();
    if stops.is_empty() {
        return Err(unknown(name));
    }
    if !may_use(caller, &model, name) {
        return Err(Refusal::Forbidden("this key may not use this model"));
    }
    let mut hides_output = model.hidden_output || call.request.hides_output;
    for other in &call.request.outside.other_models {
        hides_output |= beside(catalog, caller, &mut stops, (dialect, now), other)?;
    }
    if let Some(state) = &call.request.outside.state {
        let keeper = state.id.as_deref().and_then(|id| caller.project.keeper(id, now));
        stops.retain(|stop| match &keeper {
            Some(keeper) => stop.upstream.name() == keeper,
            None => stop.upstream.settings.dedicated,
        });
        if stops.is_empty() {
            return Err(kept_elsewhere(state.field));
        }
    }
    priced(&mut stops, call)?;
    let bound = bound(&model, &stops, call);
    Ok(Route { model, stops, bound, hides_output })
}

/// An alias is one more name of the same model: it may be used by either.
fn may_use(caller: &Caller, model: &Model, asked: &str) -> bool {
    caller.may_use_model(asked) || caller.may_use_model(&model.name)
}

fn unknown(name: &str) -> Refusal {
    Refusal::UnknownModel(name.chars().take(128).collect())
}

/// Another model may work on the call: it must be served by the same upstreams under this very name,
/// and allowed as well. What it does is priced by its own tariff, and held at the dearer of both.
/// Says whether the other one hides what it generates.
fn beside(
    catalog: &Catalog,
    caller: &Caller,
    stops: &mut [Stop],
    (dialect, now): (Dialect, UnixMs),
    name: &str,
) -> Result<bool, Refusal> {
    let other = catalog.model(name).ok_or_else(|| unknown(name))?;
    if !may_use(caller, &other, name) {
        return Err(Refusal::Forbidden("this key may not use a model that the call names"));
    }
    for stop in stops {
        let so_named = |(target, upstream): &(&Target, &Arc<Upstream>)| {
            let there = target.upstream_model.as_deref().unwrap_or(&other.name);
            Arc::ptr_eq(upstream, &stop.upstream) && there == name
        };
        let found = catalog.targets(&other, dialect).find(so_named);
        let (target, _) = found.ok_or_else(|| unknown(name))?;
        stop.tariffs.add(name.into(), Arc::clone(target.schedule.at(now)));
    }
    Ok(other.hidden_output)
}

/// Leaves out the places that have no price for what the call asks for: nothing is free unseen.
/// Images and audio are paid by the piece or by the token. No list of prices knows what it costs to
/// search stored files or to run code: where they have none, that is told when it was done.
fn priced(stops: &mut Vec<Stop>, call: &Call) -> Result<(), Refusal> {
    let is_media = call.endpoint.media().is_some();
    let asked = Pieces { file_searches: 0, code_sessions: 0, ..call.request.pieces };
    let lacks = |stop: &Stop| {
        let by_token = is_media && prices_output(stop);
        let lacking = stop.tariffs.all().find_map(|tariff| tariff.lacking(&asked));
        lacking.filter(|_| !by_token)
    };
    let lacking = stops.first().and_then(lacks);
    stops.retain(|stop| lacks(stop).is_none());
    match lacking.filter(|_| stops.is_empty()) {
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

fn kept_elsewhere(field: &'static str) -> Refusal {
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
fn bound(model: &Model, stops: &[Stop], call: &Call) -> Bound {
    let media = call.endpoint.media();
    if call.endpoint.metering() == Metering::Request {
        return Bound::default();
    }
    if media.is_some() && is_by_the_piece(stops) {
        return Bound { input_tokens: 1, output_tokens: 0 };
    }
    let outside = &call.request.outside;
    let of_bytes = || (call.body.len() as u64).saturating_add(outside.hidden_tokens);
    let here = outside.media_tokens.unwrap_or_else(of_bytes);
    let window = model.max_input_tokens.unwrap_or(WINDOW_TOKENS_DEFAULT);
    let output = match call.request.output_tokens_max {
        // Nothing is spoken beyond what the model can say, where that is known.
        Some(own) if media == Some(Media::Speech) && 0 < model.max_output_tokens => {
            own.min(model.max_output_tokens)
        }
        own => own.unwrap_or(model.max_output_tokens),
    };
    Bound {
        input_tokens: if outside.refers { here.max(window) } else { here },
        output_tokens: output.saturating_mul(call.request.choices).min(Usage::COUNT_MAX),
    }
}

/// Whether a unit has a price of its own at one of those places.
fn is_priced(stops: &[Stop], unit: Unit) -> bool {
    let rows = stops.iter().flat_map(|stop| stop.tariffs.own().rows());
    rows.into_iter().any(|row| row.prices.given(unit).is_some_and(|price| Nano::ZERO < price))
}

/// Whether pieces have a price at those places, and tokens have none.
fn is_by_the_piece(stops: &[Stop]) -> bool {
    let pieces = [Unit::Images, Unit::AudioSeconds, Unit::Characters];
    pieces.into_iter().any(|unit| is_priced(stops, unit)) && !stops.iter().any(has_token_price)
}

/// Whether tokens cost something there.
fn has_token_price(stop: &Stop) -> bool {
    stop.tariffs.own().rows().iter().any(|row| Nano::ZERO < row.prices.dearest().ceiling(1, 1))
}

/// Whether the prices there say what the output costs, if only that it is free.
fn prices_output(stop: &Stop) -> bool {
    stop.tariffs.own().rows().iter().all(|row| row.prices.given(Unit::OutputTokens).is_some())
}
