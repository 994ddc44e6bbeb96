//! The error report of a configuration: every error with the path of its key.

use std::fmt;

/// One error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The position: `proxy.listen`, `models.0.prices.inputTokens`, `line 3, column 7`.
    pub path: String,
    /// The problem and its remedy. Never contains a configured value that may be a secret.
    pub message: String,
}

/// All errors of a configuration; never empty. Printed one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report(pub Vec<ConfigError>);

impl Report {
    /// Returns the report of a single error.
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
