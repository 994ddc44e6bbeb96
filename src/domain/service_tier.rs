//! Service tiers: the provider's class of service that selects a model's prices.

/// A service tier by the provider's name for it, at most 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceTier([u8; Self::BYTES_MAX]);

impl ServiceTier {
    /// The maximum length of a name.
    pub const BYTES_MAX: usize = 16;

    /// The tier of a call that names none.
    pub const DEFAULT: Self = Self([0; Self::BYTES_MAX]);

    /// Returns the tier of that name. `None` if the name is too long or contains anything except
    /// ASCII letters, digits, `-` and `_`.
    pub fn new(name: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        name.bytes().all(is_plain).then_some(Self(bytes))
    }

    /// Returns the name; empty for [`DEFAULT`](Self::DEFAULT).
    pub fn name(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::BYTES_MAX);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }

    /// Returns this tier in a region, such as `fast-us`. Returns the tier unchanged if the name
    /// would be too long.
    #[must_use]
    pub fn in_region(self, region: Self) -> Self {
        if self.is_default() {
            return region;
        }
        Self::new(&format!("{}-{}", self.name(), region.name())).unwrap_or(self)
    }

    /// Returns the tiers to look up prices by, in order: the tier itself, then its components. For
    /// `fast-us` these are `fast-us`, `fast`, `us`; missing ones are the default tier.
    pub fn fallback_order(self) -> [Self; 3] {
        let (tier, region) = self.name().rsplit_once('-').unwrap_or_default();
        [Some(self), Self::new(tier), Self::new(region)].map(Option::unwrap_or_default)
    }

    /// Returns whether this is the tier of a call that requests none, under any of its names.
    pub fn is_default(&self) -> bool {
        matches!(self.name(), "" | "default" | "standard" | "standard_only" | "auto" | "on_demand")
    }
}

impl std::fmt::Debug for ServiceTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_preserves_the_name_that_the_provider_uses() {
        let named = |name| ServiceTier::new(name).map(|tier| tier.name().to_owned());
        assert_eq!(named("priority").as_deref(), Some("priority"));
        assert_eq!(named("ON_DEMAND_flex-1x").as_deref(), None, "17 bytes");
        assert_eq!(named("ON_DEMAND_flex-1").as_deref(), Some("ON_DEMAND_flex-1"));
        assert_eq!(named("a tier"), None);
        assert_eq!(ServiceTier::new(""), Some(ServiceTier::DEFAULT));
        let default = |name| ServiceTier::new(name).is_some_and(|tier| tier.is_default());
        assert!(default("standard") && default("auto") && !default("flex"));
        let order = |tier: &str, region| {
            let [tier, region] = [tier, region].map(|name| ServiceTier::new(name).expect("short"));
            tier.in_region(region).fallback_order().map(|tier| tier.name().to_owned())
        };
        assert_eq!(order("fast", "us"), ["fast-us", "fast", "us"]);
        assert_eq!(order("standard", "us"), ["us", "", ""]);
        assert_eq!(order("fifteen_letters", "us"), ["fifteen_letters", "", ""]);
        assert_eq!(
            ServiceTier::new("flex").map(|tier| format!("{tier:?}")),
            Some("\"flex\"".into())
        );
    }
}
