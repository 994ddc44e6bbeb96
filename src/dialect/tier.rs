//! Reads the name of a service tier from requests and responses.

use crate::dialect::json;
use crate::domain::service_tier::ServiceTier;

/// Returns the tier that a JSON value names, if it is a valid name.
pub fn parse(value: &[u8]) -> Option<ServiceTier> {
    json::string_of(value).and_then(|name| ServiceTier::new(&name))
}
