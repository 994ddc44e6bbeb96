//! The price list: known models by provider and name, with their prices and properties.
//!
//! The built-in list is long, so only the rows that are looked up are parsed as TOML.

use std::borrow::Cow;
use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::config::price_table::read_price_table;
use crate::config::section::{ConfigReader, Section};
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::PriceRow;
use crate::domain::time::Day;

/// The TOML text of a price list, in which each row begins with `[[models]]`.
#[derive(Debug)]
pub struct PriceList {
    /// The file name in errors; empty for the built-in list.
    name: String,
    text: Cow<'static, str>,
}

/// The properties and prices of a model, effective from a date.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceListEntry {
    pub provider: String,
    /// The provider's name of the model.
    pub id: String,
    /// Further names of the model at the provider.
    pub aliases: Vec<String>,
    /// The first day of the prices. `None` means always.
    pub effective_from: Option<Day>,
    /// The maximum output tokens of one choice. Defaults to the context window.
    pub max_output_tokens: Option<u64>,
    /// The context window in tokens.
    pub max_input_tokens: Option<u64>,
    /// The request field that limits the output.
    pub output_field: Option<&'static str>,
    /// Whether the model bills output that its response does not contain.
    pub hidden_output: bool,
    pub rows: Vec<PriceRow>,
}

const BUILT_IN: &str = include_str!("../../config/prices.toml");
const ROW: &str = "[[models]]";
/// The permitted values of `output_field`.
pub const OUTPUT_FIELDS: &[(&str, &str)] =
    &[("max_tokens", "max_tokens"), ("max_completion_tokens", "max_completion_tokens")];
/// A plausibility limit for token counts of a model.
pub const TOKENS_MAX: u64 = 100_000_000;
const KINDS: &[(&str, ())] = &[
    ("chat", ()),
    ("completion", ()),
    ("embeddings", ()),
    ("moderation", ()),
    ("images", ()),
    ("transcription", ()),
    ("speech", ()),
];

impl PriceList {
    /// Returns the price list of this build.
    pub const fn built_in() -> Self {
        Self { name: String::new(), text: Cow::Borrowed(BUILT_IN) }
    }

    /// Returns the operator's price list from the file `name`. Reports every error in it.
    pub fn from_text(reader: &ConfigReader<'_>, name: String, text: String) -> Self {
        let list = Self { name, text: Cow::Owned(text) };
        for row in list.row_texts() {
            list.parse_entry(reader, row);
        }
        list
    }

    /// Returns the entries of the model `name` of `provider`, in order of their effective dates.
    pub fn find(
        &self,
        reader: &ConfigReader<'_>,
        provider: &str,
        name: &str,
    ) -> Vec<PriceListEntry> {
        let quoted = [format!("\"{name}\""), format!("'{name}'")];
        let candidates =
            self.row_texts().filter(|row| quoted.iter().any(|quoted| row.contains(quoted)));
        let entries = candidates.filter_map(|row| self.parse_entry(reader, row));
        let mut found: Vec<PriceListEntry> =
            entries.filter(|entry| entry.matches(provider, name)).collect();
        found.sort_by_key(|entry| entry.effective_from);
        found
    }

    /// Returns the listed providers, sorted.
    pub fn providers(&self) -> BTreeSet<&str> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("provider"));
        lines.filter_map(|rest| rest.split(['"', '\'']).nth(1)).collect()
    }

    /// Returns the TOML text of each row.
    fn row_texts(&self) -> impl Iterator<Item = &str> {
        self.text.split(ROW).skip(1)
    }

    fn parse_entry(&self, reader: &ConfigReader<'_>, row: &str) -> Option<PriceListEntry> {
        let table: Table = match row.parse() {
            Ok(table) => table,
            Err(_) => {
                let first = row.trim().lines().next().unwrap_or_default();
                reader.error(&self.name, format!("invalid TOML in the row `{first}`"));
                return None;
            }
        };
        let text = |key| table.get(key).and_then(Value::as_str).unwrap_or("?");
        let path = format!("{} {}/{}", self.name, text("provider"), text("id"));
        let mut row = Section::new(reader, path.trim_start().to_owned(), table);
        let entry = read_entry(&mut row);
        row.finish();
        entry
    }
}

impl PriceListEntry {
    fn matches(&self, provider: &str, name: &str) -> bool {
        let named = self.id == name || self.aliases.iter().any(|alias| alias == name);
        self.provider == provider && named
    }
}

fn read_entry(row: &mut Section<'_>) -> Option<PriceListEntry> {
    let (provider, id) = (row.required_text("provider"), row.required_text("id"));
    let aliases = row.texts("aliases").unwrap_or_default();
    let effective_from = row.parsed("effective_from", |text| {
        Day::parse(text).ok_or_else(|| "expected a date such as 2027-01-01".to_owned())
    });
    row.choice("kind", KINDS);
    let max_output_tokens = row.integer("max_output_tokens", 0..=TOKENS_MAX);
    let max_input_tokens = row.integer("max_input_tokens", 1..=TOKENS_MAX);
    let output_field = row.choice("output_field", OUTPUT_FIELDS);
    let hidden_output = row.flag("hidden_output", false);
    // Without an output limit of its own, a model can generate its whole context window.
    let max_output_tokens = max_output_tokens.or(max_input_tokens);
    let rows = read_price_rows(row, max_output_tokens.is_none_or(|max| 0 < max))?;
    Some(PriceListEntry {
        provider: provider?,
        id: id?,
        aliases,
        effective_from,
        max_output_tokens,
        max_input_tokens,
        output_field,
        hidden_output,
        rows,
    })
}

/// Reads `prices`, `tiers` and `service_tiers`. A service tier may have `tiers` too; without them,
/// its prices apply to inputs of every size.
pub fn read_price_rows(row: &mut Section<'_>, has_output: bool) -> Option<Vec<PriceRow>> {
    let mut rows = read_size_rows(row, ServiceTier::DEFAULT, has_output);
    for mut part in row.rows("service_tiers") {
        let tier = part.required_text("name").and_then(|name| {
            let tier = ServiceTier::new(&name).filter(|tier| !tier.is_default());
            if tier.is_none() {
                part.error("name", "expected the name of a tier other than the default");
            }
            tier
        });
        let more = read_size_rows(&mut part, tier.unwrap_or(ServiceTier::DEFAULT), has_output);
        rows = rows.zip(more).map(|(rows, more)| [rows, more].concat());
        part.finish();
    }
    rows
}

fn read_size_rows(
    row: &mut Section<'_>,
    tier: ServiceTier,
    has_output: bool,
) -> Option<Vec<PriceRow>> {
    let mut found = read_price_table(row, has_output)
        .map(|prices| vec![PriceRow { tier, above_input_tokens: 0, prices }]);
    let mut before = 0;
    for mut part in row.rows("tiers") {
        if !part.has("above_input_tokens") {
            part.error(
                "above_input_tokens",
                "missing; the tier applies above this number of tokens",
            );
        }
        let above = part.integer("above_input_tokens", 1..=TOKENS_MAX);
        if above.is_some_and(|above| above <= before) {
            part.error("above_input_tokens", "must be greater than in the previous tier");
        }
        before = above.unwrap_or(before);
        let prices = read_price_table(&mut part, has_output);
        if let (Some(found), Some(above_input_tokens), Some(prices)) = (&mut found, above, prices) {
            found.push(PriceRow { tier, above_input_tokens, prices });
        }
        part.finish();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::file::RawConfig;
    use crate::domain::money::Nano;
    use crate::domain::usage::Unit;

    fn reader(environment: &Environment) -> ConfigReader<'_> {
        ConfigReader::begin(RawConfig::default(), environment).0
    }

    #[test]
    fn the_built_in_list_is_valid_and_has_many_models_of_many_providers() {
        let environment = Environment::default();
        let (reader, list) = (reader(&environment), PriceList::built_in());
        let entries: Vec<PriceListEntry> =
            list.row_texts().filter_map(|row| list.parse_entry(&reader, row)).collect();
        let ids: BTreeSet<_> = entries.iter().map(|entry| (&entry.provider, &entry.id)).collect();
        assert!(300 <= ids.len(), "{} models", ids.len());
        let providers: BTreeSet<&str> = ids.iter().map(|(provider, _)| provider.as_str()).collect();
        assert!(20 <= providers.len(), "{providers:?}");
        assert_eq!(list.providers(), providers);
        let mut names = BTreeSet::new();
        for entry in &entries {
            for name in entry.aliases.iter().chain([&entry.id]) {
                let is_new = names.insert((&entry.provider, name, entry.effective_from));
                assert!(is_new, "two models are called {}/{name}", entry.provider);
            }
        }
        reader.finish(()).unwrap_or_else(|report| panic!("{report}"));
    }

    #[test]
    fn a_model_is_found_by_each_of_its_names_at_its_provider_only() {
        let environment = Environment::default();
        let (reader, list) = (reader(&environment), PriceList::built_in());
        let found = list.find(&reader, "openai", "gpt-4o-mini-2024-07-18");
        let [mini] = &found[..] else { panic!("one entry, not {found:?}") };
        assert_eq!((&*mini.id, mini.max_output_tokens), ("gpt-4o-mini", Some(16_384)));
        let price = mini.rows[0].prices.price_of(Unit::InputTokens);
        assert_eq!(price, Some(Nano(150_000_000)));
        assert_eq!(list.find(&reader, "anthropic", "gpt-4o-mini"), []);
        assert_eq!(list.find(&reader, "openai", "gpt-4o-min"), []);
        let sonnet = list.find(&reader, "anthropic", "claude-sonnet-4-5");
        let sizes: Vec<u64> = sonnet[0].rows.iter().map(|row| row.above_input_tokens).collect();
        assert_eq!(sizes, [0, 200_000]);
    }

    #[test]
    fn entries_are_sorted_by_effective_date() {
        let environment = Environment::default();
        let reader = reader(&environment);
        let text = "[[models]]\nprovider = 'p'\nid = 'm'\neffective_from = '2027-01-01'\n\
            prices = { inputTokens = '2', outputTokens = '2' }\n\
            [[models]]\nprovider = 'p'\nid = 'm'\nprices = { inputTokens = 1, outputTokens = 1 }\n\
            service_tiers = [{ name = 'flex', prices = { inputTokens = 0, outputTokens = 0 } }]\n";
        let list = PriceList::from_text(&reader, "file".to_owned(), text.to_owned());
        let found = list.find(&reader, "p", "m");
        let days: Vec<_> = found.iter().map(|entry| entry.effective_from).collect();
        assert_eq!(days, [None, Day::parse("2027-01-01")]);
        assert_eq!(found[0].rows[1].tier.name(), "flex");
        reader.finish(()).unwrap_or_else(|report| panic!("{report}"));
    }

    #[test]
    fn errors_of_an_operators_list_name_the_model_and_the_key() {
        let environment = Environment::default();
        let reader = reader(&environment);
        let text = "[[models]]\nprovider = 'p'\nid = 'm'\ncolour = 1\n\
            prices = { inputTokens = 0.5, outputTokens = '1' }\n\
            tiers = [{ above_input_tokens = 5, prices = { inputTokens = '1', outputTokens = '1' } },\n\
            { above_input_tokens = 5, prices = { inputTokens = '1', outputTokens = '1' } }]\n\
            [[models]]\nid = =\n";
        PriceList::from_text(&reader, "prices.toml".to_owned(), text.to_owned());
        let report = reader.finish(()).expect_err("errors").to_string();
        let paths: Vec<&str> =
            report.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        let model = "prices.toml p/m";
        assert_eq!(paths.len(), 4, "{report}");
        for (path, key) in
            paths.iter().zip(["prices.inputTokens", "tiers.1.above_input_tokens", "colour"])
        {
            assert_eq!(*path, format!("{model}.{key}"));
        }
        assert_eq!(paths[3], "prices.toml");
    }
}
