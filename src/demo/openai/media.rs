//! Images and audio, requested with JSON or a form.

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

/// A PNG image of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA\
     AABJRU5ErkJggg==";
/// Tokens of an input image, and of an output image by quality.
const INPUT_IMAGE_TOKENS: u64 = 50;
const OUTPUT_IMAGE_TOKENS: [(&str, u64); 3] = [("low", 272), ("medium", 1_056), ("high", 4_160)];
/// Length of speech in 8-bit samples at 8 kHz, and bytes per chunk.
const SAMPLES_PER_CHAR: usize = 160;
const CHUNK_BYTES: usize = 4_096;
/// Tokens per second of input audio, and of output audio.
const INPUT_TOKENS_PER_SECOND: u64 = 10;
const OUTPUT_TOKENS_PER_SECOND: u64 = 20;

/// Fields of a request: texts by name, and the size of each file in bytes.
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

/// Parses a request. Prompt commands are read from the field `prompt_field`.
pub fn read(
    request: &Request<Bytes>,
    prompt_field: &str,
) -> Result<DemoRequest<MediaParams>, OpenAiError> {
    let params = read_params(request.headers(), request.body())?;
    let script = read_script(request.headers(), params.text(prompt_field))?;
    let model = match params.text("model") {
        "" => "dall-e-2",
        named => named,
    };
    params.count("n")?;
    Ok(DemoRequest { model: model.to_owned(), script, params })
}

fn read_params(headers: &HeaderMap, body: &[u8]) -> Result<MediaParams, OpenAiError> {
    let unreadable = |what: &str| OpenAiError::invalid_request(what, None, None);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    let mut params = MediaParams::default();
    if content_type.starts_with("multipart/form-data") {
        let boundary = multipart::boundary(content_type).map_err(unreadable)?;
        multipart::parts(body, boundary, |part| {
            let value = &body[part.value];
            if part.is_file {
                params.files.push(value.len() as u64);
            } else {
                let text = String::from_utf8_lossy(value).into_owned();
                params.texts.insert(part.name.to_owned(), text);
            }
        })
        .map_err(|what| unreadable(&what))?;
        return Ok(params);
    }
    let fields: BTreeMap<String, Value> = serde_json::from_slice(body)
        .map_err(|_| unreadable("We could not parse the JSON body of your request."))?;
    for (name, value) in fields {
        match value {
            Value::String(text) => drop(params.texts.insert(name, text)),
            Value::Array(images) if name == "images" => {
                params.files.extend(images.iter().map(|_| 0));
            }
            other => drop(params.texts.insert(name, other.to_string())),
        }
    }
    Ok(params)
}

/// Returns as many images as requested.
pub fn images(request: &DemoRequest<MediaParams>) -> Reply {
    let params = &request.params;
    let count = params.count("n").unwrap_or(1);
    let of_quality =
        OUTPUT_IMAGE_TOKENS.iter().find(|(quality, _)| *quality == params.text("quality"));
    let output = of_quality.map_or(OUTPUT_IMAGE_TOKENS[1].1, |(_, tokens)| *tokens) * count;
    let (text_tokens, image_tokens) = (
        canned_text::estimate_tokens(params.text("prompt")),
        params.files.len() as u64 * INPUT_IMAGE_TOKENS,
    );
    let input = request.script.input_tokens.unwrap_or(text_tokens + image_tokens);
    let reports = request.script.reports_usage && request.model.contains("image");
    let usage = reports.then(|| {
        json!({
            "total_tokens": input + output, "input_tokens": input, "output_tokens": output,
            "input_tokens_details": {"text_tokens": input.saturating_sub(image_tokens), "image_tokens": image_tokens},
        })
    });
    let kind = if params.files.is_empty() { "image_generation" } else { "image_edit" };
    if params.is_stream() {
        let part = |index| json!({"b64_json": PIXEL, "partial_image_index": index});
        let partials = params.text("partial_images").parse().unwrap_or(0).min(3);
        let mut chunks: Vec<Bytes> = (0..partials)
            .map(|index| event(&format!("{kind}.partial_image"), part(index), None))
            .collect();
        chunks.push(event(&format!("{kind}.completed"), json!({"b64_json": PIXEL}), usage));
        return Reply::stream(EVENT_STREAM, chunks, OpenAiError::stream_error());
    }
    let data = vec![json!({"b64_json": PIXEL}); usize::try_from(count).unwrap_or(1)];
    Reply::complete(JSON, StatusCode::OK, with_usage(json!({"created": 1, "data": data}), usage))
}

/// Returns silence, as long as the text would take.
pub fn speech(request: &DemoRequest<MediaParams>) -> Reply {
    let chars = request.params.text("input").chars().count();
    let audio = wav(chars * SAMPLES_PER_CHAR);
    if request.params.is_stream() {
        let input = canned_text::estimate_tokens(request.params.text("input"));
        let output = (audio.len() as u64 * OUTPUT_TOKENS_PER_SECOND).div_ceil(8_000);
        let usage = request.script.reports_usage.then(|| {
            json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output})
        });
        let delta = event("speech.audio.delta", json!({"audio": "UklGRg=="}), None);
        let chunks = vec![delta, event("speech.audio.done", json!({}), usage)];
        return Reply::stream(EVENT_STREAM, chunks, OpenAiError::stream_error());
    }
    let chunks = audio.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
    let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("audio/wav"))];
    Reply { status: StatusCode::OK, headers, chunks, error_event: None }
}

/// Returns the fixed text for any audio.
pub fn transcription(request: &DemoRequest<MediaParams>) -> Reply {
    let (params, script) = (&request.params, &request.script);
    let tokens: Vec<String> =
        canned_text::tokens(script.tokens.unwrap_or_else(canned_text::default_tokens)).collect();
    let text = tokens.concat();
    let seconds = params.files.iter().sum::<u64>().div_ceil(8_000);
    let usage = script.reports_usage.then(|| {
        let (input, output) = (seconds * INPUT_TOKENS_PER_SECOND, tokens.len() as u64);
        match &*request.model {
            "whisper-1" => json!({"type": "duration", "seconds": seconds}),
            _ => json!({
                "type": "tokens", "input_tokens": input, "output_tokens": output,
                "input_token_details": {"text_tokens": 0, "audio_tokens": input},
                "total_tokens": input + output,
            }),
        }
    });
    if params.is_stream() {
        let delta = |token: &String| event("transcript.text.delta", json!({"delta": token}), None);
        let mut chunks: Vec<Bytes> = tokens.iter().map(delta).collect();
        chunks.push(event("transcript.text.done", json!({"text": text}), usage));
        return Reply::stream(EVENT_STREAM, chunks, OpenAiError::stream_error());
    }
    match params.text("response_format") {
        "text" | "srt" | "vtt" => {
            Reply::complete("text/plain; charset=utf-8", StatusCode::OK, text + "\n")
        }
        _ => Reply::complete(JSON, StatusCode::OK, with_usage(json!({"text": text}), usage)),
    }
}

fn with_usage(mut data: Value, usage: Option<Value>) -> String {
    if let Some(usage) = usage {
        data["usage"] = usage;
    }
    data.to_string()
}

fn event(kind: &str, mut data: Value, usage: Option<Value>) -> Bytes {
    data["type"] = kind.into();
    format!("event: {kind}\ndata: {}\n\n", with_usage(data, usage)).into()
}

/// Returns a WAV file of silence with 8-bit samples at 8 kHz.
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

    fn request(model: &str, texts: &[(&str, &str)], files: &[u64]) -> DemoRequest<MediaParams> {
        let text = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let params = MediaParams { texts: texts.iter().map(text).collect(), files: files.to_vec() };
        DemoRequest { model: model.to_owned(), script: Script::default(), params }
    }

    fn body(reply: &Reply) -> Value {
        serde_json::from_slice(&reply.chunks.concat()).expect("JSON")
    }

    #[test]
    fn json_and_form_requests_are_parsed() {
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
    fn the_requested_images_are_returned_and_some_models_report_tokens() {
        let created =
            body(&images(&request("gpt-image-1", &[("n", "2"), ("quality", "low")], &[9])));
        assert_eq!(created["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(created["usage"]["output_tokens"], 2 * 272);
        assert_eq!(created["usage"]["input_tokens_details"]["image_tokens"], 50);
        assert!(body(&images(&request("dall-e-3", &[], &[]))).get("usage").is_none());
        let texts = [("stream", "true"), ("partial_images", "2")];
        let stream = images(&request("gpt-image-1", &texts, &[]));
        assert_eq!(stream.chunks.len(), 3);
        assert!(stream.chunks[2].starts_with(b"event: image_generation.completed\n"));
    }

    #[test]
    fn speech_length_follows_the_text_and_sets_transcription_usage() {
        let reply = speech(&request("tts-1", &[("input", "x".repeat(100).as_str())], &[]));
        let audio = reply.chunks.concat();
        assert_eq!((audio.len(), reply.chunks.len()), (44 + 16_000, 4));
        let transcript = body(&transcription(&request("whisper-1", &[], &[audio.len() as u64])));
        assert_eq!(transcript["usage"]["seconds"], 3);
        let transcript = body(&transcription(&request("gpt-4o-transcribe", &[], &[8_000])));
        assert_eq!(transcript["usage"]["input_tokens"], 10);
        let text = transcription(&request("whisper-1", &[("response_format", "srt")], &[1]));
        assert!(text.chunks.concat().ends_with(b"metrics.\n"));
    }
}
