//! Pieces: what is priced one by one, or by the character, beside tokens.

use crate::domain::usage::{Unit, Usage};

/// The most that a call may use of what is priced by the piece, or what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitCounts {
    /// Searches of hosted tools.
    pub web_searches: u64,
    /// Images made.
    pub images: u64,
    /// Seconds of audio heard or made.
    pub audio_seconds: u64,
    /// Characters spoken.
    pub characters: u64,
    /// Searches of stored files.
    pub file_searches: u64,
    /// Containers that code runs in.
    pub code_sessions: u64,
}

impl UnitCounts {
    /// The more of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            web_searches: self.web_searches.max(other.web_searches),
            images: self.images.max(other.images),
            audio_seconds: self.audio_seconds.max(other.audio_seconds),
            characters: self.characters.max(other.characters),
            file_searches: self.file_searches.max(other.file_searches),
            code_sessions: self.code_sessions.max(other.code_sessions),
        }
    }

    /// Both together. Code that runs several times does so in one container.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            web_searches: self.web_searches + other.web_searches,
            images: self.images + other.images,
            audio_seconds: self.audio_seconds + other.audio_seconds,
            characters: self.characters + other.characters,
            file_searches: self.file_searches + other.file_searches,
            code_sessions: self.code_sessions.max(other.code_sessions),
        }
    }

    /// As usage, which has nothing else.
    pub fn to_usage(&self) -> Usage {
        Usage::default()
            .with(Unit::WebSearches, self.web_searches)
            .with(Unit::Images, self.images)
            .with(Unit::AudioSeconds, self.audio_seconds)
            .with(Unit::Characters, self.characters)
            .with(Unit::FileSearches, self.file_searches)
            .with(Unit::CodeSessions, self.code_sessions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: UnitCounts = UnitCounts {
        web_searches: 1,
        images: 2,
        audio_seconds: 3,
        characters: 4,
        file_searches: 5,
        code_sessions: 6,
    };
    const OTHER: UnitCounts = UnitCounts {
        web_searches: 6,
        images: 5,
        audio_seconds: 4,
        characters: 3,
        file_searches: 2,
        code_sessions: 1,
    };
    const UNITS: [Unit; 6] = [
        Unit::WebSearches,
        Unit::Images,
        Unit::AudioSeconds,
        Unit::Characters,
        Unit::FileSearches,
        Unit::CodeSessions,
    ];

    fn counts(pieces: UnitCounts) -> Vec<(Unit, u64)> {
        pieces.to_usage().counts().collect()
    }

    #[test]
    fn pieces_are_usage_of_nothing_else() {
        assert_eq!(counts(ONE), UNITS.into_iter().zip(1..).collect::<Vec<_>>());
    }

    #[test]
    fn of_two_counts_the_more_of_each_stands() {
        let most = UNITS.into_iter().zip([6, 5, 4, 4, 5, 6]).collect::<Vec<_>>();
        assert_eq!((counts(ONE.max(OTHER)), counts(OTHER.max(ONE))), (most.clone(), most));
    }

    #[test]
    fn both_together_run_their_code_in_one_container() {
        let both = UNITS.into_iter().zip([7, 7, 7, 7, 7, 6]).collect::<Vec<_>>();
        assert_eq!((counts(ONE.plus(OTHER)), counts(OTHER.plus(ONE))), (both.clone(), both));
    }
}
