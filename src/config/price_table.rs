//! Reads a `prices` table: a price per unit, as exact decimal text.

use toml::{Table, Value};

use crate::config::section::Section;
use crate::domain::money::{MalformedMoney, Nano};
use crate::domain::price::{PriceTable, required_units};
use crate::domain::usage::Unit;

/// Reads the `prices` of a model: per million, or per item for units billed per item.
/// Reports missing prices of the [required units](required_units).
pub fn read_price_table(row: &mut Section<'_>, has_output: bool) -> Option<PriceTable> {
    if !row.has("prices") {
        row.error("prices", "missing; write { inputTokens = \"0.15\", … }, \"0\" if it is free");
    }
    let table = row.open_table("prices")?;
    let required = required_units(|unit| table.contains_key(unit.name()), has_output);
    for unit in required.iter().filter(|unit| !table.contains_key(unit.name())) {
        let key = format!("prices.{}", unit.name());
        row.error(&key, "missing price; write \"0\" if it is free");
    }
    Some(parse_table(row, "prices", table))
}

/// Reads prices of which any may be missing.
pub fn read_partial_table(row: &mut Section<'_>, key: &'static str) -> Option<PriceTable> {
    let table = row.open_table(key)?;
    Some(parse_table(row, key, table))
}

fn parse_table(row: &Section<'_>, key: &str, table: Table) -> PriceTable {
    let mut prices = PriceTable::default();
    for (name, value) in table {
        match with_price(&prices, &name, &value) {
            Ok(with) => prices = with,
            Err(message) => row.error(&format!("{key}.{name}"), message),
        }
    }
    prices
}

fn with_price(prices: &PriceTable, name: &str, value: &Value) -> Result<PriceTable, String> {
    let unit = Unit::ALL.into_iter().find(|unit| unit.name() == name).ok_or_else(|| {
        let names: Vec<_> = Unit::ALL.into_iter().map(Unit::name).collect();
        format!("unknown unit; valid units: {}", names.join(", "))
    })?;
    let with = prices.with(unit, parse_price(value)?.0);
    with.ok_or_else(|| "price is above the maximum of 1000 for one unit".to_owned())
}

fn parse_price(value: &Value) -> Result<Nano, &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(_) => {
            return Err("floating-point numbers are not exact; put the price in quotes");
        }
        _ => return Err("expected a decimal price such as \"0.15\""),
    };
    Nano::parse(&text).map_err(|error| match error {
        MalformedMoney::NotDecimal => "expected a decimal price such as \"0.15\"",
        MalformedMoney::TooFine => "price has more than nine decimals",
        MalformedMoney::TooLarge => "price is too large",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact_decimal_strings_or_integers() {
        let of = |text: &str| parse_price(&text.parse::<toml::Table>().expect("TOML")["p"]);
        assert_eq!(of("p = '0.075'"), Ok(Nano(75_000_000)));
        assert_eq!(of("p = 15"), Ok(Nano::units(15)));
        for text in ["0.15", "'-1'", "'1e3'", "'0.0000000001'", "-1", "true", "9000000001"] {
            assert!(of(&format!("p = {text}")).is_err(), "{text}");
        }
    }
}
