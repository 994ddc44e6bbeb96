//! Audio: speech billed per character, transcription per second, or both per token; and the
//! refusals of all media endpoints.

use std::time::Duration;

use crate::harness::limit_assertions::{FullResponse, LIMITS};
use crate::harness::media::{FORM_CONTENT_TYPE, MediaGateway, audio_plan, multipart_form, wav};
use crate::harness::upstream::{Plan, Step};

const SPEECH: &str = "/v1/audio/speech";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TRANSLATIONS: &str = "/v1/audio/translations";

const NANO_PER_CHARACTER: i128 = 15_000;
const NANO_PER_SECOND: i128 = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn speech_is_billed_per_character_and_passes_unmodified() {
    let gateway = MediaGateway::new(|_| audio_plan(300)).await;
    let body = r#"{"model":"tts-1","voice":"alloy","input":"d\u00e9j\u00e0 vu \ud83d\ude00"}"#;
    let mut response = gateway.post_json(SPEECH, body).await;
    let id = response.id();
    assert_eq!(response.header("content-type"), Some("audio/mpeg"));
    assert_eq!(response.read_to_end().await, (vec![0xff; 300 * 1024], true));
    let log = gateway.assert_cost(&id, "estimate", 9 * NANO_PER_CHARACTER).await;
    assert_eq!(log.at("usage.characters").count(), 9, "{log}");
    assert_eq!(log.at("outcome").text(), "Completed", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_speech_is_billed_in_full() {
    let gateway =
        MediaGateway::new(|_| audio_plan(3).insert_step(2, Step::Stall).insert_step(2, Step::Cut))
            .await;
    let body = r#"{"model":"tts-1","voice":"alloy","input":"hello"}"#;
    let mut response = gateway.post_json(SPEECH, body).await;
    let id = response.id();
    gateway.upstream.release();
    let (received, complete) = response.read_to_end().await;
    assert!(!complete && received.len() < 2 * 1024, "the client sees the interruption");
    let log = gateway.assert_cost(&id, "estimate", 5 * NANO_PER_CHARACTER).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_during_speech_is_billed_in_full() {
    let gateway = MediaGateway::new(|_| audio_plan(3).insert_step(1, Step::Stall)).await;
    let body = r#"{"model":"tts-1","voice":"alloy","input":"hello"}"#;
    let mut response = gateway.post_json(SPEECH, body).await;
    let id = response.id();
    response.piece().await.expect("whole").expect("a first piece");
    drop(response);
    gateway.upstream.release();
    let log = gateway.assert_cost(&id, "estimate", 5 * NANO_PER_CHARACTER).await;
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_priced_speech_is_billed_by_report_or_hold() {
    let done = "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n\
                data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":14,\
                \"output_tokens\":101,\"total_tokens\":115}}\n\n";
    let gateway = MediaGateway::new(move |seen| {
        if seen.is_set("stream_format") || seen.body.contains("sse") {
            Plan::stream([done], Duration::ZERO)
        } else {
            audio_plan(2)
        }
    })
    .await;
    let sse =
        r#"{"model":"gpt-4o-mini-tts","voice":"alloy","input":"hello","stream_format":"sse"}"#;
    let response = gateway.post_json(SPEECH, sse).await;
    let id = response.id();
    assert_eq!(response.text().await, done);
    let log = gateway.assert_cost(&id, "usage", 14 * 600 + 101 * 12_000).await;
    assert_eq!(log.at("usage.outputAudioTokens").count(), 101, "{log}");

    let raw = r#"{"model":"gpt-4o-mini-tts","voice":"alloy","input":"hello"}"#;
    let mut response = gateway.post_json(SPEECH, raw).await;
    let id = response.id();
    assert!(response.read_to_end().await.1);
    // The hold: three tokens per character plus 32.
    let held = raw.len() as i128 * 600 + (5 * 3 + 32) * 12_000;
    gateway.assert_cost(&id, "estimate", held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transcription_is_billed_by_reported_or_measured_seconds() {
    let gateway = MediaGateway::new(|seen| {
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
            let response =
                gateway.post_form(path, &multipart_form(&fields, Some(("file", &file)))).await;
            assert_eq!(response.status, 200);
            let id = response.id();
            response.text().await;
            let log = gateway.assert_cost(&id, settled_by, seconds * NANO_PER_SECOND).await;
            let transcribe_seconds = log.at("usage.audioSeconds").count();
            assert_eq!(i128::from(transcribe_seconds), seconds, "{log}");
        }
    }
    // The duration of this file is unknown: one second per thousand bytes.
    let fields = [("model", "whisper-1"), ("response_format", "srt")];
    let response = gateway
        .post_form(TRANSCRIPTIONS, &multipart_form(&fields, Some(("file", &[7; 9_001]))))
        .await;
    let id = response.id();
    response.text().await;
    gateway.assert_cost(&id, "estimate", 10 * NANO_PER_SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_priced_transcripts_are_billed_by_report() {
    let usage = r#""usage":{"type":"tokens","input_tokens":30,"input_token_details":{"text_tokens":4,"audio_tokens":26},"output_tokens":45,"total_tokens":75}"#;
    let gateway = MediaGateway::new(move |seen| {
        if seen.body.contains("true") {
            let delta = r#"data: {"type":"transcript.text.delta","delta":"hello"}"#;
            let done = format!(r#"data: {{"type":"transcript.text.done","text":"hello",{usage}}}"#);
            let pieces = [format!("{delta}\n\n"), format!("{done}\n\n"), "data: [DONE]\n\n".into()];
            Plan::stream(pieces, Duration::ZERO)
        } else {
            Plan::json(200, format!(r#"{{"text":"hello",{usage}}}"#))
        }
    })
    .await;
    for stream in ["true", "false"] {
        let fields = [("model", "gpt-4o-transcribe"), ("stream", stream)];
        let response = gateway
            .post_form(TRANSCRIPTIONS, &multipart_form(&fields, Some(("file", &wav(2_500)))))
            .await;
        let id = response.id();
        assert!(response.text().await.contains("hello"));
        let log = gateway.assert_cost(&id, "usage", 4 * 2_500 + 26 * 6_000 + 45 * 10_000).await;
        assert_eq!(log.at("usage.inputAudioTokens").count(), 26, "{log}");
        assert_eq!(log.at("usage.audioSeconds").count(), 0, "seconds have no price: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn media_endpoints_enforce_wallet_limits_and_key_revocation() {
    let mut gateway = MediaGateway::new(|_| Plan::json(500, "{}")).await;
    let image_form =
        |model| multipart_form(&[("model", model), ("prompt", "p")], Some(("image", b"png")));
    let transcribe_seconds =
        multipart_form(&[("model", "gpt-4o-transcribe")], Some(("file", &wav(100))));
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
        ("/v1/images/edits", FORM_CONTENT_TYPE, image_form("dall-e-2")),
        ("/v1/images/variations", FORM_CONTENT_TYPE, image_form("dall-e-2")),
        (SPEECH, "application/json", br#"{"model":"tts-1","input":"p"}"#.into()),
        (
            TRANSCRIPTIONS,
            FORM_CONTENT_TYPE,
            multipart_form(&[("model", "whisper-1")], Some(("file", &wav(100)))),
        ),
        (TRANSCRIPTIONS, FORM_CONTENT_TYPE, transcribe_seconds.clone()),
        (TRANSLATIONS, FORM_CONTENT_TYPE, transcribe_seconds),
    ];
    let funded = gateway.tenant.clone();
    gateway.tenant = funded.create_tenant(&gateway.server, 0, "{}").await;
    for (path, kind, body) in &calls {
        FullResponse::read(gateway.post(path, kind, body).await)
            .await
            .assert_error(402, &["insufficient_balance"]);
    }
    gateway.tenant = funded;
    for limit in &LIMITS {
        gateway.tenant.set_quota(&limit.quota_json(0)).await;
        for (path, kind, body) in &calls {
            let refusal = FullResponse::read(gateway.post(path, kind, body).await).await;
            refusal.assert_error(429, &[limit.code]);
        }
    }
    gateway.tenant.set_quota("{}").await;
    let path = gateway.tenant.key_path("fresh").await;
    gateway.tenant.send(crate::harness::client::Request::new("DELETE", &path)).await;
    for (path, kind, body) in &calls {
        FullResponse::read(gateway.post(path, kind, body).await)
            .await
            .assert_error(401, &["invalid_api_key"]);
    }
}
