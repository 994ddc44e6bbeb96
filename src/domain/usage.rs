//! Usage: the units that a call is measured in, and the count of each.

/// How a unit arises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitClass {
    /// Tokens of input or output, counted by token limits.
    Token,
    /// Input or output of a media endpoint. A model may be billed by such units alone.
    Media,
    /// Work of a hosted tool.
    Tool,
}

/// Declares [`Unit`], one row per unit: variant, wire name, class, number of units that a price is
/// for, and for a part the total that includes it, then a second total that also includes it.
macro_rules! units {
    ($($(#[$doc:meta])* $unit:ident $name:literal $class:ident per $per:literal
        $(in $total:ident $(and $other:ident)?)?;)*) => {
        /// A unit of usage. A part is included in its total; parts of one total may overlap.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Unit {
            $($(#[$doc])* $unit,)*
        }

        impl Unit {
            pub const COUNT: usize = [$($name),*].len();

            /// Every unit, in order of the discriminants.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$unit),*];

            /// Returns the name in the API, the price list and the request log.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$unit => $name,)* }
            }

            /// Returns how the unit arises.
            pub const fn class(self) -> UnitClass {
                match self { $(Self::$unit => UnitClass::$class,)* }
            }

            /// Returns whether a price is for one of this unit rather than for a million.
            pub const fn billed_per_item(self) -> bool {
                match self { $(Self::$unit => $per == 1,)* }
            }

            /// Returns the total that this unit is part of.
            pub const fn total(self) -> Option<Self> {
                match self { $(Self::$unit => first(&[$(Self::$total)?]),)* }
            }

            /// Returns a second total that this unit is part of. It is charged in only one of them.
            pub const fn overlaps(self) -> Option<Self> {
                match self { $(Self::$unit => first(&[$($(Self::$other)?)?]),)* }
            }

            /// Returns the units that are part of this one, in the order in which they are charged.
            pub const fn parts(self) -> &'static [Self] {
                match self { $(Self::$unit => {
                    const PARTS: &([Unit; Unit::COUNT], usize) = &parts_of(Some(Unit::$unit));
                    PARTS.0.split_at(PARTS.1).0
                })* }
            }
        }
    };
}

// Journals and databases store the discriminants: append new units at the end. The order is also
// the order in which the parts of a total are charged.
units! {
    /// All input, cached and cache-written tokens included.
    InputTokens "inputTokens" Token per 1_000_000;
    /// All output that is billed, reasoning included.
    OutputTokens "outputTokens" Token per 1_000_000;
    /// Input read from a cache.
    CachedInputTokens "cachedInputTokens" Token per 1_000_000 in InputTokens;
    /// Input written to a cache.
    CacheWriteTokens "cacheWriteTokens" Token per 1_000_000 in InputTokens;
    /// Input cached for five minutes.
    CacheWrite5mTokens "cacheWrite5mTokens" Token per 1_000_000 in CacheWriteTokens;
    /// Input cached for an hour.
    CacheWrite1hTokens "cacheWrite1hTokens" Token per 1_000_000 in CacheWriteTokens;
    InputAudioTokens "inputAudioTokens" Token per 1_000_000 in InputTokens;
    InputImageTokens "inputImageTokens" Token per 1_000_000 in InputTokens;
    /// Input that hosted tools add to the prompt.
    ToolUseInputTokens "toolUseInputTokens" Token per 1_000_000 in InputTokens;
    /// Output that the client does not receive.
    ReasoningTokens "reasoningTokens" Token per 1_000_000 in OutputTokens;
    OutputAudioTokens "outputAudioTokens" Token per 1_000_000 in OutputTokens;
    OutputImageTokens "outputImageTokens" Token per 1_000_000 in OutputTokens;
    /// Web searches of a hosted tool.
    WebSearches "webSearches" Tool per 1;
    /// Generated images.
    Images "images" Media per 1;
    /// Seconds of audio transcribed or generated.
    AudioSeconds "audioSeconds" Media per 1;
    /// Characters converted to speech.
    Characters "characters" Media per 1_000_000;
    /// File searches of a hosted tool.
    FileSearches "fileSearches" Tool per 1;
    /// Containers in which a hosted tool ran code.
    CodeSessions "codeSessions" Tool per 1;
    CachedInputAudioTokens "cachedInputAudioTokens" Token per 1_000_000
        in CachedInputTokens and InputAudioTokens;
    CachedInputImageTokens "cachedInputImageTokens" Token per 1_000_000
        in CachedInputTokens and InputImageTokens;
}

impl Unit {
    /// The units of class [`UnitClass::Media`].
    pub const MEDIA: &'static [Self] = {
        const MEDIA: &([Unit; Unit::COUNT], usize) = &media_units();
        MEDIA.0.split_at(MEDIA.1).0
    };

    /// Returns the units that are not part of another.
    pub fn top_level() -> impl Iterator<Item = Self> {
        const TOP_LEVEL: &([Unit; Unit::COUNT], usize) = &parts_of(None);
        TOP_LEVEL.0.split_at(TOP_LEVEL.1).0.iter().copied()
    }
}

const fn first(units: &[Unit]) -> Option<Unit> {
    match units {
        [unit, ..] => Some(*unit),
        [] => None,
    }
}

/// Returns the units with that total in the front of the array, and their number.
const fn parts_of(total: Option<Unit>) -> ([Unit; Unit::COUNT], usize) {
    let (mut parts, mut count, mut index) = (Unit::ALL, 0, 0);
    while index < Unit::COUNT {
        let unit = Unit::ALL[index];
        let is_part = match (unit.total(), total) {
            (Some(of), Some(total)) => of as usize == total as usize,
            (of, total) => of.is_none() && total.is_none(),
        };
        if is_part {
            parts[count] = unit;
            count += 1;
        }
        index += 1;
    }
    (parts, count)
}

/// Returns the media units in the front of the array, and their number.
const fn media_units() -> ([Unit; Unit::COUNT], usize) {
    let (mut units, mut count, mut index) = (Unit::ALL, 0, 0);
    while index < Unit::COUNT {
        if matches!(Unit::ALL[index].class(), UnitClass::Media) {
            units[count] = Unit::ALL[index];
            count += 1;
        }
        index += 1;
    }
    (units, count)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitSet(u32);

impl UnitSet {
    pub const ALL: Self = Self(u32::MAX);

    /// Returns the set with `unit` added.
    #[must_use]
    pub const fn with(self, unit: Unit) -> Self {
        Self(self.0 | 1 << unit as usize)
    }

    /// Returns whether `unit` is in the set.
    pub const fn contains(self, unit: Unit) -> bool {
        self.0 >> unit as usize & 1 == 1
    }
}

/// The count of each unit, at most [`Usage::COUNT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage([u64; Unit::COUNT]);

impl Usage {
    /// The maximum plausible count. Larger counts in a provider's report are cut to it.
    pub const COUNT_MAX: u64 = 1 << 40;

    /// Returns a usage of input and output tokens only.
    pub fn from_tokens(input: u64, output: u64) -> Self {
        Self::default().with(Unit::InputTokens, input).with(Unit::OutputTokens, output)
    }

    /// Returns the count of `unit`.
    pub const fn get(&self, unit: Unit) -> u64 {
        self.0[unit as usize]
    }

    /// Returns the usage with `count` of `unit`, at most [`Usage::COUNT_MAX`].
    #[must_use]
    pub fn with(mut self, unit: Unit, count: u64) -> Self {
        self.0[unit as usize] = count.min(Self::COUNT_MAX);
        self
    }

    /// Returns the usage with at most `max` of `unit`.
    #[must_use]
    pub fn capped(self, unit: Unit, max: u64) -> Self {
        self.with(unit, self.get(unit).min(max))
    }

    /// Limits the cached tokens by modality to the total of cached tokens.
    #[must_use]
    pub fn cap_cached_modalities(self) -> Self {
        let cached = self.get(Unit::CachedInputTokens);
        let usage = self.capped(Unit::CachedInputAudioTokens, cached);
        let rest = cached - usage.get(Unit::CachedInputAudioTokens);
        usage.capped(Unit::CachedInputImageTokens, rest)
    }

    /// Subtracts `other`, unit by unit, saturating at 0.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        for (unit, count) in other.counts() {
            self.0[unit as usize] = self.get(unit).saturating_sub(count);
        }
        self
    }

    /// Adds `other`, unit by unit.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        other.counts().fold(self, |sum, (unit, count)| sum.with(unit, sum.get(unit) + count))
    }

    pub const fn input_tokens(&self) -> u64 {
        self.get(Unit::InputTokens)
    }

    /// Returns what token limits count: input and output tokens.
    pub const fn tokens(&self) -> u64 {
        self.get(Unit::InputTokens) + self.get(Unit::OutputTokens)
    }

    /// Returns the units with a count above 0.
    pub fn counts(&self) -> impl Iterator<Item = (Unit, u64)> {
        Unit::ALL.into_iter().map(|unit| (unit, self.get(unit))).filter(|(_, count)| 0 < *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_and_parts_follow_the_table() {
        for (index, unit) in Unit::ALL.into_iter().enumerate() {
            assert_eq!(unit as usize, index);
            for part in Unit::ALL {
                assert_eq!(unit.parts().contains(&part), part.total() == Some(unit));
            }
            assert_eq!(Unit::top_level().any(|other| other == unit), unit.total().is_none());
            assert_eq!(Unit::MEDIA.contains(&unit), unit.class() == UnitClass::Media);
        }
        assert_eq!(Unit::CacheWriteTokens as usize, 3);
        assert_eq!(Unit::CachedInputImageTokens as usize, 19, "the journal stores discriminants");
        const { assert!(Unit::COUNT <= 32, "a set of units has 32 bits") };
    }

    #[test]
    fn only_tokens_have_totals_and_are_priced_per_million() {
        for unit in Unit::ALL {
            let is_token = unit.class() == UnitClass::Token;
            assert_eq!(is_token, unit.name().ends_with("Tokens"));
            assert!(is_token || unit.total().is_none());
            assert_eq!(unit.billed_per_item(), !is_token && unit != Unit::Characters);
        }
    }

    #[test]
    fn each_unit_has_a_unique_name() {
        let names: std::collections::BTreeSet<_> = Unit::ALL.map(Unit::name).into();
        assert_eq!(names.len(), Unit::COUNT);
        assert!(names.contains("inputTokens") && names.contains("reasoningTokens"));
    }

    #[test]
    fn a_set_contains_what_was_added() {
        let set = UnitSet::default().with(Unit::Images).with(Unit::Images);
        for unit in Unit::ALL {
            assert_eq!(set.contains(unit), unit == Unit::Images);
            assert!(UnitSet::ALL.contains(unit));
        }
    }

    #[test]
    fn cached_tokens_of_a_modality_are_part_of_two_totals() {
        let both = |unit: Unit| unit.overlaps().map(|modality| (unit, modality));
        assert!(Unit::ALL.into_iter().filter_map(both).eq([
            (Unit::CachedInputAudioTokens, Unit::InputAudioTokens),
            (Unit::CachedInputImageTokens, Unit::InputImageTokens),
        ]));
    }

    #[test]
    fn cached_modalities_are_limited_to_the_cached_total() {
        let modalities = |cached, audio, image| {
            let usage = Usage::default()
                .with(Unit::CachedInputTokens, cached)
                .with(Unit::CachedInputAudioTokens, audio)
                .with(Unit::CachedInputImageTokens, image)
                .cap_cached_modalities();
            [Unit::CachedInputAudioTokens, Unit::CachedInputImageTokens].map(|unit| usage.get(unit))
        };
        assert_eq!(modalities(10, 4, 6), [4, 6]);
        assert_eq!(modalities(10, 4, 7), [4, 6]);
        assert_eq!(modalities(10, 11, 7), [10, 0]);
        let capped = Usage::from_tokens(5, 5).capped(Unit::OutputTokens, 3);
        assert_eq!(capped, Usage::from_tokens(5, 3));
    }

    #[test]
    fn usages_are_added_and_subtracted_unit_by_unit() {
        let one = Usage::from_tokens(7, 5).with(Unit::Images, 2);
        let other = Usage::from_tokens(3, 6).with(Unit::WebSearches, 1);
        let both = Usage::from_tokens(10, 11).with(Unit::Images, 2).with(Unit::WebSearches, 1);
        assert_eq!((one.plus(&other), other.plus(&one)), (both, both));
        assert_eq!((both.minus(&other), both.minus(&one)), (one, other));
        assert_eq!(one.minus(&both), Usage::default(), "saturates at zero");
    }

    #[test]
    fn token_limits_count_the_totals_only() {
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
