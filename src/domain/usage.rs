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

    /// The units that are parts of no other.
    pub fn top_level() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|unit| unit.total().is_none())
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
    pub const fn billed_per_item(self) -> bool {
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
pub struct UnitSet(u32);

impl UnitSet {
    /// Every unit.
    pub const ALL: Self = Self(u32::MAX);

    /// The same with `unit`.
    #[must_use]
    pub const fn with(self, unit: Unit) -> Self {
        Self(self.0 | 1 << unit as usize)
    }

    /// Whether `unit` is one of them.
    pub const fn contains(self, unit: Unit) -> bool {
        self.0 >> unit as usize & 1 == 1
    }
}

/// The count of each unit. No count is ever larger than [`Usage::COUNT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage([u64; Unit::COUNT]);

impl Usage {
    /// A provider that reports more than this of anything is not believed.
    pub const COUNT_MAX: u64 = 1 << 40;

    /// Input and output tokens only.
    pub fn from_tokens(input: u64, output: u64) -> Self {
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

    /// The same with no more of `unit` than that.
    #[must_use]
    pub fn capped(self, unit: Unit, max: u64) -> Self {
        self.with(unit, self.get(unit).min(max))
    }

    /// The same with no more cached of all kinds than was cached.
    #[must_use]
    pub fn cap_cached_modalities(self) -> Self {
        let cached = self.get(Unit::CachedInputTokens);
        let heard = self.capped(Unit::CachedInputAudioTokens, cached);
        let rest = cached - heard.get(Unit::CachedInputAudioTokens);
        heard.capped(Unit::CachedInputImageTokens, rest)
    }

    /// What is left without `other`, unit by unit; no less than nothing.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        for (unit, count) in other.counts() {
            self.0[unit as usize] = self.get(unit).saturating_sub(count);
        }
        self
    }

    /// Both together, unit by unit.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
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
        let set = UnitSet::default().with(Unit::Images).with(Unit::Images);
        for unit in Unit::ALL {
            assert_eq!(set.contains(unit), unit == Unit::Images);
            assert!(UnitSet::ALL.contains(unit));
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
    fn no_more_is_cached_of_all_kinds_than_was_cached() {
        let kinds = |cached, audio, image| {
            let usage = Usage::default()
                .with(Unit::CachedInputTokens, cached)
                .with(Unit::CachedInputAudioTokens, audio)
                .with(Unit::CachedInputImageTokens, image)
                .cap_cached_modalities();
            [Unit::CachedInputAudioTokens, Unit::CachedInputImageTokens].map(|unit| usage.get(unit))
        };
        assert_eq!(kinds(10, 4, 6), [4, 6]);
        assert_eq!(kinds(10, 4, 7), [4, 6]);
        assert_eq!(kinds(10, 11, 7), [10, 0]);
        assert_eq!(
            Usage::from_tokens(5, 5).capped(Unit::OutputTokens, 3),
            Usage::from_tokens(5, 3)
        );
    }

    #[test]
    fn usages_are_added_and_taken_away_unit_by_unit() {
        let one = Usage::from_tokens(7, 5).with(Unit::Images, 2);
        let other = Usage::from_tokens(3, 6).with(Unit::WebSearches, 1);
        let both = Usage::from_tokens(10, 11).with(Unit::Images, 2).with(Unit::WebSearches, 1);
        assert_eq!((one.plus(&other), other.plus(&one)), (both, both));
        assert_eq!((both.minus(&other), both.minus(&one)), (one, other));
        assert_eq!(one.minus(&both), Usage::default(), "no less than nothing");
    }

    #[test]
    fn token_limits_count_the_totals_and_no_part_twice() {
        let usage = Usage::from_tokens(7, 5).with(Unit::CachedInputTokens, 3);
        assert_eq!(usage.tokens(), 12);
        let used: Vec<_> = usage.with(Unit::OutputTokens, 0).counts().collect();
        assert_eq!(used, [(Unit::InputTokens, 7), (Unit::CachedInputTokens, 3)]);
    }

    #[test]
    fn an_absurd_count_is_cut() {
        assert_eq!(Usage::from_tokens(u64::MAX, 0).get(Unit::InputTokens), Usage::COUNT_MAX);
    }
}
