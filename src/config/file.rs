//! The raw configuration: the parsed TOML file, with keys overridden from the environment.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::config::environment::Environment;
use crate::config::report::{ConfigError, Report};

/// Keys and values that have not been checked yet.
#[derive(Debug, Default)]
pub struct RawConfig {
    pub table: Table,
    /// The environment variable that set a key, by the path of the key.
    pub origins: BTreeMap<String, String>,
    /// Errors of variables that cannot be assigned to a key.
    pub errors: Vec<ConfigError>,
}

/// Parses the file's text and applies the environment variables.
pub fn parse_raw(text: &str, environment: &Environment) -> Result<RawConfig, Report> {
    let table = text.parse::<Table>().map_err(|error| syntax_error(text, &error))?;
    let mut raw = RawConfig { table, ..RawConfig::default() };
    for (name, path, value) in environment.config_keys() {
        match parse_value(value).and_then(|value| insert_at_path(&mut raw.table, &path, value)) {
            Ok(path) => {
                raw.origins.insert(path, name.to_owned());
            }
            Err(message) => {
                raw.errors.push(ConfigError { path: name.to_owned(), message: message.to_owned() });
            }
        }
    }
    Ok(raw)
}

/// Reports position and reason of a syntax error, but not the line, which may contain a secret.
fn syntax_error(text: &str, error: &toml::de::Error) -> Report {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = format!("invalid TOML: {}", error.message().replace('\n', " "));
    Report::of(format!("line {line}, column {column}"), message)
}

/// Parses the value of a variable: TOML if it begins like a list or a table, otherwise a string.
fn parse_value(text: &str) -> Result<Value, &'static str> {
    if !text.trim_start().starts_with(['[', '{']) {
        return Ok(Value::String(text.to_owned()));
    }
    let table = format!("value = {}", text.trim()).parse::<Table>();
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut t| t.remove("value"));
    value.ok_or("expected a TOML list or table; correct or unset the variable")
}

/// Inserts `value` at `path` and creates missing tables. A number selects an element of a list.
/// Returns the path in the spelling of the file.
fn insert_at_path(
    table: &mut Table,
    path: &[String],
    value: Value,
) -> Result<String, &'static str> {
    const NO_SUCH_KEY: &str =
        "no such key: a parent key is neither a table nor a list; unset the variable";
    let Some((first, rest)) = path.split_first() else { return Err(NO_SUCH_KEY) };
    if path.iter().any(String::is_empty) {
        return Err("empty name in the key path; separate names by two underscores");
    }
    // Variable names are upper case, price names are mixed case: keep the spelling of the file.
    let spelling = table.keys().find(|key| key.eq_ignore_ascii_case(first));
    let key = spelling.unwrap_or(first).clone();
    let Some((second, deeper)) = rest.split_first() else {
        table.insert(key.clone(), value);
        return Ok(key);
    };
    if let Ok(row) = second.parse::<usize>() {
        let rows = table.entry(&key).or_insert_with(|| Value::Array(Vec::new()));
        let rows = rows.as_array_mut().ok_or(NO_SUCH_KEY)?;
        if rows.len() < row {
            return Err("list index out of range; number the elements from 0 without gaps");
        }
        if rows.len() == row {
            rows.push(Value::Table(Table::new()));
        }
        if deeper.is_empty() {
            rows[row] = value;
            return Ok(format!("{key}.{row}"));
        }
        let inside = rows[row].as_table_mut().ok_or(NO_SUCH_KEY)?;
        return insert_at_path(inside, deeper, value).map(|path| format!("{key}.{row}.{path}"));
    }
    let inside = table.entry(&key).or_insert_with(|| Value::Table(Table::new()));
    let inside = inside.as_table_mut().ok_or(NO_SUCH_KEY)?;
    insert_at_path(inside, rest, value).map(|path| format!("{key}.{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn a_variable_overrides_its_key() {
        let text = "[proxy]\nworkers = 1\n[[models]]\nid = 'a'\nprices = { inputTokens = 1 }\n";
        let raw = parse_raw(
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
        assert_eq!(raw.errors, []);
        let expected = "proxy.workers = '4'\nlog.level = 'debug'\nupstreams = [{ name = 'y' }]\n\
            [[models]]\nid = 'a'\nprices.inputTokens = '0.15'\n[[models]]\nid = 'b'";
        assert_eq!(raw.table, expected.parse().expect("TOML"));
        assert_eq!(
            raw.origins.get("models.0.prices.inputTokens").map(String::as_str),
            Some("METEOR__MODELS__0__PRICES__INPUTTOKENS")
        );
    }

    #[test]
    fn a_variable_without_a_matching_key_is_an_error() {
        let raw = parse_raw(
            "currency = 'USD'",
            &environment(&[
                ("METEOR__CURRENCY__NAME", "x"),
                ("METEOR__MODELS__1__ID", "x"),
                ("METEOR____X", "x"),
                ("METEOR__LOG", "{ level = "),
            ]),
        );
        assert_eq!(raw.expect("TOML").errors.len(), 4);
    }

    #[test]
    fn a_syntax_error_is_reported_by_its_position_only() {
        let report = parse_raw("a = 1\nkey = sk-secret\n", &Environment::default());
        let report = report.expect_err("not TOML").to_string();
        assert!(report.starts_with("line 2, column "), "{report}");
        assert!(!report.contains("sk-secret"), "{report}");
    }
}
