//! Images and audio: what is asked for, by JSON or by form, and what is made of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde_json::{Value, json};

use crate::demo::canned_text;
use crate::demo::openai::error::OpenAiError;
use crate::demo::reply::{EVENT_STREAM, JSON, Reply};
use crate::demo::request::{CHOICES_MAX, DemoRequest, positive_integer, read_script};
use crate::dialect::multipart;

/// An image of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA\
     AABJRU5ErkJggg==";
/// What an image comes to that is shown, and one that is made, by its quality.
const INPUT_IMAGE_TOKENS: u64 = 50;
const OUTPUT_IMAGE_TOKENS: [(&str, u64); 3] = [("low", 272), ("medium", 1_056), ("high", 4_160)];
/// Samples of sound for a letter, 8,000 of one byte a second, and how many come at once.
const SAMPLES_PER_CHAR: usize = 160;
const CHUNK_BYTES: usize = 4_096;
/// Tokens of a second that is heard, and of one that is spoken.
const INPUT_TOKENS_PER_SECOND: u64 = 10;
const OUTPUT_TOKENS_PER_SECOND: u64 = 20;

/// What a request has: texts by their names, and how many bytes each of its files has.
#[derive(Debug, Default)]
pub struct MediaParams {
    texts: BTreeMap<String, String>,
    files: Vec<u64>,
}

impl MediaParams {
    fn text(&self, name: &str) -> &str {
        self.texts.get(name).map(String::as_str).unwrap_or_default()
    }

    fn count(&self, name: &'static str) -> Result<u64, OpenAiError> {
        let number =
            |text: &String| text.parse::<u64>().map_or_else(|_| text[..].into(), Value::from);
        let value = self.texts.get(name).map(number);
        Ok(positive_integer(&value.unwrap_or_default(), name, CHOICES_MAX)?.unwrap_or(1))
    }

    fn is_stream(&self) -> bool {
        self.text("stream") == "true" || self.text("stream_format") == "sse"
    }
}

/// Reads a request; the script stands at the beginning of the text of that name.
pub fn read(request: &Request<Bytes>, text: &str) -> Result<DemoRequest<MediaParams>, OpenAiError> {
    let wish = read_params(request.headers(), request.body())?;
    let script = read_script(request.headers(), wish.text(text))?;
    let model = match wish.text("model") {
        "" => "dall-e-2",
        named => named,
    };
    wish.count("n")?;
    Ok(DemoRequest { model: model.to_owned(), script, params: wish })
}

fn read_params(headers: &HeaderMap, body: &[u8]) -> Result<MediaParams, OpenAiError> {
    let unreadable = |what: &str| OpenAiError::invalid_request(what, None, None);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    let mut wish = MediaParams::default();
    if content_type.starts_with("multipart/form-data") {
        let boundary = multipart::boundary(content_type).map_err(unreadable)?;
        multipart::parts(body, boundary, |part| {
            let value = &body[part.value];
            if part.is_file {
                wish.files.push(value.len() as u64);
            } else {
                let text = String::from_utf8_lossy(value).into_owned();
                wish.texts.insert(part.name.to_owned(), text);
            }
        })
        .map_err(|what| unreadable(&what))?;
        return Ok(wish);
    }
    let fields: BTreeMap<String, Value> = serde_json::from_slice(body)
        .map_err(|_| unreadable("We could not parse the JSON body of your request."))?;
    for (name, value) in fields {
        match value {
            Value::String(text) => drop(wish.texts.insert(name, text)),
            Value::Array(images) if name == "images" => wish.files.extend(images.iter().map(|_| 0)),
            other => drop(wish.texts.insert(name, other.to_string())),
        }
    }
    Ok(wish)
}

/// As many images as were asked for.
pub fn images(asked: &DemoRequest<MediaParams>) -> Reply {
    let wish = &asked.params;
    let count = wish.count("n").unwrap_or(1);
    let of_quality =
        OUTPUT_IMAGE_TOKENS.iter().find(|(quality, _)| *quality == wish.text("quality"));
    let made = of_quality.map_or(OUTPUT_IMAGE_TOKENS[1].1, |(_, tokens)| *tokens) * count;
    let (told, shown) = (
        canned_text::estimate_tokens(wish.text("prompt")),
        wish.files.len() as u64 * INPUT_IMAGE_TOKENS,
    );
    let input = asked.script.input_tokens.unwrap_or(told + shown);
    let reports = asked.script.reports_usage && asked.model.contains("image");
    let usage = reports.then(|| {
        json!({
            "total_tokens": input + made, "input_tokens": input, "output_tokens": made,
            "input_tokens_details": {"text_tokens": input.saturating_sub(shown), "image_tokens": shown},
        })
    });
    let kind = if wish.files.is_empty() { "image_generation" } else { "image_edit" };
    if wish.is_stream() {
        let part = |index| json!({"b64_json": PIXEL, "partial_image_index": index});
        let partials = wish.text("partial_images").parse().unwrap_or(0).min(3);
        let mut pieces: Vec<Bytes> = (0..partials)
            .map(|at| event(&format!("{kind}.partial_image"), part(at), None))
            .collect();
        pieces.push(event(&format!("{kind}.completed"), json!({"b64_json": PIXEL}), usage));
        return Reply::stream(EVENT_STREAM, pieces, OpenAiError::stream_error());
    }
    let data = vec![json!({"b64_json": PIXEL}); usize::try_from(count).unwrap_or(1)];
    Reply::complete(JSON, StatusCode::OK, with_usage(json!({"created": 1, "data": data}), usage))
}

/// A sound as long as its text, of which nothing can be heard.
pub fn speech(asked: &DemoRequest<MediaParams>) -> Reply {
    let letters = asked.params.text("input").chars().count();
    let sound = wav(letters * SAMPLES_PER_CHAR);
    if asked.params.is_stream() {
        let input = canned_text::estimate_tokens(asked.params.text("input"));
        let output = (sound.len() as u64 * OUTPUT_TOKENS_PER_SECOND).div_ceil(8_000);
        let usage = asked.script.reports_usage.then(|| {
            json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output})
        });
        let said = event("speech.audio.delta", json!({"audio": "UklGRg=="}), None);
        let pieces = vec![said, event("speech.audio.done", json!({}), usage)];
        return Reply::stream(EVENT_STREAM, pieces, OpenAiError::stream_error());
    }
    let pieces = sound.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
    let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("audio/wav"))];
    Reply { status: StatusCode::OK, headers, chunks: pieces, error_event: None }
}

/// What was heard: always the same words.
pub fn transcription(asked: &DemoRequest<MediaParams>) -> Reply {
    let (wish, script) = (&asked.params, &asked.script);
    let tokens: Vec<String> =
        canned_text::tokens(script.tokens.unwrap_or_else(canned_text::default_tokens)).collect();
    let text = tokens.concat();
    let seconds = wish.files.iter().sum::<u64>().div_ceil(8_000);
    let usage = script.reports_usage.then(|| {
        let (input, output) = (seconds * INPUT_TOKENS_PER_SECOND, tokens.len() as u64);
        match &*asked.model {
            "whisper-1" => json!({"type": "duration", "seconds": seconds}),
            _ => json!({
                "type": "tokens", "input_tokens": input, "output_tokens": output,
                "input_token_details": {"text_tokens": 0, "audio_tokens": input},
                "total_tokens": input + output,
            }),
        }
    });
    if wish.is_stream() {
        let said = |token: &String| event("transcript.text.delta", json!({"delta": token}), None);
        let mut pieces: Vec<Bytes> = tokens.iter().map(said).collect();
        pieces.push(event("transcript.text.done", json!({"text": text}), usage));
        return Reply::stream(EVENT_STREAM, pieces, OpenAiError::stream_error());
    }
    match wish.text("response_format") {
        "text" | "srt" | "vtt" => {
            Reply::complete("text/plain; charset=utf-8", StatusCode::OK, text + "\n")
        }
        _ => Reply::complete(JSON, StatusCode::OK, with_usage(json!({"text": text}), usage)),
    }
}

fn with_usage(mut said: Value, usage: Option<Value>) -> String {
    if let Some(usage) = usage {
        said["usage"] = usage;
    }
    said.to_string()
}

fn event(kind: &str, mut said: Value, usage: Option<Value>) -> Bytes {
    said["type"] = kind.into();
    format!("event: {kind}\ndata: {}\n\n", with_usage(said, usage)).into()
}

/// Silence: so many samples of one byte, 8,000 a second.
fn wav(samples: usize) -> Vec<u8> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let mut file = b"RIFF".to_vec();
    file.extend(size(36 + samples));
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data");
    file.extend(size(samples));
    file.resize(44 + samples, 0x80);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::script::Script;

    fn asked(model: &str, texts: &[(&str, &str)], files: &[u64]) -> DemoRequest<MediaParams> {
        let text = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let wish = MediaParams { texts: texts.iter().map(text).collect(), files: files.to_vec() };
        DemoRequest { model: model.to_owned(), script: Script::default(), params: wish }
    }

    fn body(reply: &Reply) -> Value {
        serde_json::from_slice(&reply.chunks.concat()).expect("JSON")
    }

    #[test]
    fn a_request_is_read_however_it_comes() {
        let form = "--B\r\ncontent-disposition: form-data; name=n\r\n\r\n2\r\n--B\r\n\
                    content-disposition: form-data; name=image; filename=x\r\n\r\npng\r\n--B--";
        let request = |kind: &str, body: &str| {
            let request = Request::builder().header("content-type", kind);
            request.body(Bytes::copy_from_slice(body.as_bytes())).expect("a request")
        };
        let parsed =
            read(&request("multipart/form-data; boundary=B", form), "prompt").expect("read");
        assert_eq!(
            (parsed.params.text("n"), &parsed.params.files[..], &*parsed.model),
            ("2", &[3][..], "dall-e-2")
        );
        let json = r#"{"model":"m","n":2,"images":[{}],"prompt":"/error 500"}"#;
        let parsed = read(&request("application/json", json), "prompt").expect("read");
        assert_eq!(
            (parsed.params.text("n"), parsed.params.files.len(), &*parsed.model),
            ("2", 1, "m")
        );
        assert_eq!(parsed.script.status, Some(500));
        for (kind, body) in [
            ("multipart/form-data", form),
            ("application/json", "["),
            ("application/json", r#"{"n":9}"#),
        ] {
            assert!(read(&request(kind, body), "prompt").is_err(), "{kind} {body}");
        }
    }

    #[test]
    fn images_are_as_many_as_asked_for_and_only_some_models_count_tokens() {
        let made = body(&images(&asked("gpt-image-1", &[("n", "2"), ("quality", "low")], &[9])));
        assert_eq!(made["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(made["usage"]["output_tokens"], 2 * 272);
        assert_eq!(made["usage"]["input_tokens_details"]["image_tokens"], 50);
        assert!(body(&images(&asked("dall-e-3", &[], &[]))).get("usage").is_none());
        let texts = [("stream", "true"), ("partial_images", "2")];
        let stream = images(&asked("gpt-image-1", &texts, &[]));
        assert_eq!(stream.chunks.len(), 3);
        assert!(stream.chunks[2].starts_with(b"event: image_generation.completed\n"));
    }

    #[test]
    fn a_sound_is_as_long_as_its_text_and_is_heard_as_it_was_made() {
        let spoken = speech(&asked("tts-1", &[("input", "x".repeat(100).as_str())], &[]));
        let sound = spoken.chunks.concat();
        assert_eq!((sound.len(), spoken.chunks.len()), (44 + 16_000, 4));
        let heard = body(&transcription(&asked("whisper-1", &[], &[sound.len() as u64])));
        assert_eq!(heard["usage"]["seconds"], 3);
        let heard = body(&transcription(&asked("gpt-4o-transcribe", &[], &[8_000])));
        assert_eq!(heard["usage"]["input_tokens"], 10);
        let text = transcription(&asked("whisper-1", &[("response_format", "srt")], &[1]));
        assert!(text.chunks.concat().ends_with(b"metrics.\n"));
    }
}
