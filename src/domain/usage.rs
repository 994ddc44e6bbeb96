//! Usage: what a call did use, in the units that prices, records and metrics share.

/// What is counted. Totals come first; a part is included in its total.
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
}

impl Unit {
    /// How many units there are.
    pub const COUNT: usize = 16;

    /// Every unit, in the order of its discriminant.
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
            Self::CacheWrite5mTokens | Self::CacheWrite1hTokens => Some(Self::CacheWriteTokens),
            Self::ReasoningTokens | Self::OutputAudioTokens | Self::OutputImageTokens => {
                Some(Self::OutputTokens)
            }
            _ => None,
        }
    }

    /// The units that are parts of this one.
    pub const fn parts(self) -> &'static [Self] {
        match self {
            Self::InputTokens => &[
                Self::CachedInputTokens,
                Self::CacheWriteTokens,
                Self::InputAudioTokens,
                Self::InputImageTokens,
                Self::ToolUseInputTokens,
            ],
            Self::CacheWriteTokens => &[Self::CacheWrite5mTokens, Self::CacheWrite1hTokens],
            Self::OutputTokens => {
                &[Self::ReasoningTokens, Self::OutputAudioTokens, Self::OutputImageTokens]
            }
            _ => &[],
        }
    }

    /// Whether a price is named for one of it, not for a million.
    pub const fn priced_singly(self) -> bool {
        matches!(self, Self::WebSearches | Self::Images | Self::AudioSeconds)
    }
}

/// A set of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Units(u16);

impl Units {
    /// Every unit.
    pub const ALL: Self = Self(u16::MAX);

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
    fn token_limits_count_the_totals_and_no_part_twice() {
        let usage = Usage::tokens_of(7, 5).with(Unit::CachedInputTokens, 3);
        assert_eq!(usage.tokens(), 12);
        let used: Vec<_> = usage.with(Unit::OutputTokens, 0).counts().collect();
        assert_eq!(used, [(Unit::InputTokens, 7), (Unit::CachedInputTokens, 3)]);
    }

    #[test]
    fn an_absurd_count_is_cut() {
        assert_eq!(Usage::tokens_of(u64::MAX, 0).get(Unit::InputTokens), Usage::COUNT_MAX);
    }
}
