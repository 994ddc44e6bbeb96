//! `[[models]]`: which names callers may use, what they cost, and where they are served.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::config::price_list::{Entry, OUTPUT_FIELDS, TOKENS_MAX};
use crate::config::pricing::{Pricing, Told};
use crate::config::section::Section;
use crate::config::upstreams::Upstreams;
use crate::domain::catalog::{Model, Rank, Target};

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
pub fn models(root: &mut Section<'_>, upstreams: &Upstreams, pricing: &Pricing<'_>) -> Models {
    let mut found = Models::default();
    let mut ids: Vec<String> = Vec::new();
    for mut row in root.rows("models") {
        let id = row.required("id").unwrap_or_default();
        named(&mut row, "id", &id, &mut ids);
        let aliases = row.texts("aliases").unwrap_or_default();
        for alias in &aliases {
            if alias == ANY_NAME || alias.is_empty() {
                row.fault("aliases", "hold what is no name; list whole names");
            }
            named(&mut row, "aliases", alias, &mut ids);
        }
        let model = model(&mut row, &id, upstreams, pricing);
        let aliases = aliases.into_iter().map(Arc::from).collect();
        let model = model.map(|model| Model { aliases, ..model });
        if id == ANY_NAME {
            found.fallback = model;
        } else {
            found.listed.extend(model);
        }
        row.end();
    }
    found
}

/// Takes a name for a model, which no other may have.
fn named(row: &mut Section<'_>, key: &'static str, name: &str, taken: &mut Vec<String>) {
    if NAME_BYTES_MAX < name.len() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        row.fault(key, "is no name of a model: too long, or with blanks in it; correct it");
    }
    if !name.is_empty() && taken.iter().any(|taken| taken == name) {
        row.fault(key, format!("\"{name}\" is listed twice; remove one"));
    }
    taken.push(name.to_owned());
}

fn model(
    row: &mut Section<'_>,
    id: &str,
    upstreams: &Upstreams,
    pricing: &Pricing<'_>,
) -> Option<Model> {
    let max_output_tokens = row.whole("max_output_tokens", 0..=TOKENS_MAX);
    let told = pricing.told(row, max_output_tokens != Some(0));
    let places = places(row, upstreams, pricing, max_output_tokens != Some(0));
    let mut targets = Vec::new();
    let mut known: Vec<Vec<Entry>> = Vec::new();
    for place in places {
        let name = place.upstream_model.as_deref().unwrap_or(id);
        let provider = upstreams.providers[place.upstream].as_deref();
        let told = [&place.told, &told];
        let entries = Pricing::entries(told, pricing.listed(provider, name));
        let listed = format!("{}/{name}", provider.unwrap_or("provider"));
        let schedule = pricing.schedule(row, told, &entries, &listed);
        let Place { upstream, upstream_model, rank, .. } = place;
        targets.extend(schedule.map(|schedule| Target {
            upstream,
            upstream_model,
            rank,
            schedule,
        }));
        known.push(entries);
    }
    let max_output_tokens = max_output_tokens.or_else(|| most(&known, |e| e.max_output_tokens));
    if max_output_tokens.is_none() {
        let message = "is missing; write the most it can answer (0 for embeddings): holds need it";
        row.fault("max_output_tokens", message);
    }
    let max_input_tokens = row.whole("max_input_tokens", 1..=TOKENS_MAX);
    let mut entries = known.iter().flatten();
    let hides = entries.clone().any(|entry| entry.hidden_output);
    let field = entries.find_map(|entry| entry.output_field).unwrap_or("max_tokens");
    Some(Model {
        name: Arc::from(id),
        output_field: row.choice("output_field", OUTPUT_FIELDS).unwrap_or(field),
        hidden_output: row.flag("hidden_output", hides),
        aliases: Vec::new(),
        max_output_tokens: max_output_tokens?,
        max_input_tokens: max_input_tokens.or_else(|| most(&known, |e| e.max_input_tokens)),
        targets,
    })
}

/// The most of what the list says of each place; nothing where it does not know one of them.
fn most(known: &[Vec<Entry>], of: impl Fn(&Entry) -> Option<u64>) -> Option<u64> {
    let of_place = |entries: &Vec<Entry>| entries.iter().filter_map(&of).max();
    known.iter().map(of_place).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// Where a model is served, and what the file says of its prices there.
struct Place {
    upstream: usize,
    upstream_model: Option<Arc<str>>,
    told: Told,
    rank: Rank,
}

/// Where a model is served: `upstream` for one place, `targets` for several.
fn places(
    row: &mut Section<'_>,
    upstreams: &Upstreams,
    pricing: &Pricing<'_>,
    answers: bool,
) -> Vec<Place> {
    let (one, several) = (row.has("upstream"), row.has("targets"));
    if one == several {
        row.fault("upstream", "or targets: one of the two says where it is served");
    }
    if !several {
        return place(row, "upstream_model", upstreams).into_iter().collect();
    }
    let mut found = Vec::new();
    for mut part in row.rows("targets") {
        let rank = Rank {
            priority: small(&mut part, "priority", 0),
            weight: small(&mut part, "weight", 1),
        };
        let told = pricing.told(&mut part, answers);
        let place = place(&mut part, "model", upstreams);
        found.extend(place.map(|place| Place { told, rank, ..place }));
        part.end();
    }
    // Stable: of one priority and weight, the order of the file.
    found.sort_by_key(|place| (place.rank.priority, Reverse(place.rank.weight)));
    found
}

fn small(part: &mut Section<'_>, key: &'static str, usual: u16) -> u16 {
    part.whole(key, 0..=1_000).and_then(|number| u16::try_from(number).ok()).unwrap_or(usual)
}

fn place(part: &mut Section<'_>, model_key: &'static str, upstreams: &Upstreams) -> Option<Place> {
    let upstream_model = part.text(model_key).map(Arc::from);
    let name = part.text("upstream")?;
    let upstream = upstreams.names.iter().position(|known| *known == name);
    if upstream.is_none() {
        part.fault("upstream", format!("there is no upstream \"{name}\"; add it or correct this"));
    }
    Some(Place {
        upstream: upstream?,
        upstream_model,
        told: Told::default(),
        rank: Rank::default(),
    })
}
