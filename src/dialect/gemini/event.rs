//! Reads the events of a Gemini stream, which ends without a terminator.

use crate::dialect::event::EventFacts;
use crate::dialect::gemini::usage;
use crate::dialect::{estimate, json};

/// Reads the data of an event.
pub fn read(data: &[u8]) -> EventFacts {
    let mut event = EventFacts::default();
    let read = json::fields(data, |key, value| {
        let value = &data[value];
        match &*key {
            "candidates" => json::elements(value, |one| candidate(one, &mut event)),
            "usageMetadata" => {
                event.usage = usage::read(value);
                event.service_tier = usage::service_tier(value);
            }
            "error" => event.failed = true,
            // A prompt that is blocked has no candidate to say so.
            "promptFeedback" => json::each_named(value, &["blockReason"], |reason| {
                event.has_finish_reason |= is_reason(reason);
            }),
            _ => {}
        }
    });
    if read.is_err() { EventFacts::default() } else { event }
}

/// Whether that is a reason. A zero is the unspecified one of those who ask for numbers.
fn is_reason(value: &[u8]) -> bool {
    !matches!(value, b"null" | b"0" | b"\"\"")
}

fn candidate(candidate: &[u8], event: &mut EventFacts) {
    // The whole event was checked before anything of it is used.
    let _ = json::fields(candidate, |key, value| {
        let value = &candidate[value];
        match &*key {
            "finishReason" => event.has_finish_reason |= is_reason(value),
            "content" => json::each_named(value, &["parts"], |parts| {
                json::elements(parts, |part| event.output_tokens += tokens_of(part));
            }),
            _ => {}
        }
    });
}

/// The tokens of a part: its text, or the JSON of what the model wants done.
fn tokens_of(part: &[u8]) -> u64 {
    let mut tokens = 0;
    json::each_named(part, &["text"], |text| {
        tokens += json::string_of(text).map_or(0, |text| estimate::tokens(&text));
    });
    json::each_named(part, &["functionCall", "executableCode"], |call| {
        tokens += estimate::tokens(std::str::from_utf8(call).unwrap_or_default());
    });
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::Usage;

    #[test]
    fn text_finish_and_usage_are_found() {
        let facts = read(
            br#"{"candidates":[{"content":{"parts":[{"text":"hello you"},
                {"thought":true,"text":"hm"}],"role":"model"},"finishReason":"STOP",
                "groundingMetadata":{"groundingSupports":[{"segment":{"text":"hello you"}}]}}],
                "usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2}}"#,
        );
        let usage = Some(Usage::from_tokens(3, 2));
        assert_eq!(
            facts,
            EventFacts {
                has_finish_reason: true,
                usage,
                output_tokens: 4,
                ..EventFacts::default()
            }
        );
    }

    #[test]
    fn a_blocked_prompt_ends_the_answer() {
        let facts = read(
            br#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},
                "usageMetadata":{"promptTokenCount":258,"totalTokenCount":258}}"#,
        );
        assert!(facts.has_finish_reason && facts.usage.is_some());
        assert!(!read(br#"{"promptFeedback":{"safetyRatings":[]}}"#).has_finish_reason);
    }

    #[test]
    fn an_answer_that_quotes_usage_reports_none() {
        let facts = read(
            br#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f",
                "args":{"usageMetadata":{"promptTokenCount":1}}}}]}}]}"#,
        );
        assert_eq!((facts.usage, facts.has_finish_reason), (None, false));
        assert!(0 < facts.output_tokens);
        let failed = EventFacts { failed: true, ..EventFacts::default() };
        assert_eq!(read(br#"{"error":{"code":503}}"#), failed);
        assert_eq!(read(br#"{"usageMetadata":{"promptTokenCount":3},"#), EventFacts::default());
    }
}
