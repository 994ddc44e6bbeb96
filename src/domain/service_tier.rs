//! The tier of service: by which of a model's prices a call is charged.

/// The tier of service that a provider names, in its own word; at most 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceTier([u8; Self::BYTES_MAX]);

impl ServiceTier {
    /// The longest name.
    pub const BYTES_MAX: usize = 16;

    /// None was named.
    pub const DEFAULT: Self = Self([0; Self::BYTES_MAX]);

    /// The tier of that name. `None` of one that is too long, or is no word of letters, digits,
    /// `-` and `_`.
    pub fn new(name: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let mut bytes = [0; Self::BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        name.bytes().all(is_plain).then_some(Self(bytes))
    }

    /// Its name; empty where none was named.
    pub fn name(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::BYTES_MAX);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }

    /// The same in that place (`fast-us`); this one where the name would be too long.
    #[must_use]
    pub fn in_region(self, region: Self) -> Self {
        if self.is_default() {
            return region;
        }
        Self::new(&format!("{}-{}", self.name(), region.name())).unwrap_or(self)
    }

    /// The tiers whose prices may hold, the first first: itself, then what it is made of, which is
    /// `fast` before `us`.
    pub fn fallback_order(self) -> [Self; 3] {
        let (tier, place) = self.name().rsplit_once('-').unwrap_or_default();
        [Some(self), Self::new(tier), Self::new(place)].map(Option::unwrap_or_default)
    }

    /// Whether it is what a call is served by that asks for nothing, whatever it is called.
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
    fn a_tier_keeps_the_word_of_its_provider() {
        let named = |name| ServiceTier::new(name).map(|tier| tier.name().to_owned());
        assert_eq!(named("priority").as_deref(), Some("priority"));
        assert_eq!(named("ON_DEMAND_flex-1x").as_deref(), None, "17 bytes");
        assert_eq!(named("ON_DEMAND_flex-1").as_deref(), Some("ON_DEMAND_flex-1"));
        assert_eq!(named("a tier"), None);
        assert_eq!(ServiceTier::new(""), Some(ServiceTier::DEFAULT));
        let default = |name| ServiceTier::new(name).is_some_and(|tier| tier.is_default());
        assert!(default("standard") && default("auto") && !default("flex"));
        let made = |tier: &str, place| {
            let [tier, place] = [tier, place].map(|name| ServiceTier::new(name).expect("short"));
            tier.in_region(place).fallback_order().map(|tier| tier.name().to_owned())
        };
        assert_eq!(made("fast", "us"), ["fast-us", "fast", "us"]);
        assert_eq!(made("standard", "us"), ["us", "", ""]);
        assert_eq!(made("fifteen_letters", "us"), ["fifteen_letters", "", ""]);
        assert_eq!(
            ServiceTier::new("flex").map(|tier| format!("{tier:?}")),
            Some("\"flex\"".into())
        );
    }
}
