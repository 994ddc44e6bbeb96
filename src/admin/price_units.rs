//! Prices on the wire: by unit, and by the size of the input.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, Schema};

use crate::admin::body::{BodyReader, BodySchema, read_nested};
use crate::admin::field_type::{FieldType, IntegerIn, InvalidValue, MoneyAmount};
use crate::admin::scalar::Money;
use crate::domain::money::Nano;
use crate::domain::price::PriceTable;
use crate::domain::usage::Unit;
use crate::organization::error::FieldError;

/// The price of a unit.
#[derive(Debug, Clone, Copy)]
struct UnitPrice(Unit);

/// An object of prices by unit.
#[derive(Debug, Clone, Copy)]
pub struct PricesByUnit;

/// The prices with more input than so many tokens, none of a size twice.
#[derive(Debug, Clone, Copy)]
pub struct PriceTiers;

const TIERS_MAX: usize = 20;
/// More input than any model reads.
const TIER_BOUND: IntegerIn = IntegerIn(1, 100_000_000);
/// Prices as they are told.
pub fn prices_by_unit(prices: &PriceTable) -> BTreeMap<&'static str, Money> {
    let price = |unit: Unit| Some((unit.name(), Money(prices.price_of(unit)?)));
    Unit::ALL.into_iter().filter_map(price).collect()
}

fn read_prices(fields: &mut BodyReader) -> Option<PriceTable> {
    let mut prices = Some(PriceTable::default());
    for unit in Unit::ALL {
        let price = fields.optional_update(unit.name(), UnitPrice(unit));
        prices = prices.and_then(|prices| match price? {
            Some(price) => prices.with(unit, price.0),
            None => Some(prices),
        });
    }
    prices
}

fn read_tier(fields: &mut BodyReader) -> Option<(u64, PriceTable)> {
    let above = fields.required("aboveInputTokens", TIER_BOUND);
    let prices = fields.required("prices", PricesByUnit);
    Some((u64::try_from(above?).ok()?, prices?))
}

impl FieldType for UnitPrice {
    type Value = Nano;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Nano, InvalidValue> {
        let price = MoneyAmount::NonNegative.read(json)?;
        let fits = PriceTable::default().with(self.0, price.0).is_some();
        let advice = "give at most a thousand for one";
        fits.then_some(price).ok_or_else(|| ("too_large", advice.to_owned()))
    }

    fn schema(&self) -> RefOr<Schema> {
        MoneyAmount::NonNegative.schema()
    }
}

impl FieldType for PricesByUnit {
    type Value = PriceTable;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<PriceTable, InvalidValue> {
        let advice = "give an object of prices by unit";
        self.read_at(json, "").map_err(|_| ("not_prices", advice.to_owned()))
    }

    fn read_at(&self, json: &RawValue, param: &str) -> Result<PriceTable, Vec<FieldError>> {
        read_nested(json, param, read_prices)
    }

    fn schema(&self) -> RefOr<Schema> {
        let mut units = BodySchema::default();
        for unit in Unit::ALL {
            units.optional_update(unit.name(), UnitPrice(unit));
        }
        units.build().into()
    }
}

impl FieldType for PriceTiers {
    type Value = Vec<(u64, PriceTable)>;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Self::Value, InvalidValue> {
        let advice = "give a list of {aboveInputTokens, prices}";
        self.read_at(json, "").map_err(|_| ("not_tiers", advice.to_owned()))
    }

    fn read_at(&self, json: &RawValue, param: &str) -> Result<Self::Value, Vec<FieldError>> {
        let items: Vec<&RawValue> = serde_json::from_str(json.get())
            .map_err(|_| vec![FieldError::new(param, "not_a_list", "give a list")])?;
        if TIERS_MAX < items.len() {
            let message = format!("give at most {TIERS_MAX}");
            return Err(vec![FieldError::new(param, "too_many", message)]);
        }
        let (mut sizes, mut faults) = (Vec::new(), Vec::new());
        for (at, item) in items.into_iter().enumerate() {
            let param = format!("{param}/{at}");
            match read_nested(item, &param, read_tier) {
                Ok((above, _)) if sizes.iter().any(|(known, _)| *known == above) => {
                    let param = format!("{param}/aboveInputTokens");
                    faults.push(FieldError::new(param, "duplicate", "give each size once"));
                }
                Ok(size) => sizes.push(size),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(sizes) } else { Err(faults) }
    }

    fn schema(&self) -> RefOr<Schema> {
        let mut size = BodySchema::default();
        size.required("aboveInputTokens", TIER_BOUND);
        size.required("prices", PricesByUnit);
        ArrayBuilder::new().items(size.build()).max_items(Some(TIERS_MAX)).into()
    }
}
