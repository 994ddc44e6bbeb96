//! Secrets: text that is wiped when dropped and never printed.

use std::fmt;

use zeroize::Zeroizing;

/// A secret in clear. Prints as `***`, whatever the format.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over `clear`.
    pub fn new(clear: String) -> Self {
        Self(Zeroizing::new(clear))
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
