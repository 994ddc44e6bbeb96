//! Audio: spoken by the letter, heard by the second, or by tokens; and what every endpoint of media
//! refuses.

use std::time::Duration;

use crate::media::{FORM, Studio, form, spoken, wav};
use crate::told::{LIMITS, Told};
use crate::upstream::{Plan, Step};

const SPEECH: &str = "/v1/audio/speech";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TRANSLATIONS: &str = "/v1/audio/translations";

const A_LETTER: i128 = 15_000;
const A_SECOND: i128 = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn speech_is_paid_by_the_letter_and_passes_as_it_is() {
    let studio = Studio::new(|_| spoken(300)).await;
    let body = r#"{"model":"tts-1","voice":"alloy","input":"d\u00e9j\u00e0 vu \ud83d\ude00"}"#;
    let mut answer = studio.json(SPEECH, body).await;
    let id = answer.id();
    assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
    assert_eq!(answer.rest().await, (vec![0xff; 300 * 1024], true));
    let log = studio.cost(&id, "estimate", 9 * A_LETTER).await;
    assert_eq!(log.at("usage.characters").count(), 9, "{log}");
    assert_eq!(log.at("outcome").text(), "Completed", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_that_breaks_off_was_asked_for_all_the_same() {
    let studio = Studio::new(|_| spoken(3).but(2, Step::Stall).but(2, Step::Cut)).await;
    let body = r#"{"model":"tts-1","voice":"alloy","input":"hello"}"#;
    let mut answer = studio.json(SPEECH, body).await;
    let id = answer.id();
    studio.upstream.release();
    let (came, whole) = answer.rest().await;
    assert!(!whole && came.len() < 2 * 1024, "the client sees that it broke off");
    let log = studio.cost(&id, "estimate", 5 * A_LETTER).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_midst_of_a_speech_pays_for_all_of_it() {
    let studio = Studio::new(|_| spoken(3).but(1, Step::Stall)).await;
    let body = r#"{"model":"tts-1","voice":"alloy","input":"hello"}"#;
    let mut answer = studio.json(SPEECH, body).await;
    let id = answer.id();
    answer.piece().await.expect("whole").expect("a first piece");
    drop(answer);
    studio.upstream.release();
    let log = studio.cost(&id, "estimate", 5 * A_LETTER).await;
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_by_tokens_is_paid_by_its_report_or_as_it_was_held() {
    let done = "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n\
                data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":14,\
                \"output_tokens\":101,\"total_tokens\":115}}\n\n";
    let studio = Studio::new(move |seen| {
        if seen.wants("stream_format") || seen.body.contains("sse") {
            Plan::stream([done], Duration::ZERO)
        } else {
            spoken(2)
        }
    })
    .await;
    let sse =
        r#"{"model":"gpt-4o-mini-tts","voice":"alloy","input":"hello","stream_format":"sse"}"#;
    let answer = studio.json(SPEECH, sse).await;
    let id = answer.id();
    assert_eq!(answer.text().await, done);
    let log = studio.cost(&id, "usage", 14 * 600 + 101 * 12_000).await;
    assert_eq!(log.at("usage.outputAudioTokens").count(), 101, "{log}");

    let raw = r#"{"model":"gpt-4o-mini-tts","voice":"alloy","input":"hello"}"#;
    let mut answer = studio.json(SPEECH, raw).await;
    let id = answer.id();
    assert!(answer.rest().await.1);
    // Three tokens a letter, and a frame of 32.
    let held = raw.len() as i128 * 600 + (5 * 3 + 32) * 12_000;
    studio.cost(&id, "estimate", held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_heard_is_paid_by_the_seconds_that_are_reported_or_else_by_its_own() {
    let studio = Studio::new(|seen| {
        if seen.body.contains("srt") {
            let mut plan = Plan::json(200, "1\n00:00:00,000 --> 00:00:02,500\nhello\n");
            plan.headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
            plan
        } else {
            let usage = r#"{"type":"duration","seconds":2}"#;
            Plan::json(200, format!(r#"{{"text":"usage \"usage\":{{","usage":{usage}}}"#))
        }
    })
    .await;
    let file = wav(2_500);
    for path in [TRANSCRIPTIONS, TRANSLATIONS] {
        for (format, seconds, settled_by) in [("json", 2, "usage"), ("srt", 3, "estimate")] {
            let fields = [("model", "whisper-1"), ("response_format", format)];
            let answer = studio.form(path, &form(&fields, Some(("file", &file)))).await;
            assert_eq!(answer.status, 200);
            let id = answer.id();
            answer.text().await;
            let log = studio.cost(&id, settled_by, seconds * A_SECOND).await;
            let heard = log.at("usage.audioSeconds").count();
            assert_eq!(i128::from(heard), seconds, "{log}");
        }
    }
    // Nothing tells how long that is: a second for each thousand bytes.
    let fields = [("model", "whisper-1"), ("response_format", "srt")];
    let answer = studio.form(TRANSCRIPTIONS, &form(&fields, Some(("file", &[7; 9_001])))).await;
    let id = answer.id();
    answer.text().await;
    studio.cost(&id, "estimate", 10 * A_SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_by_tokens_is_paid_by_its_report_whole_or_streamed() {
    let usage = r#""usage":{"type":"tokens","input_tokens":30,"input_token_details":{"text_tokens":4,"audio_tokens":26},"output_tokens":45,"total_tokens":75}"#;
    let studio = Studio::new(move |seen| {
        if seen.body.contains("true") {
            let said = r#"data: {"type":"transcript.text.delta","delta":"hello"}"#;
            let done = format!(r#"data: {{"type":"transcript.text.done","text":"hello",{usage}}}"#);
            let pieces = [format!("{said}\n\n"), format!("{done}\n\n"), "data: [DONE]\n\n".into()];
            Plan::stream(pieces, Duration::ZERO)
        } else {
            Plan::json(200, format!(r#"{{"text":"hello",{usage}}}"#))
        }
    })
    .await;
    for stream in ["true", "false"] {
        let fields = [("model", "gpt-4o-transcribe"), ("stream", stream)];
        let answer = studio.form(TRANSCRIPTIONS, &form(&fields, Some(("file", &wav(2_500))))).await;
        let id = answer.id();
        assert!(answer.text().await.contains("hello"));
        let log = studio.cost(&id, "usage", 4 * 2_500 + 26 * 6_000 + 45 * 10_000).await;
        assert_eq!(log.at("usage.inputAudioTokens").count(), 26, "{log}");
        assert_eq!(log.at("usage.audioSeconds").count(), 0, "they have no price: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_of_media_refuses_an_empty_wallet_a_spent_limit_and_a_revoked_key() {
    let mut studio = Studio::new(|_| Plan::json(500, "{}")).await;
    let shown = |model| form(&[("model", model), ("prompt", "p")], Some(("image", b"png")));
    let heard = form(&[("model", "gpt-4o-transcribe")], Some(("file", &wav(100))));
    let calls: [(&str, &str, Vec<u8>); 8] = [
        (
            "/v1/images/generations",
            "application/json",
            br#"{"model":"dall-e-3","prompt":"p"}"#.into(),
        ),
        (
            "/v1/images/generations",
            "application/json",
            br#"{"model":"gpt-image-1","prompt":"p"}"#.into(),
        ),
        ("/v1/images/edits", FORM, shown("dall-e-2")),
        ("/v1/images/variations", FORM, shown("dall-e-2")),
        (SPEECH, "application/json", br#"{"model":"tts-1","input":"p"}"#.into()),
        (TRANSCRIPTIONS, FORM, form(&[("model", "whisper-1")], Some(("file", &wav(100))))),
        (TRANSCRIPTIONS, FORM, heard.clone()),
        (TRANSLATIONS, FORM, heard),
    ];
    let rich = studio.tenant.clone();
    studio.tenant = rich.found(&studio.served, 0, "{}").await;
    for (path, kind, body) in &calls {
        Told::by(studio.typed(path, kind, body).await).await.is(402, &["insufficient_balance"]);
    }
    studio.tenant = rich;
    for limit in &LIMITS {
        studio.tenant.quota(&limit.quota(0)).await;
        for (path, kind, body) in &calls {
            let told = Told::by(studio.typed(path, kind, body).await).await;
            told.is(429, &[limit.code]);
        }
    }
    studio.tenant.quota("{}").await;
    let path = studio.tenant.key_path("fresh").await;
    studio.tenant.ask(crate::client::Request::new("DELETE", &path)).await;
    for (path, kind, body) in &calls {
        Told::by(studio.typed(path, kind, body).await).await.is(401, &["invalid_api_key"]);
    }
}
