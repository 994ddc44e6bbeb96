//! The report: every fault of a configuration at once, each with the path of its key.

use std::fmt;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where: `proxy.listen`, `models.0.prices.inputTokens`, `line 3, column 7`.
    pub path: String,
    /// What is wrong and what to do. Never holds a configured value that may be a secret.
    pub message: String,
}

/// Every fault of a configuration, one a line. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report(pub Vec<ConfigError>);

impl Report {
    /// The report of a single fault.
    pub fn of(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![ConfigError { path: path.into(), message: message.into() }])
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, ConfigError { path, message }) in self.0.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{path}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
