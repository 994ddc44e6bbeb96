//! Units: which kinds of input and output a body can ask for. Nothing dearer is held for a call
//! near a limit.

use memchr::memmem;

use crate::dialect::endpoint::{Dialect, Endpoint};
use crate::dialect::external_refs::has_escaped_letters;
use crate::domain::usage::{Unit, UnitSet};

/// Words in small letters, and the units that no body can ask for without one of them, however
/// large its letters. That a word stands in a text only loosens the bound.
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

/// A longer body is not searched.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The units that a call with that body can use.
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
        // Some models paint unasked.
        Unit::OutputImageTokens,
    ];
    for unit in always {
        units = units.with(unit);
    }
    // Where caching is automatic, its writes are as well.
    if endpoint.dialect() == Dialect::OpenAi {
        units = units.with(Unit::CacheWriteTokens);
    }
    let body = body.to_ascii_lowercase();
    for (words, asked) in UNIT_TRIGGERS {
        if words.iter().any(|word| memmem::find(&body, word.as_bytes()).is_some()) {
            units = asked.iter().fold(units, |units, unit| units.with(*unit));
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_does_not_ask_for_is_not_held() {
        let plain = br#"{"messages":[{"role":"user","content":"Say hello."}]}"#;
        let holds = |endpoint, body: &[u8], unit| possible_units(endpoint, body).contains(unit);
        assert!(holds(Endpoint::GenerateContent, plain, Unit::InputTokens));
        assert!(!holds(Endpoint::GenerateContent, plain, Unit::InputAudioTokens));
        assert!(!holds(Endpoint::Messages, plain, Unit::CacheWrite1hTokens));
        assert!(holds(Endpoint::ChatCompletions, plain, Unit::CacheWriteTokens));
        let cached = br#"{"cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
        assert!(holds(Endpoint::Messages, cached, Unit::CacheWrite1hTokens));
        let spoken = br#"{"inlineData":{"mimeType":"audio/wav"}}"#;
        assert!(holds(Endpoint::GenerateContent, spoken, Unit::InputAudioTokens));
        assert!(
            holds(Endpoint::GenerateContent, plain, Unit::OutputImageTokens),
            "some models paint unasked"
        );
        assert!(!holds(Endpoint::GenerateContent, plain, Unit::OutputAudioTokens));
        for speaks in [
            r#"{"responseModalities":["Audio"]}"#,
            r#"{"responseModalities":[3]}"#,
            r#"{"speechConfig":{}}"#,
            r#"{"speech_config":{}}"#,
            r#"{"MODALITIES":["aUdio"]}"#,
        ] {
            assert!(
                holds(Endpoint::GenerateContent, speaks.as_bytes(), Unit::OutputAudioTokens),
                "{speaks}"
            );
        }
        assert!(holds(Endpoint::Speech, br#"{"input":"x"}"#, Unit::OutputAudioTokens));
        let hidden = br#"{"cach\u0065_control":1}"#;
        assert!(holds(Endpoint::Messages, hidden, Unit::CacheWrite1hTokens));
    }
}
