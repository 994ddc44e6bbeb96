//! Anthropic's tier of service: of the name of one, of a speed and of a place, each of which has its
//! price, it is made into one.

use crate::dialect::tier;
use crate::domain::service_tier::ServiceTier;

/// The fields that a request and the usage of an answer have of it.
pub const FIELDS: [&str; 3] = ["service_tier", "speed", "inference_geo"];

/// The speed that is served first and costs more.
const FAST: &str = "fast";

/// Places that are none: the plain price holds.
const UNRESTRICTED_REGIONS: [&str; 3] = ["", "global", "not_available"];

/// How and where a call is to be served, or was.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServedTier {
    tier: Option<ServiceTier>,
    is_fast: bool,
    region: Option<ServiceTier>,
}

impl ServedTier {
    /// Takes one of the [`FIELDS`]. Null says nothing: what was known stands.
    pub fn field(&mut self, key: &str, value: &[u8]) {
        if value == b"null" {
            return;
        }
        let named = tier::parse(value);
        match key {
            "service_tier" => self.tier = named,
            "speed" => self.is_fast = named.is_some_and(|speed| speed.name() == FAST),
            "inference_geo" => {
                self.region = named.filter(|place| !UNRESTRICTED_REGIONS.contains(&place.name()))
            }
            _ => {}
        }
    }

    /// The tier in all: to be fast is the dearer one than any, and a place makes one of its own.
    pub fn tier(&self) -> Option<ServiceTier> {
        let tier = if self.is_fast { ServiceTier::new(FAST) } else { self.tier };
        self.region.map_or(tier, |place| Some(tier.unwrap_or_default().in_region(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_and_a_place_are_tiers() {
        for ([tier, speed, place], named) in [
            (["\"priority\"", "null", "null"], Some("priority")),
            (["\"standard\"", "\"fast\"", "\"global\""], Some("fast")),
            (["\"batch\"", "\"standard\"", "\"not_available\""], Some("batch")),
            (["null", "null", "\"us\""], Some("us")),
            (["\"standard\"", "\"standard\"", "\"us\""], Some("us")),
            (["\"standard\"", "\"fast\"", "\"us\""], Some("fast-us")),
            (["\"priority\"", "null", "\"us\""], Some("priority-us")),
            (["\"auto\"", "null", "\"\""], Some("auto")),
            (["null", "1", "{}"], None),
        ] {
            let mut served = ServedTier::default();
            for (key, value) in FIELDS.into_iter().zip([tier, speed, place]) {
                served.field(key, value.as_bytes());
            }
            let tier = served.tier();
            assert_eq!(tier.as_ref().map(ServiceTier::name), named, "{speed} {place}");
        }
    }
}
