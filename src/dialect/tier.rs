//! The tier of service, as requests ask for it and answers name it.

use crate::dialect::json;
use crate::domain::service_tier::ServiceTier;

/// The tier that a JSON value names, if it does.
pub fn parse(value: &[u8]) -> Option<ServiceTier> {
    json::string_of(value).and_then(|name| ServiceTier::new(&name))
}
