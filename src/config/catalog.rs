//! Reads `[[models]]`: names, prices and targets.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::config::price_list::{OUTPUT_FIELDS, PriceListEntry, TOKENS_MAX};
use crate::config::pricing::{ModelPricing, PricingConfig};
use crate::config::section::Section;
use crate::config::upstreams::Upstreams;
use crate::domain::catalog::{Model, Target, TargetRank};

#[derive(Debug, Default)]
pub struct Models {
    pub listed: Vec<Model>,
    /// The model that serves all other names: the row with the id `*`.
    pub fallback: Option<Model>,
}

/// The id of the row that serves every unlisted name.
const ANY_NAME: &str = "*";
const NAME_BYTES_MAX: usize = 200;

/// Reads all rows of `[[models]]`. Their targets may reference `upstreams`.
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
                row.error("aliases", "must not be empty or \"*\"");
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

/// Checks a model name and records it as used.
fn check_name(row: &mut Section<'_>, key: &'static str, name: &str, used: &mut Vec<String>) {
    if NAME_BYTES_MAX < name.len() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        row.error(key, "invalid model name; at most 200 bytes without whitespace");
    }
    if !name.is_empty() && used.iter().any(|other| other == name) {
        row.error(key, format!("duplicate model name \"{name}\""));
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
    let model_pricing = pricing.read_model_pricing(row, max_output_tokens != Some(0));
    let configured = read_targets(row, upstreams, pricing, max_output_tokens != Some(0));
    let mut targets = Vec::new();
    let mut listed_entries: Vec<Vec<PriceListEntry>> = Vec::new();
    for target in configured {
        let name = target.upstream_model.as_deref().unwrap_or(id);
        let provider = upstreams.providers[target.upstream].as_deref();
        let candidates = [&target.pricing, &model_pricing];
        let entries = PricingConfig::entries(candidates, pricing.find_listed(provider, name));
        let listed = format!("{}/{name}", provider.unwrap_or("provider"));
        let schedule = pricing.schedule(row, candidates, &entries, &listed);
        let TargetConfig { upstream, upstream_model, rank, .. } = target;
        targets.extend(schedule.map(|schedule| Target {
            upstream,
            upstream_model,
            rank,
            schedule,
        }));
        listed_entries.push(entries);
    }
    let max_output_tokens =
        max_output_tokens.or_else(|| max_over_targets(&listed_entries, |e| e.max_output_tokens));
    if max_output_tokens.is_none() {
        let message = "missing; set the maximum output of the model (0 for embeddings)";
        row.error("max_output_tokens", message);
    }
    let max_input_tokens = row.integer("max_input_tokens", 1..=TOKENS_MAX);
    let mut entries = listed_entries.iter().flatten();
    let hidden_output = entries.clone().any(|entry| entry.hidden_output);
    let field = entries.find_map(|entry| entry.output_field).unwrap_or("max_tokens");
    Some(Model {
        name: Arc::from(id),
        output_field: row.choice("output_field", OUTPUT_FIELDS).unwrap_or(field),
        hidden_output: row.flag("hidden_output", hidden_output),
        aliases: Vec::new(),
        max_output_tokens: max_output_tokens?,
        max_input_tokens: max_input_tokens
            .or_else(|| max_over_targets(&listed_entries, |e| e.max_input_tokens)),
        targets,
    })
}

/// Returns the maximum of a property over all targets, or `None` if it is unknown for a target.
fn max_over_targets(
    targets: &[Vec<PriceListEntry>],
    property: impl Fn(&PriceListEntry) -> Option<u64>,
) -> Option<u64> {
    let max_of = |entries: &Vec<PriceListEntry>| entries.iter().filter_map(&property).max();
    targets.iter().map(max_of).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// A configured target, before its prices are resolved.
struct TargetConfig {
    upstream: usize,
    upstream_model: Option<Arc<str>>,
    pricing: ModelPricing,
    rank: TargetRank,
}

/// Reads the targets of a model: `upstream` for a single one, `targets` for several.
fn read_targets(
    row: &mut Section<'_>,
    upstreams: &Upstreams,
    pricing: &PricingConfig<'_>,
    has_output: bool,
) -> Vec<TargetConfig> {
    let (single, several) = (row.has("upstream"), row.has("targets"));
    if single == several {
        row.error("upstream", "set either `upstream` or `targets`");
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
        let target_pricing = pricing.read_model_pricing(&mut part, has_output);
        let target = read_target(&mut part, "model", upstreams);
        found.extend(target.map(|target| TargetConfig { pricing: target_pricing, rank, ..target }));
        part.finish();
    }
    // The sort is stable: targets of equal priority and weight stay in file order.
    found.sort_by_key(|target| (target.rank.priority, Reverse(target.rank.weight)));
    found
}

fn small_integer(part: &mut Section<'_>, key: &'static str, default: u16) -> u16 {
    part.integer(key, 0..=1_000).and_then(|number| u16::try_from(number).ok()).unwrap_or(default)
}

fn read_target(
    part: &mut Section<'_>,
    model_key: &'static str,
    upstreams: &Upstreams,
) -> Option<TargetConfig> {
    let upstream_model = part.text(model_key).map(Arc::from);
    let name = part.text("upstream")?;
    let upstream = upstreams.names.iter().position(|other| *other == name);
    if upstream.is_none() {
        part.error("upstream", format!("unknown upstream \"{name}\""));
    }
    Some(TargetConfig {
        upstream: upstream?,
        upstream_model,
        pricing: ModelPricing::default(),
        rank: TargetRank::default(),
    })
}
