//! Typed access to a section of the configuration. Errors are collected, not returned one by one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use crate::config::environment::Environment;
use crate::config::file::RawConfig;
use crate::config::report::{ConfigError, Report};
use crate::settings::secret::Secret;

/// State shared by all sections of a configuration: environment and collected errors.
#[derive(Debug)]
pub struct ConfigReader<'a> {
    environment: &'a Environment,
    origins: BTreeMap<String, String>,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> ConfigReader<'a> {
    /// Creates a reader and returns the root table with it.
    pub fn begin(raw: RawConfig, environment: &'a Environment) -> (Self, Table) {
        let RawConfig { table, origins, errors } = raw;
        (Self { environment, origins, errors: RefCell::new(errors) }, table)
    }

    /// Records an error at `path`.
    pub fn error(&self, path: &str, message: impl Into<String>) {
        let mut message = message.into();
        if let Some(variable) = self.origins.get(path) {
            message = format!("{message} (set by the environment variable {variable})");
        }
        self.errors.borrow_mut().push(ConfigError { path: path.to_owned(), message });
    }

    /// Returns `value`, or the report if any error was recorded.
    pub fn finish<T>(self, value: T) -> Result<T, Report> {
        let errors = self.errors.into_inner();
        if errors.is_empty() { Ok(value) } else { Err(Report(errors)) }
    }
}

/// One table of the configuration.
#[derive(Debug)]
#[must_use = "call `finish` to report unknown keys"]
pub struct Section<'a> {
    reader: &'a ConfigReader<'a>,
    path: String,
    table: Table,
    keys: Vec<&'static str>,
}

/// The maximum size of a secret file.
const SECRET_BYTES_MAX: u64 = 65_536;
/// The maximum duration of a setting: one day.
const TIME_MS_MAX: u64 = 86_400_000;

impl<'a> Section<'a> {
    /// Returns the section of `table`, located at `path`. The root section has an empty path.
    pub fn new(reader: &'a ConfigReader<'a>, path: String, table: Table) -> Self {
        Self { reader, path, table, keys: Vec::new() }
    }

    /// Returns the full path of a key of this section.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Records an error of `key`.
    pub fn error(&self, key: &str, message: impl Into<String>) {
        self.reader.error(&self.path_of(key), message);
    }

    /// Returns whether the key is present and has not been read yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reads the section at `key`; empty if absent.
    pub fn section(&mut self, key: &'static str) -> Self {
        let table = match self.take(key) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.error(key, "expected a table; write its keys under a [section] header");
                Table::new()
            }
            None => Table::new(),
        };
        Self::new(self.reader, self.path_of(key), table)
    }

    /// Reads a list of tables; empty if absent.
    pub fn rows(&mut self, key: &'static str) -> Vec<Self> {
        let rows = match self.take(key) {
            Some(Value::Array(rows)) => rows,
            Some(_) => {
                self.error(key, "expected a list of tables; begin each one with a [[name]] header");
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut sections = Vec::new();
        for (index, row) in rows.into_iter().enumerate() {
            let path = format!("{}.{index}", self.path_of(key));
            match row {
                Value::Table(table) => sections.push(Self::new(self.reader, path, table)),
                _ => self.reader.error(&path, "expected a table, for example { key = value }"),
            }
        }
        sections
    }

    /// Reads an optional string.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::String(_) => {
                self.error(key, "must not be empty; set a value or remove the key");
                None
            }
            _ => {
                self.error(key, "expected a string; put the value in quotes");
                None
            }
        }
    }

    /// Reads a required string.
    pub fn required_text(&mut self, key: &'static str) -> Option<String> {
        if !self.has(key) {
            self.keys.push(key);
            self.error(key, "missing required key");
            return None;
        }
        self.text(key)
    }

    /// Reads an optional string and converts it with `parse`, whose error is the message to report.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|message| self.error(key, message)).ok()
    }

    /// Reads an optional integer within `range`.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.take(key)? {
            Value::Integer(number) => u64::try_from(number).ok(),
            Value::String(text) if self.is_from_environment(key) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (min, max) = (range.start(), range.end());
            self.error(key, format!("expected an integer from {min} to {max}"));
        }
        number
    }

    /// Reads a size or count that fits `usize`.
    pub fn size(&mut self, key: &'static str, default: usize, range: RangeInclusive<u64>) -> usize {
        self.integer(key, range).and_then(|size| usize::try_from(size).ok()).unwrap_or(default)
    }

    /// Reads a duration in whole milliseconds, at most one day.
    pub fn duration_ms(&mut self, key: &'static str, default: u64, min: u64) -> Duration {
        Duration::from_millis(self.integer(key, min..=TIME_MS_MAX).unwrap_or(default))
    }

    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let flag = match self.take(key) {
            None => return default,
            Some(Value::Boolean(flag)) => Some(flag),
            Some(Value::String(text)) if self.is_from_environment(key) => text.trim().parse().ok(),
            Some(_) => None,
        };
        flag.unwrap_or_else(|| {
            self.error(key, "expected true or false, without quotes");
            default
        })
    }

    /// Reads one of a fixed list of names.
    pub fn choice<T: Copy>(&mut self, key: &'static str, names: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| parse_choice(text, names))
    }

    /// Reads an optional list of strings.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Value::Array(list) = self.take(key)? else {
            self.error(key, "expected a list of strings, for example [\"a\", \"b\"]");
            return None;
        };
        let texts: Option<Vec<String>> =
            list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect();
        if texts.is_none() {
            self.error(key, "expected a list of strings; put each value in quotes");
        }
        texts
    }

    /// Reads a table with arbitrary keys and values.
    pub fn open_table(&mut self, key: &'static str) -> Option<Table> {
        match self.take(key)? {
            Value::Table(table) => Some(table),
            _ => {
                self.error(key, "expected a table, for example { name = \"value\" }");
                None
            }
        }
    }

    /// Reads a secret from the environment variable or file that the configuration names. The
    /// configuration file itself must not contain secrets.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        match self.take(key)? {
            Value::String(text) if self.is_from_environment(key) => Some(Secret::new(text)),
            Value::Table(table) => {
                let mut source = Self::new(self.reader, self.path_of(key), table);
                let secret = match (source.text("env"), source.text("file")) {
                    (Some(name), None) => source.secret_from_variable(&name),
                    (None, Some(file)) => source.secret_from_file("file", &file),
                    _ => {
                        self.error(key, SECRET_SHAPE);
                        None
                    }
                };
                source.finish();
                secret
            }
            _ => {
                self.error(key, SECRET_SHAPE);
                None
            }
        }
    }

    fn secret_from_variable(&self, name: &str) -> Option<Secret> {
        let secret = self.reader.environment.get(name);
        if secret.is_none() {
            self.error("env", format!("environment variable {name} is not set"));
        }
        secret.map(|secret_text| Secret::new(secret_text.to_owned()))
    }

    /// Reads a secret file, without trailing line ends.
    pub fn secret_from_file(&self, key: &str, file: &str) -> Option<Secret> {
        let mut secret_text = String::new();
        let read = fs::File::open(file)
            .and_then(|open| open.take(SECRET_BYTES_MAX).read_to_string(&mut secret_text));
        if let Err(error) = read {
            self.error(key, format!("cannot read {file}: {error}"));
            return None;
        }
        let length = secret_text.trim_end_matches(['\n', '\r']).len();
        secret_text.truncate(length);
        if secret_text.is_empty() {
            self.error(key, format!("{file} is empty; expected a secret"));
            return None;
        }
        Some(Secret::new(secret_text))
    }

    /// Reports the keys that were not read as unknown.
    pub fn finish(self) {
        let valid = self.keys.join(", ");
        for key in self.table.keys() {
            self.error(key, format!("unknown key; valid keys: {valid}"));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.keys.push(key);
        self.table.remove(key)
    }

    fn is_from_environment(&self, key: &str) -> bool {
        self.reader.origins.contains_key(&self.path_of(key))
    }
}

const SECRET_SHAPE: &str = "expected { env = \"NAME\" } or { file = \"PATH\" }; secrets are \
    not allowed in the configuration file";

/// Returns the value that `text` names in a fixed list.
pub fn parse_choice<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("expected one of {}", names.join(", "))
    })
}
