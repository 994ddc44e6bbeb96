//! `prices`: exact decimal texts.

use toml::{Table, Value};

use crate::config::section::Section;
use crate::domain::money::{MalformedMoney, Nano};
use crate::domain::price::{PriceTable, required_units};
use crate::domain::usage::Unit;

/// Reads the prices of a row: per million, or per one of what is counted one by one. What every
/// call has must have a price, if only "0": input, and where the model `answers`, output; unless it
/// is priced by the piece alone.
pub fn read_price_table(row: &mut Section<'_>, has_output: bool) -> Option<PriceTable> {
    if !row.has("prices") {
        row.error("prices", "is missing; write { inputTokens = \"0.15\", … }, \"0\" if it is free");
    }
    let table = row.open_table("prices")?;
    let needed = required_units(|unit| table.contains_key(unit.name()), has_output);
    for unit in needed.iter().filter(|unit| !table.contains_key(unit.name())) {
        let key = format!("prices.{}", unit.name());
        row.error(&key, "is missing; write \"0\" if it is free");
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
        let known: Vec<_> = Unit::ALL.into_iter().map(Unit::name).collect();
        format!("is not a unit; the units are {}", known.join(", "))
    })?;
    let with = prices.with(unit, parse_price(value)?.0);
    with.ok_or_else(|| "is more than a thousand for one; correct it".to_owned())
}

fn parse_price(value: &Value) -> Result<Nano, &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(_) => {
            return Err("is a binary fraction, which is not exact; put it in quotes");
        }
        _ => return Err("is not a price; write it as \"0.15\""),
    };
    Nano::parse(&text).map_err(|fault| match fault {
        MalformedMoney::NotDecimal => "is not a price; write it as \"0.15\"",
        MalformedMoney::TooFine => "has more than nine decimals; round it",
        MalformedMoney::TooLarge => "is too large; correct it",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact_texts_or_whole_numbers() {
        let of = |text: &str| parse_price(&text.parse::<toml::Table>().expect("TOML")["p"]);
        assert_eq!(of("p = '0.075'"), Ok(Nano(75_000_000)));
        assert_eq!(of("p = 15"), Ok(Nano::units(15)));
        for text in ["0.15", "'-1'", "'1e3'", "'0.0000000001'", "-1", "true", "9000000001"] {
            assert!(of(&format!("p = {text}")).is_err(), "{text}");
        }
    }
}
