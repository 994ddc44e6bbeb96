//! Events that come in many pieces, or are too long to be kept.

use bytes::Bytes;

use crate::dialect::endpoint::Dialect;
use crate::dialect::meter::StreamMeter;
use crate::dialect::tests::meters::run_in;
use crate::domain::usage::Usage;

/// To look at all that came with each piece would take minutes.
#[test]
fn an_event_that_comes_byte_by_byte_is_looked_at_once() {
    let text = "hello ".repeat(150_000);
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":2}"#;
    let event = format!("data: {{\"choices\":[{{\"delta\":\"{text}\"}}],{usage}}}\n\n");
    let pieces: Vec<&str> = (0..event.len()).map(|at| &event[at..=at]).collect();
    for strips in [false, true] {
        let (pass, end, reading) = run_in(Dialect::OpenAi, strips, &pieces);
        assert!(pass == event && end.is_empty(), "{strips}");
        assert_eq!(reading.reported, Some(Usage::tokens_of(3, 2)));
    }
    let lines = "data:\n".repeat(150_000) + "data: {\"error\":1}\n\n";
    let (pass, _, reading) = run_in(Dialect::OpenAi, false, &[&lines]);
    assert!(pass == lines && reading.failed);
}

#[test]
fn an_endless_event_passes_unread() {
    let mut meter = StreamMeter::new(Dialect::OpenAi, true);
    let mut passed = meter.read(Bytes::from_static(b"data: {\"choices\":\"")).pass.concat().len();
    for _ in 0..80 {
        passed += meter.read(Bytes::from(vec![b'x'; 64 * 1024])).pass.concat().len();
    }
    assert!(4 * 1024 * 1024 < passed);
}

#[test]
fn an_image_that_is_too_long_to_be_kept_reports_its_usage_all_the_same() {
    let image = "A".repeat(9 * 1024 * 1024);
    let event = |data: &str, tokens: u64| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"inlineData\":{{\"data\":\"{data}\"}}}}]}}}}],\
             \"usageMetadata\":{{\"promptTokenCount\":5,\"candidatesTokenCount\":{tokens}}}}}\r\n\r\n"
        )
    };
    for (stream, tokens) in [
        (event(&image, 1_290), 1_290),
        (event(&image, 1_290).trim_end().to_owned(), 1_290),
        (event(&image, 1_290) + &event("A", 1_300), 1_300),
        (event(&image, 1_290) + &event(&image, 2_580), 2_580),
    ] {
        let pieces: Vec<&str> = stream
            .as_bytes()
            .chunks(1_000_003)
            .map(|piece| std::str::from_utf8(piece).expect("text"))
            .collect();
        let (pass, end, reading) = run_in(Dialect::Gemini, false, &pieces);
        assert!(pass + &end == stream, "{tokens}");
        assert_eq!(reading.reported, Some(Usage::tokens_of(5, tokens)));
    }
}
