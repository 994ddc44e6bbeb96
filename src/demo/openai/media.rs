//! Images and audio: what is asked for, by JSON or by form, and what is made of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde_json::{Value, json};

use crate::demo::ask::{Asked, CHOICES_MAX, script, whole};
use crate::demo::openai::complaint::Complaint;
use crate::demo::prose;
use crate::demo::reply::{EVENTS, JSON, Reply};
use crate::dialect::multipart;

/// An image of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA\
     AABJRU5ErkJggg==";
/// What an image comes to that is shown, and one that is made, by its quality.
const SHOWN_TOKENS: u64 = 50;
const MADE_TOKENS: [(&str, u64); 3] = [("low", 272), ("medium", 1_056), ("high", 4_160)];
/// Samples of sound for a letter, 8,000 of one byte a second, and how many come at once.
const SAMPLES: usize = 160;
const PIECE: usize = 4_096;
/// Tokens of a second that is heard, and of one that is spoken.
const HEARD_TOKENS: u64 = 10;
const SPOKEN_TOKENS: u64 = 20;

/// What a request has: texts by their names, and how many bytes each of its files has.
#[derive(Debug, Default)]
pub struct Wish {
    texts: BTreeMap<String, String>,
    files: Vec<u64>,
}

impl Wish {
    fn text(&self, name: &str) -> &str {
        self.texts.get(name).map(String::as_str).unwrap_or_default()
    }

    fn count(&self, name: &'static str) -> Result<u64, Complaint> {
        let number =
            |text: &String| text.parse::<u64>().map_or_else(|_| text[..].into(), Value::from);
        let value = self.texts.get(name).map(number);
        Ok(whole(&value.unwrap_or_default(), name, CHOICES_MAX)?.unwrap_or(1))
    }

    fn streams(&self) -> bool {
        self.text("stream") == "true" || self.text("stream_format") == "sse"
    }
}

/// Reads a request; the script stands at the beginning of the text of that name.
pub fn ask(request: &Request<Bytes>, text: &str) -> Result<Asked<Wish>, Complaint> {
    let wish = wish(request.headers(), request.body())?;
    let script = script(request.headers(), wish.text(text))?;
    let model = match wish.text("model") {
        "" => "dall-e-2",
        named => named,
    };
    wish.count("n")?;
    Ok(Asked { model: model.to_owned(), script, wish })
}

fn wish(headers: &HeaderMap, body: &[u8]) -> Result<Wish, Complaint> {
    let unreadable = |what: &str| Complaint::about(what, None, None);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    let mut wish = Wish::default();
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
pub fn images(asked: &Asked<Wish>) -> Reply {
    let wish = &asked.wish;
    let count = wish.count("n").unwrap_or(1);
    let of_quality = MADE_TOKENS.iter().find(|(quality, _)| *quality == wish.text("quality"));
    let made = of_quality.map_or(MADE_TOKENS[1].1, |(_, tokens)| *tokens) * count;
    let (told, shown) =
        (prose::tokens_of(wish.text("prompt")), wish.files.len() as u64 * SHOWN_TOKENS);
    let input = asked.script.input_tokens.unwrap_or(told + shown);
    let reports = asked.script.reports_usage && asked.model.contains("image");
    let usage = reports.then(|| {
        json!({
            "total_tokens": input + made, "input_tokens": input, "output_tokens": made,
            "input_tokens_details": {"text_tokens": input.saturating_sub(shown), "image_tokens": shown},
        })
    });
    let kind = if wish.files.is_empty() { "image_generation" } else { "image_edit" };
    if wish.streams() {
        let part = |index| json!({"b64_json": PIXEL, "partial_image_index": index});
        let partials = wish.text("partial_images").parse().unwrap_or(0).min(3);
        let mut pieces: Vec<Bytes> = (0..partials)
            .map(|at| event(&format!("{kind}.partial_image"), part(at), None))
            .collect();
        pieces.push(event(&format!("{kind}.completed"), json!({"b64_json": PIXEL}), usage));
        return Reply::stream(EVENTS, pieces, Complaint::breakoff());
    }
    let data = vec![json!({"b64_json": PIXEL}); usize::try_from(count).unwrap_or(1)];
    Reply::whole(JSON, StatusCode::OK, with_usage(json!({"created": 1, "data": data}), usage))
}

/// A sound as long as its text, of which nothing can be heard.
pub fn speech(asked: &Asked<Wish>) -> Reply {
    let letters = asked.wish.text("input").chars().count();
    let sound = wav(letters * SAMPLES);
    if asked.wish.streams() {
        let input = prose::tokens_of(asked.wish.text("input"));
        let output = (sound.len() as u64 * SPOKEN_TOKENS).div_ceil(8_000);
        let usage = asked.script.reports_usage.then(|| {
            json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output})
        });
        let said = event("speech.audio.delta", json!({"audio": "UklGRg=="}), None);
        let pieces = vec![said, event("speech.audio.done", json!({}), usage)];
        return Reply::stream(EVENTS, pieces, Complaint::breakoff());
    }
    let pieces = sound.chunks(PIECE).map(Bytes::copy_from_slice).collect();
    let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("audio/wav"))];
    Reply { status: StatusCode::OK, headers, pieces, breakoff: None }
}

/// What was heard: always the same words.
pub fn transcript(asked: &Asked<Wish>) -> Reply {
    let (wish, script) = (&asked.wish, &asked.script);
    let tokens: Vec<String> =
        prose::tokens(script.tokens.unwrap_or_else(prose::usual_tokens)).collect();
    let text = tokens.concat();
    let seconds = wish.files.iter().sum::<u64>().div_ceil(8_000);
    let usage = script.reports_usage.then(|| {
        let (input, output) = (seconds * HEARD_TOKENS, tokens.len() as u64);
        match &*asked.model {
            "whisper-1" => json!({"type": "duration", "seconds": seconds}),
            _ => json!({
                "type": "tokens", "input_tokens": input, "output_tokens": output,
                "input_token_details": {"text_tokens": 0, "audio_tokens": input},
                "total_tokens": input + output,
            }),
        }
    });
    if wish.streams() {
        let said = |token: &String| event("transcript.text.delta", json!({"delta": token}), None);
        let mut pieces: Vec<Bytes> = tokens.iter().map(said).collect();
        pieces.push(event("transcript.text.done", json!({"text": text}), usage));
        return Reply::stream(EVENTS, pieces, Complaint::breakoff());
    }
    match wish.text("response_format") {
        "text" | "srt" | "vtt" => {
            Reply::whole("text/plain; charset=utf-8", StatusCode::OK, text + "\n")
        }
        _ => Reply::whole(JSON, StatusCode::OK, with_usage(json!({"text": text}), usage)),
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

    fn asked(model: &str, texts: &[(&str, &str)], files: &[u64]) -> Asked<Wish> {
        let text = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let wish = Wish { texts: texts.iter().map(text).collect(), files: files.to_vec() };
        Asked { model: model.to_owned(), script: Script::default(), wish }
    }

    fn body(reply: &Reply) -> Value {
        serde_json::from_slice(&reply.pieces.concat()).expect("JSON")
    }

    #[test]
    fn a_request_is_read_however_it_comes() {
        let form = "--B\r\ncontent-disposition: form-data; name=n\r\n\r\n2\r\n--B\r\n\
                    content-disposition: form-data; name=image; filename=x\r\n\r\npng\r\n--B--";
        let request = |kind: &str, body: &str| {
            let request = Request::builder().header("content-type", kind);
            request.body(Bytes::copy_from_slice(body.as_bytes())).expect("a request")
        };
        let read = ask(&request("multipart/form-data; boundary=B", form), "prompt").expect("read");
        assert_eq!(
            (read.wish.text("n"), &read.wish.files[..], &*read.model),
            ("2", &[3][..], "dall-e-2")
        );
        let json = r#"{"model":"m","n":2,"images":[{}],"prompt":"/error 500"}"#;
        let read = ask(&request("application/json", json), "prompt").expect("read");
        assert_eq!((read.wish.text("n"), read.wish.files.len(), &*read.model), ("2", 1, "m"));
        assert_eq!(read.script.status, Some(500));
        for (kind, body) in [
            ("multipart/form-data", form),
            ("application/json", "["),
            ("application/json", r#"{"n":9}"#),
        ] {
            assert!(ask(&request(kind, body), "prompt").is_err(), "{kind} {body}");
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
        assert_eq!(stream.pieces.len(), 3);
        assert!(stream.pieces[2].starts_with(b"event: image_generation.completed\n"));
    }

    #[test]
    fn a_sound_is_as_long_as_its_text_and_is_heard_as_it_was_made() {
        let spoken = speech(&asked("tts-1", &[("input", "x".repeat(100).as_str())], &[]));
        let sound = spoken.pieces.concat();
        assert_eq!((sound.len(), spoken.pieces.len()), (44 + 16_000, 4));
        let heard = body(&transcript(&asked("whisper-1", &[], &[sound.len() as u64])));
        assert_eq!(heard["usage"]["seconds"], 3);
        let heard = body(&transcript(&asked("gpt-4o-transcribe", &[], &[8_000])));
        assert_eq!(heard["usage"]["input_tokens"], 10);
        let text = transcript(&asked("whisper-1", &[("response_format", "srt")], &[1]));
        assert!(text.pieces.concat().ends_with(b"metrics.\n"));
    }
}
