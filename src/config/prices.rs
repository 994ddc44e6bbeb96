//! `prices`: exact decimal texts.

use toml::{Table, Value};

use crate::config::section::Section;
use crate::domain::money::{MalformedMoney, Nano};
use crate::domain::price::{Prices, needed};
use crate::domain::usage::Unit;

/// Reads the prices of a row: per million, or per one of what is counted one by one. What every
/// call has must have a price, if only "0": input, and where the model `answers`, output; unless it
/// is priced by the piece alone.
pub fn prices(row: &mut Section<'_>, answers: bool) -> Option<Prices> {
    if !row.has("prices") {
        row.fault("prices", "is missing; write { inputTokens = \"0.15\", … }, \"0\" if it is free");
    }
    let table = row.open_table("prices")?;
    let needed = needed(|unit| table.contains_key(unit.name()), answers);
    for unit in needed.iter().filter(|unit| !table.contains_key(unit.name())) {
        let key = format!("prices.{}", unit.name());
        row.fault(&key, "is missing; write \"0\" if it is free");
    }
    Some(read(row, "prices", table))
}

/// Reads prices of which any may be missing.
pub fn units(row: &mut Section<'_>, key: &'static str) -> Option<Prices> {
    let table = row.open_table(key)?;
    Some(read(row, key, table))
}

fn read(row: &Section<'_>, key: &str, table: Table) -> Prices {
    let mut prices = Prices::default();
    for (name, value) in table {
        match priced(&prices, &name, &value) {
            Ok(with) => prices = with,
            Err(message) => row.fault(&format!("{key}.{name}"), message),
        }
    }
    prices
}

fn priced(prices: &Prices, name: &str, value: &Value) -> Result<Prices, String> {
    let unit = Unit::ALL.into_iter().find(|unit| unit.name() == name).ok_or_else(|| {
        let known: Vec<_> = Unit::ALL.into_iter().map(Unit::name).collect();
        format!("is not a unit; the units are {}", known.join(", "))
    })?;
    let with = prices.with(unit, price(value)?.0);
    with.ok_or_else(|| "is more than a thousand for one; correct it".to_owned())
}

fn price(value: &Value) -> Result<Nano, &'static str> {
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
        let of = |text: &str| price(&text.parse::<toml::Table>().expect("TOML")["p"]);
        assert_eq!(of("p = '0.075'"), Ok(Nano(75_000_000)));
        assert_eq!(of("p = 15"), Ok(Nano::units(15)));
        for text in ["0.15", "'-1'", "'1e3'", "'0.0000000001'", "-1", "true", "9000000001"] {
            assert!(of(&format!("p = {text}")).is_err(), "{text}");
        }
    }
}
