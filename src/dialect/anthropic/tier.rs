//! Combines Anthropic's service tier, speed and region into one service tier, because each has its
//! own price.

use crate::dialect::tier;
use crate::domain::service_tier::ServiceTier;

/// The fields of a request, and of the usage of a response, that select the tier.
pub const FIELDS: [&str; 3] = ["service_tier", "speed", "inference_geo"];

/// The speed with priority and a higher price.
const FAST: &str = "fast";

/// Values of the region for which the regular price applies.
const UNRESTRICTED_REGIONS: [&str; 3] = ["", "global", "not_available"];

/// The tier, speed and region that a request selects or a response reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServedTier {
    tier: Option<ServiceTier>,
    is_fast: bool,
    region: Option<ServiceTier>,
}

impl ServedTier {
    /// Reads one of the [`FIELDS`]. A null leaves the earlier value.
    pub fn field(&mut self, key: &str, value: &[u8]) {
        if value == b"null" {
            return;
        }
        let named = tier::parse(value);
        match key {
            "service_tier" => self.tier = named,
            "speed" => self.is_fast = named.is_some_and(|speed| speed.name() == FAST),
            "inference_geo" => {
                self.region = named.filter(|region| !UNRESTRICTED_REGIONS.contains(&region.name()));
            }
            _ => {}
        }
    }

    /// Returns the combined tier. The fast speed costs more than any tier, so it replaces the tier;
    /// a region makes a tier of its own.
    pub fn tier(&self) -> Option<ServiceTier> {
        let tier = if self.is_fast { ServiceTier::new(FAST) } else { self.tier };
        self.region.map_or(tier, |region| Some(tier.unwrap_or_default().in_region(region)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_region_are_part_of_the_tier() {
        for ([tier, speed, region], named) in [
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
            for (key, value) in FIELDS.into_iter().zip([tier, speed, region]) {
                served.field(key, value.as_bytes());
            }
            let tier = served.tier();
            assert_eq!(tier.as_ref().map(ServiceTier::name), named, "{speed} {region}");
        }
    }
}
