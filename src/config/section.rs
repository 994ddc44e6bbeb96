//! A section of the file: takes its keys one by one, notes each fault and goes on.

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

/// What is shared by all sections of one reading.
#[derive(Debug)]
pub struct ConfigReader<'a> {
    environment: &'a Environment,
    origins: BTreeMap<String, String>,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'a> ConfigReader<'a> {
    /// Begins to read; gives the section that holds all others.
    pub fn begin(typed: RawConfig, environment: &'a Environment) -> (Self, Table) {
        let RawConfig { table, origins, errors: faults } = typed;
        (Self { environment, origins, errors: RefCell::new(faults) }, table)
    }

    /// Notes that something is wrong at `path`.
    pub fn error(&self, path: &str, message: impl Into<String>) {
        let mut message = message.into();
        if let Some(variable) = self.origins.get(path) {
            message = format!("{message} (set by the environment variable {variable})");
        }
        self.errors.borrow_mut().push(ConfigError { path: path.to_owned(), message });
    }

    /// `value`, unless there was a fault.
    pub fn finish<T>(self, value: T) -> Result<T, Report> {
        let faults = self.errors.into_inner();
        if faults.is_empty() { Ok(value) } else { Err(Report(faults)) }
    }
}

/// One table of the file.
#[derive(Debug)]
#[must_use = "a section must be ended, so that unknown keys are found"]
pub struct Section<'a> {
    reader: &'a ConfigReader<'a>,
    path: String,
    table: Table,
    keys: Vec<&'static str>,
}

/// The longest secret that is read from a file.
const SECRET_BYTES_MAX: u64 = 65_536;
/// The longest time that can be set: a day.
const TIME_MS_MAX: u64 = 86_400_000;

impl<'a> Section<'a> {
    /// The section of `table`, which stands at `path`; the outermost one at an empty path.
    pub fn new(reader: &'a ConfigReader<'a>, path: String, table: Table) -> Self {
        Self { reader, path, table, keys: Vec::new() }
    }

    /// The path of a key in here.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes that something is wrong with `key`.
    pub fn error(&self, key: &str, message: impl Into<String>) {
        self.reader.error(&self.path_of(key), message);
    }

    /// Whether the key is there and was not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The section at `key`; an empty one when it is absent.
    pub fn section(&mut self, key: &'static str) -> Self {
        let table = match self.take(key) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.error(key, "is not a section; write its keys below [its name]");
                Table::new()
            }
            None => Table::new(),
        };
        Self::new(self.reader, self.path_of(key), table)
    }

    /// The sections of a list; none when it is absent.
    pub fn rows(&mut self, key: &'static str) -> Vec<Self> {
        let rows = match self.take(key) {
            Some(Value::Array(rows)) => rows,
            Some(_) => {
                self.error(key, "is not a list; begin each of its rows with [[its name]]");
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut sections = Vec::new();
        for (at, row) in rows.into_iter().enumerate() {
            let path = format!("{}.{at}", self.path_of(key));
            match row {
                Value::Table(table) => sections.push(Self::new(self.reader, path, table)),
                _ => self.reader.error(&path, "is not a table; write { key = value, … }"),
            }
        }
        sections
    }

    /// A text, if there is one.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::String(_) => {
                self.error(key, "is empty; fill it in or leave the key out");
                None
            }
            _ => {
                self.error(key, "is not a text; put it in quotes");
                None
            }
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str) -> Option<String> {
        if !self.has(key) {
            self.keys.push(key);
            self.error(key, "is missing; add it");
            return None;
        }
        self.text(key)
    }

    /// What `parse` makes of a text; its error says what to do.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|message| self.error(key, message)).ok()
    }

    /// A whole number, if there is one.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.take(key)? {
            Value::Integer(number) => u64::try_from(number).ok(),
            Value::String(text) if self.is_from_environment(key) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.error(key, format!("is not a whole number from {least} to {most}; correct it"));
        }
        number
    }

    /// A size or count that memory can hold.
    pub fn size(&mut self, key: &'static str, default: usize, range: RangeInclusive<u64>) -> usize {
        self.integer(key, range).and_then(|size| usize::try_from(size).ok()).unwrap_or(default)
    }

    /// A time of at most a day, in whole milliseconds.
    pub fn duration_ms(&mut self, key: &'static str, default: u64, min: u64) -> Duration {
        Duration::from_millis(self.integer(key, min..=TIME_MS_MAX).unwrap_or(default))
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let flag = match self.take(key) {
            None => return default,
            Some(Value::Boolean(flag)) => Some(flag),
            Some(Value::String(text)) if self.is_from_environment(key) => text.trim().parse().ok(),
            Some(_) => None,
        };
        flag.unwrap_or_else(|| {
            self.error(key, "is neither true nor false; write one of them, without quotes");
            default
        })
    }

    /// One of a closed list of names.
    pub fn choice<T: Copy>(&mut self, key: &'static str, names: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| parse_choice(text, names))
    }

    /// A list of texts, if there is one.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Value::Array(list) = self.take(key)? else {
            self.error(key, "is not a list; write [\"…\", \"…\"]");
            return None;
        };
        let texts: Option<Vec<String>> =
            list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect();
        if texts.is_none() {
            self.error(key, "holds something that is not a text; put each in quotes");
        }
        texts
    }

    /// Keys that the file's author names, with whatever they hold.
    pub fn open_table(&mut self, key: &'static str) -> Option<Table> {
        match self.take(key)? {
            Value::Table(table) => Some(table),
            _ => {
                self.error(key, "is not a table; write { name = \"…\" }");
                None
            }
        }
    }

    /// A secret, from where the file says it lies; never from the file itself.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        match self.take(key)? {
            Value::String(text) if self.is_from_environment(key) => Some(Secret::new(text)),
            Value::Table(table) => {
                let mut place = Self::new(self.reader, self.path_of(key), table);
                let secret = match (place.text("env"), place.text("file")) {
                    (Some(name), None) => place.secret_from_variable(&name),
                    (None, Some(file)) => place.secret_from_file("file", &file),
                    _ => {
                        self.error(key, SECRET_SHAPE);
                        None
                    }
                };
                place.finish();
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
            self.error("env", format!("the variable {name} is not set; set it or name another"));
        }
        secret.map(|clear| Secret::new(clear.to_owned()))
    }

    /// The content of a file without the line end that editors leave.
    pub fn secret_from_file(&self, key: &str, file: &str) -> Option<Secret> {
        let mut clear = String::new();
        let read = fs::File::open(file)
            .and_then(|open| open.take(SECRET_BYTES_MAX).read_to_string(&mut clear));
        if let Err(fault) = read {
            self.error(key, format!("{file} cannot be read: {fault}; correct the path or rights"));
            return None;
        }
        let kept = clear.trim_end_matches(['\n', '\r']).len();
        clear.truncate(kept);
        if clear.is_empty() {
            self.error(key, format!("{file} is empty; put the secret there"));
            return None;
        }
        Some(Secret::new(clear))
    }

    /// Finds the keys that nobody took.
    pub fn finish(self) {
        let known = self.keys.join(", ");
        for key in self.table.keys() {
            self.error(key, format!("is not a key; the keys here are {known}"));
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

const SECRET_SHAPE: &str = "is not the place of a secret; write { env = \"NAME\" } or \
    { file = \"…\" }: secrets do not stand in the file";

/// What `text` names in a closed list.
pub fn parse_choice<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("is not one of {}; choose one", names.join(", "))
    })
}
