//! Finds the token units that a request body can use, so that a hold near a limit is not priced
//! at more expensive ones.

use memchr::memmem;

use crate::dialect::endpoint::{Dialect, Endpoint};
use crate::dialect::external_refs::has_escaped_letters;
use crate::domain::usage::{Unit, UnitSet};

/// Lower-case words, and the units that a body without any of them cannot use. The comparison
/// ignores case. A word within a text only raises the hold.
const UNIT_TRIGGERS: [(&[&str], &[Unit]); 5] = [
    (
        &["cache_control"],
        &[Unit::CacheWriteTokens, Unit::CacheWrite5mTokens, Unit::CacheWrite1hTokens],
    ),
    (&["audio"], &[Unit::InputAudioTokens, Unit::CachedInputAudioTokens, Unit::OutputAudioTokens]),
    (&["speechconfig", "speech_config", "modalities"], &[Unit::OutputAudioTokens]),
    (
        &["image", "inline", "file", "\"data\""],
        &[
            Unit::InputImageTokens,
            Unit::CachedInputImageTokens,
            Unit::InputAudioTokens,
            Unit::CachedInputAudioTokens,
        ],
    ),
    (&["\"tools\""], &[Unit::ToolUseInputTokens]),
];

/// Longer bodies are not searched and may use every unit.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Returns the units that a call with that body can use.
pub fn possible_units(endpoint: Endpoint, body: &[u8]) -> UnitSet {
    if endpoint.media().is_some() || BODY_BYTES_MAX < body.len() || has_escaped_letters(body) {
        return UnitSet::ALL;
    }
    let mut units = UnitSet::default();
    let always = [
        Unit::InputTokens,
        Unit::CachedInputTokens,
        Unit::OutputTokens,
        Unit::ReasoningTokens,
        // Some models generate images without a request for them.
        Unit::OutputImageTokens,
    ];
    for unit in always {
        units = units.with(unit);
    }
    // OpenAI caches automatically, and so writes to the cache automatically.
    if endpoint.dialect() == Dialect::OpenAi {
        units = units.with(Unit::CacheWriteTokens);
    }
    let body = body.to_ascii_lowercase();
    for (words, triggered) in UNIT_TRIGGERS {
        if words.iter().any(|word| memmem::find(&body, word.as_bytes()).is_some()) {
            units = triggered.iter().fold(units, |units, unit| units.with(*unit));
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_a_body_cannot_use_are_excluded() {
        let plain = br#"{"messages":[{"role":"user","content":"Say hello."}]}"#;
        let holds = |endpoint, body: &[u8], unit| possible_units(endpoint, body).contains(unit);
        assert!(holds(Endpoint::GenerateContent, plain, Unit::InputTokens));
        assert!(!holds(Endpoint::GenerateContent, plain, Unit::InputAudioTokens));
        assert!(!holds(Endpoint::Messages, plain, Unit::CacheWrite1hTokens));
        assert!(holds(Endpoint::ChatCompletions, plain, Unit::CacheWriteTokens));
        let cached = br#"{"cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
        assert!(holds(Endpoint::Messages, cached, Unit::CacheWrite1hTokens));
        let audio = br#"{"inlineData":{"mimeType":"audio/wav"}}"#;
        assert!(holds(Endpoint::GenerateContent, audio, Unit::InputAudioTokens));
        assert!(
            holds(Endpoint::GenerateContent, plain, Unit::OutputImageTokens),
            "some models generate images without a request"
        );
        assert!(!holds(Endpoint::GenerateContent, plain, Unit::OutputAudioTokens));
        for body in [
            r#"{"responseModalities":["Audio"]}"#,
            r#"{"responseModalities":[3]}"#,
            r#"{"speechConfig":{}}"#,
            r#"{"speech_config":{}}"#,
            r#"{"MODALITIES":["aUdio"]}"#,
        ] {
            assert!(
                holds(Endpoint::GenerateContent, body.as_bytes(), Unit::OutputAudioTokens),
                "{body}"
            );
        }
        assert!(holds(Endpoint::Speech, br#"{"input":"x"}"#, Unit::OutputAudioTokens));
        let hidden = br#"{"cach\u0065_control":1}"#;
        assert!(holds(Endpoint::Messages, hidden, Unit::CacheWrite1hTokens));
    }
}
