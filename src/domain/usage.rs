//! Usage: what a call did use, in the units that prices, records and metrics share.

/// What is counted. A part is included in its total; parts of one total may overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Unit {
    /// All input, cached and cache-written tokens included.
    InputTokens,
    /// All that is billed as output, reasoning included.
    OutputTokens,
    /// Part of the input: read from a cache.
    CachedInputTokens,
    /// Part of the input: written to a cache.
    CacheWriteTokens,
    /// Part of the cache writes: kept for five minutes.
    CacheWrite5mTokens,
    /// Part of the cache writes: kept for an hour.
    CacheWrite1hTokens,
    /// Part of the input.
    InputAudioTokens,
    /// Part of the input.
    InputImageTokens,
    /// Part of the input: what hosted tools put into the prompt.
    ToolUseInputTokens,
    /// Part of the output: hidden from the client.
    ReasoningTokens,
    /// Part of the output.
    OutputAudioTokens,
    /// Part of the output.
    OutputImageTokens,
    /// Searches a hosted tool made.
    WebSearches,
    /// Images made.
    Images,
    /// Seconds of audio heard or made.
    AudioSeconds,
    /// Characters spoken.
    Characters,
    /// Searches of stored files that a hosted tool made.
    FileSearches,
    /// Containers in which a hosted tool ran code.
    CodeSessions,
    /// Part of what was read from a cache, and of the audio of the input.
    CachedInputAudioTokens,
    /// Part of what was read from a cache, and of the images of the input.
    CachedInputImageTokens,
}

impl Unit {
    /// How many units there are.
    pub const COUNT: usize = 20;

    /// Every unit, in the order of its discriminant, which the journal writes: new ones come last.
    pub const ALL: [Self; Self::COUNT] = [
        Self::InputTokens,
        Self::OutputTokens,
        Self::CachedInputTokens,
        Self::CacheWriteTokens,
        Self::CacheWrite5mTokens,
        Self::CacheWrite1hTokens,
        Self::InputAudioTokens,
        Self::InputImageTokens,
        Self::ToolUseInputTokens,
        Self::ReasoningTokens,
        Self::OutputAudioTokens,
        Self::OutputImageTokens,
        Self::WebSearches,
        Self::Images,
        Self::AudioSeconds,
        Self::Characters,
        Self::FileSearches,
        Self::CodeSessions,
        Self::CachedInputAudioTokens,
        Self::CachedInputImageTokens,
    ];

    /// The name in the API, the price catalog and the request log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputTokens => "inputTokens",
            Self::OutputTokens => "outputTokens",
            Self::CachedInputTokens => "cachedInputTokens",
            Self::CacheWriteTokens => "cacheWriteTokens",
            Self::CacheWrite5mTokens => "cacheWrite5mTokens",
            Self::CacheWrite1hTokens => "cacheWrite1hTokens",
            Self::InputAudioTokens => "inputAudioTokens",
            Self::InputImageTokens => "inputImageTokens",
            Self::ToolUseInputTokens => "toolUseInputTokens",
            Self::ReasoningTokens => "reasoningTokens",
            Self::OutputAudioTokens => "outputAudioTokens",
            Self::OutputImageTokens => "outputImageTokens",
            Self::WebSearches => "webSearches",
            Self::Images => "images",
            Self::AudioSeconds => "audioSeconds",
            Self::Characters => "characters",
            Self::FileSearches => "fileSearches",
            Self::CodeSessions => "codeSessions",
            Self::CachedInputAudioTokens => "cachedInputAudioTokens",
            Self::CachedInputImageTokens => "cachedInputImageTokens",
        }
    }

    /// The total that this unit is a part of.
    pub const fn total(self) -> Option<Self> {
        match self {
            Self::CachedInputTokens
            | Self::CacheWriteTokens
            | Self::InputAudioTokens
            | Self::InputImageTokens
            | Self::ToolUseInputTokens => Some(Self::InputTokens),
            Self::CachedInputAudioTokens | Self::CachedInputImageTokens => {
                Some(Self::CachedInputTokens)
            }
            Self::CacheWrite5mTokens | Self::CacheWrite1hTokens => Some(Self::CacheWriteTokens),
            Self::ReasoningTokens | Self::OutputAudioTokens | Self::OutputImageTokens => {
                Some(Self::OutputTokens)
            }
            _ => None,
        }
    }

    /// What else this cached unit is a part of, and so is charged once by either.
    pub const fn overlaps(self) -> Option<Self> {
        match self {
            Self::CachedInputAudioTokens => Some(Self::InputAudioTokens),
            Self::CachedInputImageTokens => Some(Self::InputImageTokens),
            _ => None,
        }
    }

    /// The units that are parts of this one, in the order in which they are charged.
    pub const fn parts(self) -> &'static [Self] {
        match self {
            Self::InputTokens => &[
                Self::CachedInputTokens,
                Self::CacheWriteTokens,
                Self::InputAudioTokens,
                Self::InputImageTokens,
                Self::ToolUseInputTokens,
            ],
            Self::CachedInputTokens => {
                &[Self::CachedInputAudioTokens, Self::CachedInputImageTokens]
            }
            Self::CacheWriteTokens => &[Self::CacheWrite5mTokens, Self::CacheWrite1hTokens],
            Self::OutputTokens => {
                &[Self::ReasoningTokens, Self::OutputAudioTokens, Self::OutputImageTokens]
            }
            _ => &[],
        }
    }

    /// Whether a price is named for one of it, not for a million.
    pub const fn priced_singly(self) -> bool {
        matches!(
            self,
            Self::WebSearches
                | Self::Images
                | Self::AudioSeconds
                | Self::FileSearches
                | Self::CodeSessions
        )
    }
}

/// A set of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Units(u32);

impl Units {
    /// Every unit.
    pub const ALL: Self = Self(u32::MAX);

    /// The same with `unit`.
    #[must_use]
    pub const fn with(self, unit: Unit) -> Self {
        Self(self.0 | 1 << unit as usize)
    }

    /// Whether `unit` is one of them.
    pub const fn hold(self, unit: Unit) -> bool {
        self.0 >> unit as usize & 1 == 1
    }
}

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
    pub fn within(self, place: Self) -> Self {
        if self.is_default() {
            return place;
        }
        Self::new(&format!("{}-{}", self.name(), place.name())).unwrap_or(self)
    }

    /// The tiers whose prices may hold, the first first: itself, then what it is made of, which is
    /// `fast` before `us`.
    pub fn parts(self) -> [Self; 3] {
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

/// The count of each unit. No count is ever larger than [`Usage::COUNT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage([u64; Unit::COUNT]);

impl Usage {
    /// A provider that reports more than this of anything is not believed.
    pub const COUNT_MAX: u64 = 1 << 40;

    /// Input and output tokens only.
    pub fn tokens_of(input: u64, output: u64) -> Self {
        Self::default().with(Unit::InputTokens, input).with(Unit::OutputTokens, output)
    }

    /// How many of `unit`.
    pub const fn get(&self, unit: Unit) -> u64 {
        self.0[unit as usize]
    }

    /// The same with `count` of `unit`, cut at [`Usage::COUNT_MAX`].
    #[must_use]
    pub fn with(mut self, unit: Unit, count: u64) -> Self {
        self.0[unit as usize] = count.min(Self::COUNT_MAX);
        self
    }

    /// What is left without `other`, unit by unit; no less than nothing.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        for (unit, count) in other.counts() {
            self.0[unit as usize] = self.get(unit).saturating_sub(count);
        }
        self
    }

    /// Both together, unit by unit.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        other.counts().fold(self, |both, (unit, count)| both.with(unit, both.get(unit) + count))
    }

    /// All input.
    pub const fn input_tokens(&self) -> u64 {
        self.get(Unit::InputTokens)
    }

    /// What token limits count: input and output.
    pub const fn tokens(&self) -> u64 {
        self.get(Unit::InputTokens) + self.get(Unit::OutputTokens)
    }

    /// The units that were used at all.
    pub fn counts(&self) -> impl Iterator<Item = (Unit, u64)> {
        Unit::ALL.into_iter().map(|unit| (unit, self.get(unit))).filter(|(_, count)| 0 < *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_stand_at_their_own_place() {
        for (at, unit) in Unit::ALL.into_iter().enumerate() {
            assert_eq!(unit as usize, at);
            for part in Unit::ALL {
                assert_eq!(unit.parts().contains(&part), part.total() == Some(unit));
            }
        }
    }

    #[test]
    fn each_unit_goes_by_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Unit::ALL.map(Unit::name).into();
        assert_eq!(names.len(), Unit::COUNT);
        assert!(names.contains("inputTokens") && names.contains("reasoningTokens"));
    }

    #[test]
    fn a_set_holds_what_was_put_in_however_often() {
        let set = Units::default().with(Unit::Images).with(Unit::Images);
        for unit in Unit::ALL {
            assert_eq!(set.hold(unit), unit == Unit::Images);
            assert!(Units::ALL.hold(unit));
        }
    }

    #[test]
    fn what_is_cached_of_a_modality_is_a_part_of_both() {
        let both = |unit: Unit| unit.overlaps().map(|modality| (unit, modality));
        assert!(Unit::ALL.into_iter().filter_map(both).eq([
            (Unit::CachedInputAudioTokens, Unit::InputAudioTokens),
            (Unit::CachedInputImageTokens, Unit::InputImageTokens),
        ]));
    }

    #[test]
    fn usages_are_added_and_taken_away_unit_by_unit() {
        let one = Usage::tokens_of(7, 5).with(Unit::Images, 2);
        let other = Usage::tokens_of(3, 6).with(Unit::WebSearches, 1);
        let both = Usage::tokens_of(10, 11).with(Unit::Images, 2).with(Unit::WebSearches, 1);
        assert_eq!((one.and(&other), other.and(&one)), (both, both));
        assert_eq!((both.without(&other), both.without(&one)), (one, other));
        assert_eq!(one.without(&both), Usage::default(), "no less than nothing");
    }

    #[test]
    fn token_limits_count_the_totals_and_no_part_twice() {
        let usage = Usage::tokens_of(7, 5).with(Unit::CachedInputTokens, 3);
        assert_eq!(usage.tokens(), 12);
        let used: Vec<_> = usage.with(Unit::OutputTokens, 0).counts().collect();
        assert_eq!(used, [(Unit::InputTokens, 7), (Unit::CachedInputTokens, 3)]);
    }

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
            tier.within(place).parts().map(|tier| tier.name().to_owned())
        };
        assert_eq!(made("fast", "us"), ["fast-us", "fast", "us"]);
        assert_eq!(made("standard", "us"), ["us", "", ""]);
        assert_eq!(made("fifteen_letters", "us"), ["fifteen_letters", "", ""]);
        assert_eq!(
            ServiceTier::new("flex").map(|tier| format!("{tier:?}")),
            Some("\"flex\"".into())
        );
    }

    #[test]
    fn an_absurd_count_is_cut() {
        assert_eq!(Usage::tokens_of(u64::MAX, 0).get(Unit::InputTokens), Usage::COUNT_MAX);
    }
}
