//! The environment variables of the process; no other module reads them.

use std::collections::BTreeMap;

/// Environment variables. May contain secrets, so `Debug` prints only their number.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// The prefix of variables that set a configuration key.
pub const PREFIX: &str = "METEOR__";

impl Environment {
    /// Reads the environment of this process. Ignores variables that are not UTF-8, because they
    /// can be neither keys nor secrets.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Returns the value of a variable. An empty value counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the variables that set configuration keys as (name, key path, value), sorted by
    /// name.
    pub fn config_keys(&self) -> impl Iterator<Item = (&str, Vec<String>, &str)> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
            let path = name.strip_prefix(PREFIX)?;
            let path = path.split("__").map(str::to_ascii_lowercase).collect();
            Some((name.as_str(), path, value.as_str()))
        })
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} variables", self.0.len())
    }
}
