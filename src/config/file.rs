//! What was typed: the text of the file, with the keys of the environment laid over it.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::config::environment::Environment;
use crate::config::report::{ConfigError, Report};

/// Keys and values, not understood yet.
#[derive(Debug, Default)]
pub struct RawConfig {
    /// The keys.
    pub table: Table,
    /// Which of them came from which variable, by their path.
    pub origins: BTreeMap<String, String>,
    /// Variables that have no place among the keys.
    pub errors: Vec<ConfigError>,
}

/// Reads a text and lays the environment over it.
pub fn parse_raw(text: &str, environment: &Environment) -> Result<RawConfig, Report> {
    let table = text.parse::<Table>().map_err(|fault| syntax_error(text, &fault))?;
    let mut typed = RawConfig { table, ..RawConfig::default() };
    for (name, path, value) in environment.config_keys() {
        match parse_value(value).and_then(|value| insert_at_path(&mut typed.table, &path, value)) {
            Ok(path) => {
                typed.origins.insert(path, name.to_owned());
            }
            Err(message) => {
                typed
                    .errors
                    .push(ConfigError { path: name.to_owned(), message: message.to_owned() });
            }
        }
    }
    Ok(typed)
}

/// Says where and why, without the line itself: a secret may stand in it.
fn syntax_error(text: &str, fault: &toml::de::Error) -> Report {
    let start = fault.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = format!("is not TOML: {}", fault.message().replace('\n', " "));
    Report::of(format!("line {line}, column {column}"), message)
}

/// A variable is the bare value; one that begins as a list or a table is read as TOML.
fn parse_value(text: &str) -> Result<Value, &'static str> {
    if !text.trim_start().starts_with(['[', '{']) {
        return Ok(Value::String(text.to_owned()));
    }
    let table = format!("value = {}", text.trim()).parse::<Table>();
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut t| t.remove("value"));
    value.ok_or("is not a list or table as TOML writes it; correct it or unset the variable")
}

/// Puts `value` at `path`, making tables on the way; a number names a row of a list.
/// Returns the path as the file would spell it.
fn insert_at_path(
    table: &mut Table,
    path: &[String],
    value: Value,
) -> Result<String, &'static str> {
    const NO_PLACE: &str =
        "has no place: a key before its last word is a plain value; unset the variable";
    let Some((first, rest)) = path.split_first() else { return Err(NO_PLACE) };
    if path.iter().any(String::is_empty) {
        return Err("is no path of a key: two underscores stand between words; rename it");
    }
    // Variables have no case, the names of prices have: the spelling of the file wins.
    let spelled = table.keys().find(|key| key.eq_ignore_ascii_case(first));
    let key = spelled.unwrap_or(first).clone();
    let Some((second, deeper)) = rest.split_first() else {
        table.insert(key.clone(), value);
        return Ok(key);
    };
    if let Ok(row) = second.parse::<usize>() {
        let rows = table.entry(&key).or_insert_with(|| Value::Array(Vec::new()));
        let rows = rows.as_array_mut().ok_or(NO_PLACE)?;
        if rows.len() < row {
            return Err("names a row behind the end of its list; number rows from 0, without gaps");
        }
        if rows.len() == row {
            rows.push(Value::Table(Table::new()));
        }
        if deeper.is_empty() {
            rows[row] = value;
            return Ok(format!("{key}.{row}"));
        }
        let inside = rows[row].as_table_mut().ok_or(NO_PLACE)?;
        return insert_at_path(inside, deeper, value).map(|path| format!("{key}.{row}.{path}"));
    }
    let inside = table.entry(&key).or_insert_with(|| Value::Table(Table::new()));
    let inside = inside.as_table_mut().ok_or(NO_PLACE)?;
    insert_at_path(inside, rest, value).map(|path| format!("{key}.{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn a_variable_is_laid_over_its_key() {
        let text = "[proxy]\nworkers = 1\n[[models]]\nid = 'a'\nprices = { inputTokens = 1 }\n";
        let typed = parse_raw(
            text,
            &environment(&[
                ("METEOR__PROXY__WORKERS", "4"),
                ("METEOR__LOG__LEVEL", "debug"),
                ("METEOR__MODELS__0__PRICES__INPUTTOKENS", "0.15"),
                ("METEOR__MODELS__1__ID", "b"),
                ("METEOR__UPSTREAMS", "[{ name = 'x' }]"),
                ("METEOR__UPSTREAMS__0__NAME", "y"),
                ("METEOR__TLS__ROOTS", ""),
                ("METEOR_OTHER", "1"),
            ]),
        )
        .expect("TOML");
        assert_eq!(typed.errors, []);
        let expected = "proxy.workers = '4'\nlog.level = 'debug'\nupstreams = [{ name = 'y' }]\n\
            [[models]]\nid = 'a'\nprices.inputTokens = '0.15'\n[[models]]\nid = 'b'";
        assert_eq!(typed.table, expected.parse().expect("TOML"));
        assert_eq!(
            typed.origins.get("models.0.prices.inputTokens").map(String::as_str),
            Some("METEOR__MODELS__0__PRICES__INPUTTOKENS")
        );
    }

    #[test]
    fn a_variable_without_a_place_is_a_fault() {
        let typed = parse_raw(
            "currency = 'USD'",
            &environment(&[
                ("METEOR__CURRENCY__NAME", "x"),
                ("METEOR__MODELS__1__ID", "x"),
                ("METEOR____X", "x"),
                ("METEOR__LOG", "{ level = "),
            ]),
        );
        assert_eq!(typed.expect("TOML").errors.len(), 4);
    }

    #[test]
    fn a_text_that_is_not_toml_is_told_by_its_place_only() {
        let report = parse_raw("a = 1\nkey = sk-secret\n", &Environment::default());
        let report = report.expect_err("not TOML").to_string();
        assert!(report.starts_with("line 2, column "), "{report}");
        assert!(!report.contains("sk-secret"), "{report}");
    }
}
