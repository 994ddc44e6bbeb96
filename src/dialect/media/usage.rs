//! The usage of images and audio: as reported by a provider, and the maximum without a report.

use crate::dialect::json;
use crate::dialect::media::kind::Media;
use crate::dialect::openai;
use crate::domain::settlement::Bound;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::{Unit, Usage};

/// Returns the usage that an object reports, if any. Tokens without a modality get that of the
/// endpoint.
pub fn read(media: Media, object: &[u8]) -> Option<Usage> {
    let mut seconds = None;
    json::each_named(object, &["seconds"], |value| seconds = parse_seconds(value));
    let tokens = openai::usage::read(object).map(|usage| match media {
        Media::Images => with_default_kind(usage, Unit::OutputTokens, Unit::OutputImageTokens),
        Media::Speech => with_default_kind(usage, Unit::OutputTokens, Unit::OutputAudioTokens),
        Media::Transcription => with_default_kind(usage, Unit::InputTokens, Unit::InputAudioTokens),
    });
    match seconds {
        Some(seconds) => Some(tokens.unwrap_or_default().with(Unit::AudioSeconds, seconds)),
        None => tokens,
    }
}

/// Returns the maximum usage of a call with this bound, in the most expensive units: the charge
/// without a report. The output of a transcription is not included, because its text is counted.
pub fn max_usage(media: Media, bound: Bound, has_media_input: bool, pieces: UnitCounts) -> Usage {
    let usage = pieces.to_usage().with(Unit::InputTokens, bound.input_tokens);
    let with_output =
        |unit| usage.with(Unit::OutputTokens, bound.output_tokens).with(unit, bound.output_tokens);
    match media {
        Media::Images if has_media_input => {
            with_output(Unit::OutputImageTokens).with(Unit::InputImageTokens, bound.input_tokens)
        }
        Media::Images => with_output(Unit::OutputImageTokens),
        Media::Speech => with_output(Unit::OutputAudioTokens),
        Media::Transcription => usage.with(Unit::InputAudioTokens, bound.input_tokens),
    }
}

fn with_default_kind(usage: Usage, total: Unit, part: Unit) -> Usage {
    if usage.get(part) == 0 { usage.with(part, usage.get(total)) } else { usage }
}

/// Parses seconds and rounds them up; none for 0.
fn parse_seconds(value: &[u8]) -> Option<u64> {
    let whole = json::count_of(value)?;
    let fraction = value.iter().skip_while(|byte| **byte != b'.');
    let has_fraction = fraction.skip(1).any(|byte| *byte != b'0');
    Some(whole + u64::from(has_fraction)).filter(|seconds| 0 < *seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_reported_modality_or_that_of_the_endpoint() {
        let usage = Usage::from_tokens;
        for (media, object, expected) in [
            (
                Media::Images,
                r#"{"input_tokens":50,"output_tokens":272,"total_tokens":322,
                    "input_tokens_details":{"text_tokens":10,"image_tokens":40}}"#,
                usage(50, 272).with(Unit::InputImageTokens, 40).with(Unit::OutputImageTokens, 272),
            ),
            (
                Media::Images,
                r#"{"input_tokens":5,"output_tokens":300,
                    "output_tokens_details":{"image_tokens":272,"text_tokens":28}}"#,
                usage(5, 300).with(Unit::OutputImageTokens, 272),
            ),
            (
                Media::Transcription,
                r#"{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59,
                    "input_token_details":{"text_tokens":4,"audio_tokens":10}}"#,
                usage(14, 45).with(Unit::InputAudioTokens, 10),
            ),
            (
                Media::Transcription,
                r#"{"type":"tokens","input_tokens":14,"output_tokens":45}"#,
                usage(14, 45).with(Unit::InputAudioTokens, 14),
            ),
            (
                Media::Speech,
                r#"{"input_tokens":14,"output_tokens":101,"total_tokens":115}"#,
                usage(14, 101).with(Unit::OutputAudioTokens, 101),
            ),
        ] {
            assert_eq!(read(media, object.as_bytes()), Some(expected), "{object}");
        }
    }

    #[test]
    fn the_maximum_has_the_modality_of_the_endpoint() {
        let bound = Bound { input_tokens: 7, output_tokens: 9 };
        let pieces = UnitCounts::of(Unit::Images, 2);
        let all = Usage::from_tokens(7, 9).with(Unit::Images, 2);
        for (media, is_seen, expected) in [
            (Media::Images, false, all.with(Unit::OutputImageTokens, 9)),
            (
                Media::Images,
                true,
                all.with(Unit::OutputImageTokens, 9).with(Unit::InputImageTokens, 7),
            ),
            (Media::Speech, false, all.with(Unit::OutputAudioTokens, 9)),
            (
                Media::Transcription,
                true,
                all.with(Unit::OutputTokens, 0).with(Unit::InputAudioTokens, 7),
            ),
        ] {
            assert_eq!(max_usage(media, bound, is_seen, pieces), expected, "{media:?}");
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (seconds, expected) in
            [("17", Some(17)), ("17.0", Some(17)), ("17.01", Some(18)), ("0", None), ("null", None)]
        {
            let object = format!(r#"{{"type":"duration","seconds":{seconds}}}"#);
            let found = read(Media::Transcription, object.as_bytes());
            assert_eq!(found.map(|usage| usage.get(Unit::AudioSeconds)), expected, "{seconds}");
        }
        assert_eq!(read(Media::Images, b"{}"), None);
    }
}
