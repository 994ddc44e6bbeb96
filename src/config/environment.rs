//! The environment: read here, once, and nowhere else.

use std::collections::BTreeMap;

/// The variables of the process. Holds secrets, hence prints nothing of them.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// How the name of a variable begins that stands for a key of the file.
pub const PREFIX: &str = "METEOR__";

impl Environment {
    /// That of this process. What is not UTF-8 is not set: no key and no secret can be read of it.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of a variable; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The variables that stand for keys, as (name, path of the key, value), in order.
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
