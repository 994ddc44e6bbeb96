//! `[[models]]`: which names callers may use, what they cost, and where they are served.

use std::sync::Arc;

use crate::config::prices::{prices, version};
use crate::config::section::Section;
use crate::domain::catalog::{Model, Target};
use crate::domain::tariff::{Schedule, Tariff};

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
const OUTPUT_FIELDS: &[(&str, &str)] =
    &[("max_tokens", "max_tokens"), ("max_completion_tokens", "max_completion_tokens")];
const NAME_BYTES_MAX: usize = 200;
const TOKENS_MAX: u64 = 100_000_000;

/// Reads all rows; `upstreams` are the names that a target may have.
pub fn models(root: &mut Section<'_>, upstreams: &[String]) -> Models {
    let mut found = Models::default();
    let mut ids: Vec<String> = Vec::new();
    for mut row in root.rows("models") {
        let id = row.required("id").unwrap_or_default();
        if NAME_BYTES_MAX < id.len() || id.contains(|c: char| c.is_control() || c.is_whitespace()) {
            row.fault("id", "is no name of a model: too long, or with blanks in it; correct it");
        }
        if !id.is_empty() && ids.contains(&id) {
            row.fault("id", format!("\"{id}\" is listed twice; remove one"));
        }
        let model = model(&mut row, &id, upstreams);
        if id == ANY_NAME {
            found.fallback = model;
        } else {
            found.listed.extend(model);
        }
        ids.push(id);
        row.end();
    }
    found
}

fn model(row: &mut Section<'_>, id: &str, upstreams: &[String]) -> Option<Model> {
    if !row.has("max_output_tokens") {
        let message = "is missing; write the most it can answer (0 for embeddings): holds need it";
        row.fault("max_output_tokens", message);
    }
    let max_output_tokens = row.whole("max_output_tokens", 0..=TOKENS_MAX);
    let output_field = row.choice("output_field", OUTPUT_FIELDS).unwrap_or("max_tokens");
    let hidden_output = row.flag("hidden_output", false);
    let max_input_tokens = row.whole("max_input_tokens", 1..=TOKENS_MAX);
    let prices = prices(row, max_output_tokens.is_none_or(|most| 0 < most));
    let targets = targets(row, upstreams);
    let prices = prices?;
    let schedule = Schedule::always(Tariff::flat(prices, version(&prices).into()));
    Some(Model {
        name: Arc::from(id),
        max_output_tokens: max_output_tokens?,
        output_field,
        hidden_output,
        max_input_tokens,
        targets: targets.into_iter().map(|place| place.at(&schedule)).collect(),
    })
}

/// Where a model is served.
struct Place {
    upstream: usize,
    upstream_model: Option<Arc<str>>,
}

impl Place {
    /// The target there, at those prices.
    fn at(self, schedule: &Schedule) -> Target {
        let Self { upstream, upstream_model } = self;
        Target { upstream, upstream_model, schedule: schedule.clone() }
    }
}

/// Where a model is served: `upstream` for one place, `targets` for several.
fn targets(row: &mut Section<'_>, upstreams: &[String]) -> Vec<Place> {
    let (one, several) = (row.has("upstream"), row.has("targets"));
    if one == several {
        row.fault("upstream", "or targets: one of the two says where it is served");
    }
    if !several {
        return target(row, "upstream_model", upstreams).into_iter().collect();
    }
    let mut found = Vec::new();
    for mut part in row.rows("targets") {
        let priority = part.whole("priority", 0..=1_000).unwrap_or_default();
        found.extend(target(&mut part, "model", upstreams).map(|target| (priority, target)));
        part.end();
    }
    // Stable: of one priority, the order of the file.
    found.sort_by_key(|(priority, _)| *priority);
    found.into_iter().map(|(_, target)| target).collect()
}

fn target(part: &mut Section<'_>, model_key: &'static str, upstreams: &[String]) -> Option<Place> {
    let upstream_model = part.text(model_key).map(Arc::from);
    let name = part.text("upstream")?;
    let upstream = upstreams.iter().position(|known| *known == name);
    if upstream.is_none() {
        part.fault("upstream", format!("there is no upstream \"{name}\"; add it or correct this"));
    }
    Some(Place { upstream: upstream?, upstream_model })
}
