//! `prices`: exact decimal texts, and the version that names them in every record.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use toml::Value;

use crate::config::section::Section;
use crate::domain::money::{MalformedMoney, Nano};
use crate::domain::price::Prices;
use crate::domain::usage::Unit;

/// What a call can be priced by instead of tokens.
const PIECES: [Unit; 3] = [Unit::Images, Unit::AudioSeconds, Unit::Characters];

/// Reads the prices of a row: per million, or per one of what is counted one by one. What every
/// call has must have a price, if only "0": input, and where the model `answers`, output; unless it
/// is priced by the piece alone.
pub fn prices(row: &mut Section<'_>, answers: bool) -> Option<Prices> {
    if !row.has("prices") {
        row.fault("prices", "is missing; write { inputTokens = \"0.15\", … }, \"0\" if it is free");
    }
    let table = row.open_table("prices")?;
    let by_the_piece = |name: &String| PIECES.iter().any(|unit| unit.name() == name);
    let needed: &[Unit] = match answers {
        _ if !table.is_empty() && table.keys().all(by_the_piece) => &[],
        true => &[Unit::InputTokens, Unit::OutputTokens],
        false => &[Unit::InputTokens],
    };
    for unit in needed.iter().filter(|unit| !table.contains_key(unit.name())) {
        let key = format!("prices.{}", unit.name());
        row.fault(&key, "is missing; write \"0\" if it is free");
    }
    let mut prices = Prices::default();
    for (name, value) in table {
        match priced(&prices, &name, &value) {
            Ok(with) => prices = with,
            Err(message) => row.fault(&format!("prices.{name}"), message),
        }
    }
    Some(prices)
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

/// Names these prices: the same ones always alike, others differently.
pub fn version(prices: &Prices) -> String {
    let mut text = String::new();
    for unit in Unit::ALL {
        if let Some(price) = prices.given(unit) {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{}={}", unit.name(), price.0);
        }
    }
    let hash = Sha256::digest(text.as_bytes());
    hash[..4].iter().fold("file-".to_owned(), |mut version, byte| {
        let _ = write!(version, "{byte:02x}");
        version
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

    #[test]
    fn the_version_names_the_prices() {
        let with = |nano| Prices::default().with(Unit::InputTokens, nano).expect("in range");
        assert_eq!(version(&with(150_000_000)), version(&with(150_000_000)));
        assert_ne!(version(&with(150_000_000)), version(&with(150_000_001)));
        let other = Prices::default().with(Unit::OutputTokens, 150_000_000).expect("in range");
        assert_ne!(version(&with(150_000_000)), version(&other));
        // Records name it: it must never change for the same prices.
        assert_eq!(version(&with(150_000_000)), "file-4c8adfbe");
    }
}
