//! `[prices]`, and the price schedule of a target.

use std::fs;
use std::sync::Arc;

use crate::config::price_list::{PriceList, PriceListEntry, read_price_rows};
use crate::config::price_table::read_partial_table;
use crate::config::section::{ConfigReader, Section};
use crate::domain::price::PriceTable;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::{PriceRow, PriceSchedule, Tariff};
use crate::domain::time::{Day, UnixMs};
use crate::domain::usage::{Unit, UnitClass};
use crate::store::price_lists::version;

/// The price list and the policy for models without a price.
#[derive(Debug)]
pub struct PricingConfig<'a> {
    reader: &'a ConfigReader<'a>,
    list: PriceList,
    /// The prices of models without a price. `None` rejects such models.
    pub ceiling: Option<PriceTable>,
}

#[derive(Clone, Copy)]
enum UnpricedPolicy {
    Refuse,
    Ceiling,
}

const POLICIES: &[(&str, UnpricedPolicy)] =
    &[("refuse", UnpricedPolicy::Refuse), ("ceiling", UnpricedPolicy::Ceiling)];

/// Reads `[prices]`.
pub fn read_pricing<'a>(
    root: &mut Section<'a>,
    reading: &'a ConfigReader<'a>,
) -> PricingConfig<'a> {
    let mut part = root.section("prices");
    let list = part.text("file").and_then(|file| match fs::read_to_string(&file) {
        Ok(text) => Some(PriceList::from_text(reading, file, text)),
        Err(error) => {
            part.error("file", format!("cannot read {file}: {error}"));
            None
        }
    });
    let policy = part.choice("unknown", POLICIES).unwrap_or(UnpricedPolicy::Refuse);
    let ceiling = match (policy, read_ceiling(&mut part)) {
        (UnpricedPolicy::Refuse, _) => None,
        (UnpricedPolicy::Ceiling, None) => {
            part.error(
                "ceiling",
                "missing or invalid; set a price for every unit in [prices.ceiling]",
            );
            None
        }
        (UnpricedPolicy::Ceiling, ceiling) => ceiling,
    };
    part.finish();
    PricingConfig { reader: reading, list: list.unwrap_or(PriceList::built_in()), ceiling }
}

fn read_ceiling(part: &mut Section<'_>) -> Option<PriceTable> {
    let prices = read_partial_table(part, "ceiling")?;
    // The price of a total also applies to its parts.
    for unit in Unit::top_level().filter(|unit| prices.price_of(*unit).is_none()) {
        part.error(
            &format!("ceiling.{}", unit.name()),
            "missing price; the ceiling needs one for every unit",
        );
    }
    Some(prices)
}

/// The prices that the configuration specifies for a model or a target.
#[derive(Debug, Clone, Default)]
pub struct ModelPricing {
    /// The prices under `prices`.
    explicit: Option<PriceSchedule>,
    /// The entries of the listed model that `price` names.
    listed: Vec<PriceListEntry>,
    is_invalid: bool,
}

impl PricingConfig<'_> {
    /// Reads `prices` with `tiers` and `service_tiers`, or `price`, the name of a listed model.
    pub fn read_model_pricing(&self, row: &mut Section<'_>, has_output: bool) -> ModelPricing {
        let name = row.text("price");
        if row.has("prices") {
            if name.is_some() {
                row.error("price", "cannot be combined with `prices`; remove one of them");
            }
            let rows = read_price_rows(row, has_output);
            let explicit =
                rows.and_then(|rows| self.tariff(row, "prices", rows)).map(PriceSchedule::always);
            return ModelPricing { is_invalid: explicit.is_none(), explicit, listed: Vec::new() };
        }
        for key in ["tiers", "service_tiers"] {
            if !row.rows(key).is_empty() {
                row.error(key, "requires `prices` for the default tier");
            }
        }
        let listed = name.map(|name| self.find_by_price_name(row, &name));
        let is_invalid = listed.as_ref().is_some_and(Vec::is_empty);
        ModelPricing { explicit: None, listed: listed.unwrap_or_default(), is_invalid }
    }

    fn find_by_price_name(&self, row: &Section<'_>, name: &str) -> Vec<PriceListEntry> {
        let parts = name.split_once('/');
        let found = parts.map(|(provider, id)| self.list.find(self.reader, provider, id));
        let found = found.unwrap_or_default();
        if found.is_empty() {
            let message = format!(
                "\"{name}\" is not in the price list; expected provider/id of a listed model"
            );
            row.error("price", message);
        }
        found
    }

    /// Returns the entries of the model `name` of `provider` in the price list.
    pub fn find_listed(&self, provider: Option<&str>, name: &str) -> Vec<PriceListEntry> {
        let found = provider.map(|provider| self.list.find(self.reader, provider, name));
        found.unwrap_or_default()
    }

    /// Checks that the price list contains the provider.
    pub fn check_provider(&self, name: &str) -> Result<String, String> {
        let providers = self.list.providers();
        if providers.contains(name) {
            return Ok(name.to_owned());
        }
        let providers = providers.into_iter().collect::<Vec<_>>().join(", ");
        Err(format!("unknown provider; the price list has {providers}"))
    }

    /// Returns the price list entries of a target: those that the target or its model names,
    /// otherwise `listed`.
    pub fn entries(
        candidates: [&ModelPricing; 2],
        listed: Vec<PriceListEntry>,
    ) -> Vec<PriceListEntry> {
        let named = candidates.into_iter().find(|pricing| !pricing.listed.is_empty());
        named.map_or(listed, |pricing| pricing.listed.clone())
    }

    /// Returns the price schedule of a target: the first of the target's prices, the model's
    /// prices, the price list and the ceiling. Returns `None` after reporting an error.
    pub fn schedule(
        &self,
        row: &Section<'_>,
        candidates: [&ModelPricing; 2],
        entries: &[PriceListEntry],
        name: &str,
    ) -> Option<PriceSchedule> {
        let is_set = |pricing: &&ModelPricing| {
            pricing.explicit.is_some() || pricing.is_invalid || !pricing.listed.is_empty()
        };
        let first = candidates.into_iter().find(is_set);
        if let Some(pricing) = first.filter(|first| first.explicit.is_some() || first.is_invalid) {
            return pricing.explicit.clone();
        }
        if !entries.is_empty() {
            let tariff = |entry: &PriceListEntry| {
                let from = entry.effective_from.map_or(UnixMs(i64::MIN), Day::start);
                let path = format!("the price list of {}/{}", entry.provider, entry.id);
                Some((from, Arc::new(self.tariff(row, &path, entry.rows.clone())?)))
            };
            return PriceSchedule::from_entries(entries.iter().map(tariff).collect::<Option<_>>()?);
        }
        let Some(ceiling) = self.ceiling else {
            row.error("prices", format!("missing, and the price list has no {name}; {REMEDY}"));
            return None;
        };
        let row_for_all =
            PriceRow { tier: ServiceTier::DEFAULT, above_input_tokens: 0, prices: ceiling };
        self.tariff(row, "prices", vec![row_for_all]).map(PriceSchedule::always)
    }

    /// Returns the tariff of these rows, with missing prices filled from the ceiling.
    fn tariff(&self, row: &Section<'_>, key: &str, mut rows: Vec<PriceRow>) -> Option<Tariff> {
        if let Some(ceiling) = &self.ceiling {
            for row in &mut rows {
                row.prices = fill_from_ceiling(&row.prices, ceiling);
            }
        }
        let version = version("file", &rows);
        let tariff = Tariff::from_rows(rows, version.into());
        if tariff.is_none() {
            row.error(key, "duplicate rows for one tier and input size; remove one");
        }
        tariff
    }
}

const REMEDY: &str = "set { inputTokens = \"0.15\", … } (\"0\" if free), or the provider \
    of the upstream, or price = \"provider/id\" of a listed model";

/// Returns `prices`, with the ceiling for non-token units that have no price.
pub fn fill_from_ceiling(prices: &PriceTable, ceiling: &PriceTable) -> PriceTable {
    let items = Unit::top_level().filter(|unit| unit.class() != UnitClass::Token);
    items.fold(*prices, |prices, unit| {
        match (prices.price_of(unit), ceiling.price_of(unit)) {
            // The ceiling was checked to be in range.
            (None, Some(price)) => prices.with(unit, price.0).unwrap_or(prices),
            _ => prices,
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::config::check::{Settings, read};
    use crate::config::environment::Environment;
    use crate::domain::money::Nano;
    use crate::domain::service_tier::ServiceTier;
    use crate::domain::tariff::Tariff;
    use crate::domain::time::UnixMs;
    use crate::domain::usage::{Unit, Usage};

    const UPSTREAMS: &str = "[[upstreams]]\nname = 'a'\nbase_url = 'http://a'\nprovider = 'openai'\n\
        [[upstreams]]\nname = 'b'\nbase_url = 'http://b'\n";

    /// A ceiling of 1, 2, 3, … for the top-level units.
    fn ceiling() -> String {
        let price = |(unit, price): (Unit, u32)| format!("{} = {price}", unit.name());
        let prices: Vec<_> = Unit::top_level().zip(1..).map(price).collect();
        format!("[prices]\nunknown = 'ceiling'\nceiling = {{ {} }}\n", prices.join(", "))
    }

    fn settings(text: &str) -> Settings {
        let text = format!("{text}\n{UPSTREAMS}");
        read(&text, &Environment::default()).unwrap_or_else(|report| panic!("{report}"))
    }

    fn with(model: &str) -> Settings {
        settings(&format!("models = [{{ {model} }}]"))
    }

    fn report(text: &str) -> String {
        let text = format!("{text}\n{UPSTREAMS}");
        read(&text, &Environment::default()).expect_err("errors").to_string()
    }

    fn tariff(settings: &Settings, target: usize) -> &Tariff {
        settings.models[0].targets[target].schedule.effective_at(UnixMs(0))
    }

    fn price(settings: &Settings, target: usize, unit: Unit) -> Option<Nano> {
        tariff(settings, target).prices(ServiceTier::DEFAULT, 0).price_of(unit)
    }

    #[test]
    fn a_listed_model_needs_only_its_name() {
        let found = with("id = 'gpt-5-mini', upstream = 'a'");
        let model = &found.models[0];
        assert_eq!((model.max_output_tokens, model.hidden_output), (128_000, true));
        assert_eq!(model.output_field, "max_completion_tokens");
        assert_eq!(price(&found, 0, Unit::CachedInputTokens), Some(Nano(25_000_000)));
        let flex = ServiceTier::new("flex").expect("short");
        let cost = |tier| tariff(&found, 0).cost(&Usage::from_tokens(1_000_000, 0), tier);
        assert_eq!(cost(ServiceTier::DEFAULT), Nano(250_000_000));
        assert_eq!(cost(flex), Nano(125_000_000));
    }

    #[test]
    fn configured_fields_win_over_the_list_field_by_field() {
        let prices = "prices = { inputTokens = 7, outputTokens = 8 }";
        let found =
            with(&format!("id = 'gpt-5-mini', upstream = 'a', max_output_tokens = 9, {prices}"));
        let model = &found.models[0];
        assert_eq!((model.max_output_tokens, model.max_input_tokens), (9, Some(272_000)));
        assert_eq!(price(&found, 0, Unit::InputTokens), Some(Nano::units(7)));
        assert_eq!(tariff(&found, 0).rows().len(), 1, "no tier of the list remains");
        let found = with("id = 'gpt-5-mini', upstream = 'a', hidden_output = false");
        assert!(!found.models[0].hidden_output);
    }

    #[test]
    fn each_target_has_its_prices() {
        let found = with(
            "id = 'm', price = 'openai/gpt-4o', targets = [\
             { upstream = 'a', model = 'gpt-4o-mini' }, \
             { upstream = 'b', price = 'openai/gpt-4o-mini' }, \
             { upstream = 'b', prices = { inputTokens = 3, outputTokens = 4 } }]",
        );
        let inputs = [0, 1, 2].map(|target| price(&found, target, Unit::InputTokens));
        let nanos = [2_500_000_000, 150_000_000, 3_000_000_000];
        assert_eq!(inputs, nanos.map(|nano| Some(Nano(nano))), "explicit prices win over the list");
        assert_eq!(found.models[0].max_output_tokens, 16_384);
        let found = with("id = 'm', targets = [{ upstream = 'a', model = 'gpt-4o-mini' }]");
        assert_eq!(price(&found, 0, Unit::InputTokens), Some(Nano(150_000_000)));
    }

    #[test]
    fn configured_tiers_are_priced_like_listed_ones() {
        let found = with(
            "id = 'm', upstream = 'b', max_output_tokens = 9, \
             prices = { inputTokens = 1, outputTokens = 1 }, \
             tiers = [{ above_input_tokens = 10, prices = { inputTokens = 2, outputTokens = 1 } }], \
             service_tiers = [{ name = 'fast', prices = { inputTokens = 9, outputTokens = 9 } }]",
        );
        let cost = |input, tier| tariff(&found, 0).cost(&Usage::from_tokens(input, 0), tier).0;
        let fast = ServiceTier::new("fast").expect("short");
        assert_eq!(cost(10, ServiceTier::DEFAULT), 10_000);
        assert_eq!(cost(11, ServiceTier::DEFAULT), 22_000);
        assert_eq!(cost(11, fast), 99_000);
    }

    #[test]
    fn a_model_without_a_price_is_reported_by_name() {
        let text = report("models = [{ id = 'gpt-0', upstream = 'a', max_output_tokens = 1 }]");
        assert!(text.starts_with("models.0.prices: ") && text.contains("openai/gpt-0"), "{text}");
        let text = report("models = [{ id = 'm', upstream = 'b', price = 'openai/gpt-0' }]");
        assert!(text.contains("models.0.price: \"openai/gpt-0\" is not"), "{text}");
    }

    #[test]
    fn the_ceiling_prices_everything_that_has_no_price() {
        let unlisted = "models = [{ id = 'gpt-0', upstream = 'a', max_output_tokens = 1 }]";
        let found = settings(&format!("{unlisted}\n{}", ceiling()));
        assert_eq!(price(&found, 0, Unit::OutputTokens), Some(Nano::units(2)));
        let prices = "prices = { inputTokens = 0, outputTokens = 0 }";
        let row =
            format!("models = [{{ id = 'm', upstream = 'b', max_output_tokens = 1, {prices} }}]");
        let found = settings(&format!("{row}\n{}", ceiling()));
        assert_eq!(price(&found, 0, Unit::InputTokens), Some(Nano::ZERO), "an explicit zero");
        assert_eq!(price(&found, 0, Unit::WebSearches), Some(Nano::units(3)));
        let text = report("[prices]\nunknown = 'ceiling'\nceiling = { inputTokens = 1 }");
        assert_eq!(
            text.matches("prices.ceiling.").count(),
            Unit::top_level().count() - 1,
            "{text}"
        );
        let text = report("[prices]\nunknown = 'ceiling'");
        assert!(text.contains("prices.ceiling: "), "{text}");
    }

    #[test]
    fn an_upstream_must_name_a_listed_provider() {
        let text = read(&UPSTREAMS.replace("openai", "oponai"), &Environment::default());
        let text = text.expect_err("errors").to_string();
        assert!(text.starts_with("upstreams.0.provider: ") && text.contains("openai,"), "{text}");
    }
}
