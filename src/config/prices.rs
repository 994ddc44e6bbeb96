//! `prices`: exact decimal texts, and the version that names them in every record.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use crate::config::section::Section;
use crate::domain::money::{MalformedMoney, Nano};
use crate::domain::price::Prices;
use crate::domain::tariff::Row;
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

/// Names these prices: the same ones always alike, others differently.
pub fn version(rows: &[Row]) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    for Row { tier, above_input_tokens, prices } in rows {
        if !tier.is_default() || 0 < *above_input_tokens {
            let _ = writeln!(text, "[{} {above_input_tokens}]", tier.name());
        }
        for unit in Unit::ALL {
            if let Some(price) = prices.given(unit) {
                let _ = writeln!(text, "{}={}", unit.name(), price.0);
            }
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
    use crate::domain::usage::ServiceTier;

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
        let row = |above_input_tokens, prices| Row {
            tier: ServiceTier::DEFAULT,
            above_input_tokens,
            prices,
        };
        let of = |prices| version(&[row(0, prices)]);
        assert_eq!(of(with(150_000_000)), of(with(150_000_000)));
        assert_ne!(of(with(150_000_000)), of(with(150_000_001)));
        let other = Prices::default().with(Unit::OutputTokens, 150_000_000).expect("in range");
        assert_ne!(of(with(150_000_000)), of(other));
        let stepped = |above| version(&[row(0, with(1)), row(above, with(2))]);
        assert_ne!(stepped(10), stepped(11));
        let flex = Row { tier: ServiceTier::new("flex").expect("short"), ..row(0, with(1)) };
        assert_ne!(version(&[row(0, with(1)), flex]), of(with(1)));
        // Records name it: it must never change for the same prices.
        assert_eq!(of(with(150_000_000)), "file-4c8adfbe");
    }
}
