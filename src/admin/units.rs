//! Prices on the wire: by unit, and by the size of the input.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, Schema};

use crate::admin::fields::{Fields, Shape, read_within};
use crate::admin::kind::{Amount, Kind, Whole, Wrong};
use crate::admin::scalar::Money;
use crate::domain::money::Nano;
use crate::domain::price::Prices;
use crate::domain::usage::Unit;
use crate::organization::denied::Fault;

/// The price of a unit.
#[derive(Debug, Clone, Copy)]
struct Priced(Unit);

/// An object of prices by unit.
#[derive(Debug, Clone, Copy)]
pub struct ByUnit;

/// The prices with more input than so many tokens, none of a size twice.
#[derive(Debug, Clone, Copy)]
pub struct BySize;

const TIERS_MAX: usize = 20;
/// More input than any model reads.
const SIZES: Whole = Whole(1, 100_000_000);
/// Prices as they are told.
pub fn by_unit(prices: &Prices) -> BTreeMap<&'static str, Money> {
    let price = |unit: Unit| Some((unit.name(), Money(prices.given(unit)?)));
    Unit::ALL.into_iter().filter_map(price).collect()
}

fn read_units(fields: &mut Fields) -> Option<Prices> {
    let mut prices = Some(Prices::default());
    for unit in Unit::ALL {
        let price = fields.change(unit.name(), Priced(unit));
        prices = prices.and_then(|prices| match price? {
            Some(price) => prices.with(unit, price.0),
            None => Some(prices),
        });
    }
    prices
}

fn read_size(fields: &mut Fields) -> Option<(u64, Prices)> {
    let above = fields.required("aboveInputTokens", SIZES);
    let prices = fields.required("prices", ByUnit);
    Some((u64::try_from(above?).ok()?, prices?))
}

impl Kind for Priced {
    type Value = Nano;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Nano, Wrong> {
        let price = Amount::Any.read(json)?;
        let fits = Prices::default().with(self.0, price.0).is_some();
        let advice = "give at most a thousand for one";
        fits.then_some(price).ok_or_else(|| ("too_large", advice.to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        Amount::Any.schema()
    }
}

impl Kind for ByUnit {
    type Value = Prices;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Prices, Wrong> {
        let advice = "give an object of prices by unit";
        self.read_at(json, "").map_err(|_| ("not_prices", advice.to_owned()))
    }

    fn read_at(&self, json: &RawValue, param: &str) -> Result<Prices, Vec<Fault>> {
        read_within(json, param, read_units)
    }

    fn schema(&self) -> RefOr<Schema> {
        let mut units = Shape::default();
        for unit in Unit::ALL {
            units.change(unit.name(), Priced(unit));
        }
        units.build().into()
    }
}

impl Kind for BySize {
    type Value = Vec<(u64, Prices)>;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Self::Value, Wrong> {
        let advice = "give a list of {aboveInputTokens, prices}";
        self.read_at(json, "").map_err(|_| ("not_tiers", advice.to_owned()))
    }

    fn read_at(&self, json: &RawValue, param: &str) -> Result<Self::Value, Vec<Fault>> {
        let items: Vec<&RawValue> = serde_json::from_str(json.get())
            .map_err(|_| vec![Fault::new(param, "not_a_list", "give a list")])?;
        if TIERS_MAX < items.len() {
            let message = format!("give at most {TIERS_MAX}");
            return Err(vec![Fault::new(param, "too_many", message)]);
        }
        let (mut sizes, mut faults) = (Vec::new(), Vec::new());
        for (at, item) in items.into_iter().enumerate() {
            let param = format!("{param}/{at}");
            match read_within(item, &param, read_size) {
                Ok((above, _)) if sizes.iter().any(|(known, _)| *known == above) => {
                    let param = format!("{param}/aboveInputTokens");
                    faults.push(Fault::new(param, "duplicate", "give each size once"));
                }
                Ok(size) => sizes.push(size),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(sizes) } else { Err(faults) }
    }

    fn schema(&self) -> RefOr<Schema> {
        let mut size = Shape::default();
        size.required("aboveInputTokens", SIZES);
        size.required("prices", ByUnit);
        ArrayBuilder::new().items(size.build()).max_items(Some(TIERS_MAX)).into()
    }
}
