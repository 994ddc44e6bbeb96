//! The events of a Gemini stream: what each says. None is a terminator; the stream just ends.

use crate::dialect::event::Event;
use crate::dialect::gemini::usage;
use crate::dialect::{estimate, json};

/// Reads the data of an event.
pub fn event(data: &[u8]) -> Event {
    let mut event = Event::default();
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
            "promptFeedback" => json::each(value, &["blockReason"], |reason| {
                event.finish |= is_reason(reason);
            }),
            _ => {}
        }
    });
    if read.is_err() { Event::default() } else { event }
}

/// Whether that is a reason. A zero is the unspecified one of those who ask for numbers.
fn is_reason(value: &[u8]) -> bool {
    !matches!(value, b"null" | b"0" | b"\"\"")
}

fn candidate(candidate: &[u8], event: &mut Event) {
    // The whole event was checked before anything of it is used.
    let _ = json::fields(candidate, |key, value| {
        let value = &candidate[value];
        match &*key {
            "finishReason" => event.finish |= is_reason(value),
            "content" => json::each(value, &["parts"], |parts| {
                json::elements(parts, |part| event.output_tokens += tokens_of(part));
            }),
            _ => {}
        }
    });
}

/// The tokens of a part: its text, or the JSON of what the model wants done.
fn tokens_of(part: &[u8]) -> u64 {
    let mut tokens = 0;
    json::each(part, &["text"], |text| {
        tokens += json::string_of(text).map_or(0, |text| estimate::tokens(&text));
    });
    json::each(part, &["functionCall", "executableCode"], |call| {
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
        let said = event(
            br#"{"candidates":[{"content":{"parts":[{"text":"hello you"},
                {"thought":true,"text":"hm"}],"role":"model"},"finishReason":"STOP",
                "groundingMetadata":{"groundingSupports":[{"segment":{"text":"hello you"}}]}}],
                "usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2}}"#,
        );
        let usage = Some(Usage::tokens_of(3, 2));
        assert_eq!(said, Event { finish: true, usage, output_tokens: 4, ..Event::default() });
    }

    #[test]
    fn a_blocked_prompt_ends_the_answer() {
        let said = event(
            br#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},
                "usageMetadata":{"promptTokenCount":258,"totalTokenCount":258}}"#,
        );
        assert!(said.finish && said.usage.is_some());
        assert!(!event(br#"{"promptFeedback":{"safetyRatings":[]}}"#).finish);
    }

    #[test]
    fn an_answer_that_quotes_usage_reports_none() {
        let said = event(
            br#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f",
                "args":{"usageMetadata":{"promptTokenCount":1}}}}]}}]}"#,
        );
        assert_eq!((said.usage, said.finish), (None, false));
        assert!(0 < said.output_tokens);
        let failed = Event { failed: true, ..Event::default() };
        assert_eq!(event(br#"{"error":{"code":503}}"#), failed);
        assert_eq!(event(br#"{"usageMetadata":{"promptTokenCount":3},"#), Event::default());
    }
}
