//! Wire format of prices: by unit, and by input size.

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

/// The field type of an object of prices by unit.
#[derive(Debug, Clone, Copy)]
pub struct PricesByUnit;

/// The field type of a list of prices above an input size. Duplicate sizes are rejected.
#[derive(Debug, Clone, Copy)]
pub struct PriceTiers;

const TIERS_MAX: usize = 20;
const TIER_BOUND: IntegerIn = IntegerIn { min: 1, max: 100_000_000 };

/// Returns the explicit prices by unit name.
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
        let advice = "expected at most 1000 for one unit";
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
        let advice = "expected an object of prices by unit";
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
        let advice = "expected a list of {aboveInputTokens, prices}";
        self.read_at(json, "").map_err(|_| ("not_tiers", advice.to_owned()))
    }

    fn read_at(&self, json: &RawValue, param: &str) -> Result<Self::Value, Vec<FieldError>> {
        let items: Vec<&RawValue> = serde_json::from_str(json.get())
            .map_err(|_| vec![FieldError::new(param, "not_a_list", "expected a list")])?;
        if TIERS_MAX < items.len() {
            let message = format!("expected at most {TIERS_MAX} tiers");
            return Err(vec![FieldError::new(param, "too_many", message)]);
        }
        let (mut tiers, mut errors) = (Vec::new(), Vec::new());
        for (index, item) in items.into_iter().enumerate() {
            let param = format!("{param}/{index}");
            match read_nested(item, &param, read_tier) {
                Ok((above, _)) if tiers.iter().any(|(other, _)| *other == above) => {
                    let param = format!("{param}/aboveInputTokens");
                    errors.push(FieldError::new(param, "duplicate", "duplicate input size"));
                }
                Ok(tier) => tiers.push(tier),
                Err(more) => errors.extend(more),
            }
        }
        if errors.is_empty() { Ok(tiers) } else { Err(errors) }
    }

    fn schema(&self) -> RefOr<Schema> {
        let mut tier = BodySchema::default();
        tier.required("aboveInputTokens", TIER_BOUND);
        tier.required("prices", PricesByUnit);
        ArrayBuilder::new().items(tier.build()).max_items(Some(TIERS_MAX)).into()
    }
}
