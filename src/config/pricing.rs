//! What a target costs: by its own prices, by those of its model, or by the price list.

use std::fs;
use std::sync::Arc;

use crate::config::price_list::{Entry, PriceList, price_rows};
use crate::config::prices::units;
use crate::config::section::{Reading, Section};
use crate::domain::price::Prices;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::{Row, Schedule, Tariff};
use crate::domain::time::{Day, UnixMs};
use crate::domain::usage::Unit;
use crate::store::price_lists::version;

/// `[prices]`: the price list, and what is done where it has no price.
#[derive(Debug)]
pub struct Pricing<'a> {
    reading: &'a Reading<'a>,
    list: PriceList,
    /// What costs what no price is known for; `None` refuses it.
    pub ceiling: Option<Prices>,
}

/// What a model always has a price for, if it is known.
const TOKENS: [Unit; 2] = [Unit::InputTokens, Unit::OutputTokens];

#[derive(Clone, Copy)]
enum Unknown {
    Refuse,
    Ceiling,
}

const UNKNOWN: &[(&str, Unknown)] = &[("refuse", Unknown::Refuse), ("ceiling", Unknown::Ceiling)];

/// Reads `[prices]`.
pub fn pricing<'a>(root: &mut Section<'a>, reading: &'a Reading<'a>) -> Pricing<'a> {
    let mut part = root.section("prices");
    let own = part.text("file").and_then(|file| match fs::read_to_string(&file) {
        Ok(text) => Some(PriceList::of(reading, file, text)),
        Err(fault) => {
            part.fault("file", format!("{file} cannot be read: {fault}; correct it"));
            None
        }
    });
    let unknown = part.choice("unknown", UNKNOWN).unwrap_or(Unknown::Refuse);
    let ceiling = match (unknown, ceiling(&mut part)) {
        (Unknown::Refuse, _) => None,
        (Unknown::Ceiling, None) => {
            part.fault("ceiling", "is wrong or missing; write [prices.ceiling] with all units");
            None
        }
        (Unknown::Ceiling, ceiling) => ceiling,
    };
    part.end();
    Pricing { reading, list: own.unwrap_or(PriceList::built_in()), ceiling }
}

fn ceiling(part: &mut Section<'_>) -> Option<Prices> {
    let prices = units(part, "ceiling")?;
    // A part costs what its total costs.
    for unit in Unit::wholes().filter(|unit| prices.given(*unit).is_none()) {
        part.fault(&format!("ceiling.{}", unit.name()), "is missing; nothing may be free here");
    }
    Some(prices)
}

/// What a row of the file says of the prices at one place.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Prices of its own.
    own: Option<Schedule>,
    /// The listed model whose prices it has.
    named: Vec<Entry>,
    is_wrong: bool,
}

impl Pricing<'_> {
    /// Reads `prices` with `tiers` and `service_tiers`, or `price`, the name of a listed model.
    pub fn told(&self, row: &mut Section<'_>, answers: bool) -> Told {
        let name = row.text("price");
        if row.has("prices") {
            if name.is_some() {
                row.fault("price", "stands beside prices; remove one of the two");
            }
            let rows = price_rows(row, answers);
            let own = rows.and_then(|rows| self.tariff(row, "prices", rows)).map(Schedule::always);
            return Told { is_wrong: own.is_none(), own, named: Vec::new() };
        }
        for key in ["tiers", "service_tiers"] {
            if !row.rows(key).is_empty() {
                row.fault(key, "stands without prices; add those of the default tier");
            }
        }
        let named = name.map(|name| self.named(row, &name));
        let is_wrong = named.as_ref().is_some_and(Vec::is_empty);
        Told { own: None, named: named.unwrap_or_default(), is_wrong }
    }

    fn named(&self, row: &Section<'_>, name: &str) -> Vec<Entry> {
        let parts = name.split_once('/');
        let found = parts.map(|(provider, id)| self.list.find(self.reading, provider, id));
        let found = found.unwrap_or_default();
        if found.is_empty() {
            let message = format!("\"{name}\" is not in the price list; write provider/id of one");
            row.fault("price", message);
        }
        found
    }

    /// What the list has of the model that a provider calls `name`.
    pub fn listed(&self, provider: Option<&str>, name: &str) -> Vec<Entry> {
        let found = provider.map(|provider| self.list.find(self.reading, provider, name));
        found.unwrap_or_default()
    }

    /// The name of a provider that the list has models of.
    pub fn provider(&self, name: &str) -> Result<String, String> {
        let known = self.list.providers();
        if known.contains(name) {
            return Ok(name.to_owned());
        }
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        Err(format!("is not in the price list; it has {known}; correct it or leave the key out"))
    }

    /// What is known of a model at one place: of what is `named` in its row, else what is listed.
    pub fn entries(told: [&Told; 2], listed: Vec<Entry>) -> Vec<Entry> {
        let named = told.into_iter().find(|told| !told.named.is_empty());
        named.map_or(listed, |told| told.named.clone())
    }

    /// What a model costs at one place: by what its target says, else its row, else the list, else
    /// by the ceiling. `None` where that is a fault, which is noted.
    pub fn schedule(
        &self,
        row: &Section<'_>,
        told: [&Told; 2],
        entries: &[Entry],
        name: &str,
    ) -> Option<Schedule> {
        let speaks = |told: &&Told| told.own.is_some() || told.is_wrong || !told.named.is_empty();
        let first = told.into_iter().find(speaks);
        if let Some(told) = first.filter(|told| told.own.is_some() || told.is_wrong) {
            return told.own.clone();
        }
        if !entries.is_empty() {
            let tariff = |entry: &Entry| {
                let from = entry.effective_from.map_or(UnixMs(i64::MIN), Day::start);
                let path = format!("the price list of {}/{}", entry.provider, entry.id);
                Some((from, Arc::new(self.tariff(row, &path, entry.rows.clone())?)))
            };
            return Schedule::of(entries.iter().map(tariff).collect::<Option<_>>()?);
        }
        let Some(ceiling) = self.ceiling else {
            row.fault("prices", format!("is missing, and the price list has no {name}; {REMEDY}"));
            return None;
        };
        let everything = Row { tier: ServiceTier::DEFAULT, above_input_tokens: 0, prices: ceiling };
        self.tariff(row, "prices", vec![everything]).map(Schedule::always)
    }

    /// The tariff of these rows; what they have no price for costs the ceiling.
    fn tariff(&self, row: &Section<'_>, key: &str, mut rows: Vec<Row>) -> Option<Tariff> {
        if let Some(ceiling) = &self.ceiling {
            for row in &mut rows {
                row.prices = filled(&row.prices, ceiling);
            }
        }
        let version = version("file", &rows);
        let tariff = Tariff::of(rows, version.into());
        if tariff.is_none() {
            row.fault(key, "have two rows for the same calls; remove one");
        }
        tariff
    }
}

const REMEDY: &str = "write { inputTokens = \"0.15\", … }, \"0\" if it is free, or name the \
    provider of its upstream, or a listed model as price = \"provider/id\"";

/// Those prices, and the ceiling for what has none and is counted one by one.
pub fn filled(prices: &Prices, ceiling: &Prices) -> Prices {
    let pieces = Unit::wholes().filter(|unit| !TOKENS.contains(unit));
    pieces.fold(*prices, |prices, unit| {
        match (prices.given(unit), ceiling.given(unit)) {
            // It was in range before.
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
    const CEILING: &str = "[prices]\nunknown = 'ceiling'\nceiling = { inputTokens = 1, \
        outputTokens = 2, webSearches = 3, images = 4, audioSeconds = 5, characters = 6, \
        fileSearches = 7, codeSessions = 8 }\n";

    fn settings(text: &str) -> Settings {
        let text = format!("{text}\n{UPSTREAMS}");
        read(&text, &Environment::default()).unwrap_or_else(|report| panic!("{report}"))
    }

    fn with(model: &str) -> Settings {
        settings(&format!("models = [{{ {model} }}]"))
    }

    fn report(text: &str) -> String {
        let text = format!("{text}\n{UPSTREAMS}");
        read(&text, &Environment::default()).expect_err("faults").to_string()
    }

    fn tariff(settings: &Settings, target: usize) -> &Tariff {
        settings.models[0].targets[target].schedule.at(UnixMs(0))
    }

    fn price(settings: &Settings, target: usize, unit: Unit) -> Option<Nano> {
        tariff(settings, target).prices(ServiceTier::DEFAULT, 0).given(unit)
    }

    #[test]
    fn a_model_of_a_listed_provider_needs_nothing_but_its_name() {
        let found = with("id = 'gpt-5-mini', upstream = 'a'");
        let model = &found.models[0];
        assert_eq!((model.max_output_tokens, model.hidden_output), (128_000, true));
        assert_eq!(model.output_field, "max_completion_tokens");
        assert_eq!(price(&found, 0, Unit::CachedInputTokens), Some(Nano(25_000_000)));
        let flex = ServiceTier::new("flex").expect("short");
        let cost = |tier| tariff(&found, 0).cost(&Usage::tokens_of(1_000_000, 0), tier);
        assert_eq!(cost(ServiceTier::DEFAULT), Nano(250_000_000));
        assert_eq!(cost(flex), Nano(125_000_000));
    }

    #[test]
    fn what_the_row_says_wins_field_by_field() {
        let own = "prices = { inputTokens = 7, outputTokens = 8 }";
        let found =
            with(&format!("id = 'gpt-5-mini', upstream = 'a', max_output_tokens = 9, {own}"));
        let model = &found.models[0];
        assert_eq!((model.max_output_tokens, model.max_input_tokens), (9, Some(272_000)));
        assert_eq!(price(&found, 0, Unit::InputTokens), Some(Nano::units(7)));
        assert_eq!(tariff(&found, 0).rows().len(), 1, "no tier of the list stays");
        let found = with("id = 'gpt-5-mini', upstream = 'a', hidden_output = false");
        assert!(!found.models[0].hidden_output);
    }

    #[test]
    fn each_place_has_the_prices_of_its_own() {
        let found = with(
            "id = 'm', price = 'openai/gpt-4o', targets = [\
             { upstream = 'a', model = 'gpt-4o-mini' }, \
             { upstream = 'b', price = 'openai/gpt-4o-mini' }, \
             { upstream = 'b', prices = { inputTokens = 3, outputTokens = 4 } }]",
        );
        let inputs = [0, 1, 2].map(|target| price(&found, target, Unit::InputTokens));
        let nanos = [2_500_000_000, 150_000_000, 3_000_000_000];
        assert_eq!(inputs, nanos.map(|nano| Some(Nano(nano))), "the row's own before the list");
        assert_eq!(found.models[0].max_output_tokens, 16_384);
        let found = with("id = 'm', targets = [{ upstream = 'a', model = 'gpt-4o-mini' }]");
        assert_eq!(price(&found, 0, Unit::InputTokens), Some(Nano(150_000_000)));
    }

    #[test]
    fn tiers_of_the_file_are_priced_as_those_of_the_list() {
        let found = with(
            "id = 'm', upstream = 'b', max_output_tokens = 9, \
             prices = { inputTokens = 1, outputTokens = 1 }, \
             tiers = [{ above_input_tokens = 10, prices = { inputTokens = 2, outputTokens = 1 } }], \
             service_tiers = [{ name = 'fast', prices = { inputTokens = 9, outputTokens = 9 } }]",
        );
        let cost = |input, tier| tariff(&found, 0).cost(&Usage::tokens_of(input, 0), tier).0;
        let fast = ServiceTier::new("fast").expect("short");
        assert_eq!(cost(10, ServiceTier::DEFAULT), 10_000);
        assert_eq!(cost(11, ServiceTier::DEFAULT), 22_000);
        assert_eq!(cost(11, fast), 99_000);
    }

    #[test]
    fn a_model_without_a_price_is_refused_by_name() {
        let text = report("models = [{ id = 'gpt-0', upstream = 'a', max_output_tokens = 1 }]");
        assert!(text.starts_with("models.0.prices: ") && text.contains("openai/gpt-0"), "{text}");
        let text = report("models = [{ id = 'm', upstream = 'b', price = 'openai/gpt-0' }]");
        assert!(text.contains("models.0.price: \"openai/gpt-0\" is not"), "{text}");
    }

    #[test]
    fn under_a_ceiling_nothing_is_free() {
        let unlisted = "models = [{ id = 'gpt-0', upstream = 'a', max_output_tokens = 1 }]";
        let found = settings(&format!("{unlisted}\n{CEILING}"));
        assert_eq!(price(&found, 0, Unit::OutputTokens), Some(Nano::units(2)));
        let own = "prices = { inputTokens = 0, outputTokens = 0 }";
        let row =
            format!("models = [{{ id = 'm', upstream = 'b', max_output_tokens = 1, {own} }}]");
        let found = settings(&format!("{row}\n{CEILING}"));
        assert_eq!(price(&found, 0, Unit::InputTokens), Some(Nano::ZERO), "it was given");
        assert_eq!(price(&found, 0, Unit::WebSearches), Some(Nano::units(3)));
        let text = report("[prices]\nunknown = 'ceiling'\nceiling = { inputTokens = 1 }");
        assert_eq!(text.matches("prices.ceiling.").count(), 7, "{text}");
        let text = report("[prices]\nunknown = 'ceiling'");
        assert!(text.contains("prices.ceiling: "), "{text}");
    }

    #[test]
    fn an_upstream_names_a_provider_of_the_list() {
        let text = read(&UPSTREAMS.replace("openai", "oponai"), &Environment::default());
        let text = text.expect_err("faults").to_string();
        assert!(text.starts_with("upstreams.0.provider: ") && text.contains("openai,"), "{text}");
    }
}
