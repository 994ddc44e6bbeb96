//! `[[models]]`: which names callers may use, what they cost, and where they are served.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::config::price_list::{OUTPUT_FIELDS, PriceListEntry, TOKENS_MAX};
use crate::config::pricing::{ModelPricing, PricingConfig};
use crate::config::section::Section;
use crate::config::upstreams::Upstreams;
use crate::domain::catalog::{Model, Target, TargetRank};

/// The models of a file.
#[derive(Debug, Default)]
pub struct Models {
    /// Those with a name.
    pub listed: Vec<Model>,
    /// Serves every other name: the row whose id is `*`.
    pub fallback: Option<Model>,
}

/// The id of the row that serves every name that is not listed.
const ANY_NAME: &str = "*";
const NAME_BYTES_MAX: usize = 200;

/// Reads all rows; `upstreams` are those that a target may name.
pub fn read_models(
    root: &mut Section<'_>,
    upstreams: &Upstreams,
    pricing: &PricingConfig<'_>,
) -> Models {
    let mut found = Models::default();
    let mut ids: Vec<String> = Vec::new();
    for mut row in root.rows("models") {
        let id = row.required_text("id").unwrap_or_default();
        check_name(&mut row, "id", &id, &mut ids);
        let aliases = row.texts("aliases").unwrap_or_default();
        for alias in &aliases {
            if alias == ANY_NAME || alias.is_empty() {
                row.error("aliases", "hold what is no name; list whole names");
            }
            check_name(&mut row, "aliases", alias, &mut ids);
        }
        let model = read_model(&mut row, &id, upstreams, pricing);
        let aliases = aliases.into_iter().map(Arc::from).collect();
        let model = model.map(|model| Model { aliases, ..model });
        if id == ANY_NAME {
            found.fallback = model;
        } else {
            found.listed.extend(model);
        }
        row.finish();
    }
    found
}

/// Takes a name for a model, which no other may have.
fn check_name(row: &mut Section<'_>, key: &'static str, name: &str, used: &mut Vec<String>) {
    if NAME_BYTES_MAX < name.len() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        row.error(key, "is no name of a model: too long, or with blanks in it; correct it");
    }
    if !name.is_empty() && used.iter().any(|taken| taken == name) {
        row.error(key, format!("\"{name}\" is listed twice; remove one"));
    }
    used.push(name.to_owned());
}

fn read_model(
    row: &mut Section<'_>,
    id: &str,
    upstreams: &Upstreams,
    pricing: &PricingConfig<'_>,
) -> Option<Model> {
    let max_output_tokens = row.integer("max_output_tokens", 0..=TOKENS_MAX);
    let told = pricing.read_model_pricing(row, max_output_tokens != Some(0));
    let places = read_targets(row, upstreams, pricing, max_output_tokens != Some(0));
    let mut targets = Vec::new();
    let mut known: Vec<Vec<PriceListEntry>> = Vec::new();
    for place in places {
        let name = place.upstream_model.as_deref().unwrap_or(id);
        let provider = upstreams.providers[place.upstream].as_deref();
        let told = [&place.pricing, &told];
        let entries = PricingConfig::entries(told, pricing.find_listed(provider, name));
        let listed = format!("{}/{name}", provider.unwrap_or("provider"));
        let schedule = pricing.schedule(row, told, &entries, &listed);
        let TargetConfig { upstream, upstream_model, rank, .. } = place;
        targets.extend(schedule.map(|schedule| Target {
            upstream,
            upstream_model,
            rank,
            schedule,
        }));
        known.push(entries);
    }
    let max_output_tokens =
        max_output_tokens.or_else(|| max_over_targets(&known, |e| e.max_output_tokens));
    if max_output_tokens.is_none() {
        let message = "is missing; write the most it can answer (0 for embeddings): holds need it";
        row.error("max_output_tokens", message);
    }
    let max_input_tokens = row.integer("max_input_tokens", 1..=TOKENS_MAX);
    let mut entries = known.iter().flatten();
    let hides = entries.clone().any(|entry| entry.hidden_output);
    let field = entries.find_map(|entry| entry.output_field).unwrap_or("max_tokens");
    Some(Model {
        name: Arc::from(id),
        output_field: row.choice("output_field", OUTPUT_FIELDS).unwrap_or(field),
        hidden_output: row.flag("hidden_output", hides),
        aliases: Vec::new(),
        max_output_tokens: max_output_tokens?,
        max_input_tokens: max_input_tokens
            .or_else(|| max_over_targets(&known, |e| e.max_input_tokens)),
        targets,
    })
}

/// The most of what the list says of each place; nothing where it does not know one of them.
fn max_over_targets(
    known: &[Vec<PriceListEntry>],
    of: impl Fn(&PriceListEntry) -> Option<u64>,
) -> Option<u64> {
    let of_place = |entries: &Vec<PriceListEntry>| entries.iter().filter_map(&of).max();
    known.iter().map(of_place).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// Where a model is served, and what the file says of its prices there.
struct TargetConfig {
    upstream: usize,
    upstream_model: Option<Arc<str>>,
    pricing: ModelPricing,
    rank: TargetRank,
}

/// Where a model is served: `upstream` for one place, `targets` for several.
fn read_targets(
    row: &mut Section<'_>,
    upstreams: &Upstreams,
    pricing: &PricingConfig<'_>,
    has_output: bool,
) -> Vec<TargetConfig> {
    let (one, several) = (row.has("upstream"), row.has("targets"));
    if one == several {
        row.error("upstream", "or targets: one of the two says where it is served");
    }
    if !several {
        return read_target(row, "upstream_model", upstreams).into_iter().collect();
    }
    let mut found = Vec::new();
    for mut part in row.rows("targets") {
        let rank = TargetRank {
            priority: small_integer(&mut part, "priority", 0),
            weight: small_integer(&mut part, "weight", 1),
        };
        let told = pricing.read_model_pricing(&mut part, has_output);
        let place = read_target(&mut part, "model", upstreams);
        found.extend(place.map(|place| TargetConfig { pricing: told, rank, ..place }));
        part.finish();
    }
    // Stable: of one priority and weight, the order of the file.
    found.sort_by_key(|place| (place.rank.priority, Reverse(place.rank.weight)));
    found
}

fn small_integer(part: &mut Section<'_>, key: &'static str, usual: u16) -> u16 {
    part.integer(key, 0..=1_000).and_then(|number| u16::try_from(number).ok()).unwrap_or(usual)
}

fn read_target(
    part: &mut Section<'_>,
    model_key: &'static str,
    upstreams: &Upstreams,
) -> Option<TargetConfig> {
    let upstream_model = part.text(model_key).map(Arc::from);
    let name = part.text("upstream")?;
    let upstream = upstreams.names.iter().position(|known| *known == name);
    if upstream.is_none() {
        part.error("upstream", format!("there is no upstream \"{name}\"; add it or correct this"));
    }
    Some(TargetConfig {
        upstream: upstream?,
        upstream_model,
        pricing: ModelPricing::default(),
        rank: TargetRank::default(),
    })
}
