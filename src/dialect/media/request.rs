//! Reads the policy fields of requests for images and audio, as JSON or as a form.

use crate::dialect::call_facts::{CallFacts, ParseError};
use crate::dialect::external_refs::ExternalRefs;
use crate::dialect::field_kinds::{
    CHOICES_MAX, Choices, Count, Flag, Json, ModelName, ModelOverride, TextField,
};
use crate::dialect::json;
use crate::dialect::media::audio_duration;
use crate::dialect::multipart::Part;
use crate::dialect::policy_fields::policy_fields;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

/// Tokens of an image of [`REFERENCE_PIXELS`] in low, medium and high quality.
const IMAGE_TOKENS_BY_QUALITY: [u64; 3] = [272, 1_056, 4_160];
const REFERENCE_PIXELS: u64 = 1 << 20;
/// Pixels of the largest size that providers choose for `auto`.
const AUTO_SIZE_PIXELS: u64 = 1024 * 1536;
/// Pixels assumed for a size that cannot be parsed.
const PIXELS_MAX: u64 = 1 << 24;
const FRAMES_MAX: u64 = 128;
/// Tokens of a partial image, which a stream sends before the image is complete.
const PARTIAL_IMAGE_TOKENS: u64 = 100;
/// Maximum tokens of an image in the input.
const INPUT_IMAGE_TOKENS_MAX: u64 = 7_000;
/// Maximum tokens of a second of audio in the input.
const AUDIO_TOKENS_PER_SECOND: u64 = 10;
/// Maximum tokens that a provider adds to any text.
const OVERHEAD_TOKENS: u64 = 32;
/// Maximum tokens of speech per character: 20 tokens and at least 7 characters a second.
const SPEECH_TOKENS_PER_CHARACTER: u64 = 3;
/// Maximum factor by which `speed` can slow down speech.
const SLOW_SPEECH_FACTOR: u64 = 4;

/// OpenAI's documented default model for images. The gateway adds it to the request because the
/// upstream's default may depend on other fields.
const DEFAULT_MODEL: &str = "dall-e-2";

policy_fields! {
    struct ImageFields from json, form {
        model: ModelName = "model",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
        images: Choices = "n",
        size: TextField = "size",
        quality: TextField = "quality",
        stream: Flag = "stream",
        partial_images: Count = "partial_images",
        frame_count: Count = "frame_count",
        prompt: TextField = "prompt",
    }
}

policy_fields! {
    struct SpeechFields from json {
        model: ModelName = "model",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
        input: TextField = "input",
        stream_format: TextField = "stream_format",
        speed: Json = "speed",
    }
}

policy_fields! {
    struct TranscriptionFields from form {
        model: ModelName = "model",
        models: ModelOverride = "models",
        route: ModelOverride = "route",
        fallbacks: ModelOverride = "fallbacks",
        stream: Flag = "stream",
        url: Json = "url",
    }
}

/// Totals of the parts of a form that are not policy fields.
#[derive(Debug, Default)]
struct FormTotals {
    files: u64,
    audio_seconds: u64,
    text_bytes: u64,
}

impl FormTotals {
    fn add(&mut self, body: &[u8], part: &Part<'_>) {
        if part.is_file {
            self.files += 1;
            self.audio_seconds += audio_duration::seconds(&body[part.value.clone()]);
        } else {
            self.text_bytes += part.value.len() as u64;
        }
    }
}

/// Reads a JSON request to generate images.
pub fn image_generation(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = ImageFields::from_json(body)?;
    fields.prompt().required()?;
    images(&fields, first_field_start(body))
}

/// Reads a JSON request to edit images.
pub fn image_edit(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = ImageFields::from_json(body)?;
    let prompt = fields.prompt().required()?;
    let mut facts = images(&fields, first_field_start(body))?;
    let mut input_images = 0;
    json::each_named(body, &["image", "images", "mask"], |images| {
        json::elements(images, |image| {
            input_images += 1;
            json::each_named(image, &["file_id"], |id| {
                if id != b"null" {
                    facts.external_refs.add_state_ref("file_id");
                }
            });
        });
    });
    // A stored file is an image too, so `media_tokens` bounds all of the input.
    facts.external_refs.has_external_content = false;
    facts.external_refs.media_tokens = Some(image_prompt_tokens(prompt.len() as u64, input_images));
    Ok(facts)
}

/// Reads a form to edit or vary images.
pub fn image_form(boundary: &str, body: &[u8]) -> Result<CallFacts, ParseError> {
    let mut totals = FormTotals::default();
    let fields = ImageFields::from_form(body, boundary, |part| totals.add(body, part))?;
    let mut facts = images(&fields, 0)?;
    let prompt_bytes = fields.prompt().get().map_or(0, |prompt| prompt.len() as u64);
    let text_bytes = prompt_bytes.saturating_add(totals.text_bytes);
    facts.external_refs.media_tokens = Some(image_prompt_tokens(text_bytes, totals.files));
    Ok(facts)
}

/// Returns the maximum of input tokens of a prompt with images.
fn image_prompt_tokens(text_bytes: u64, images: u64) -> u64 {
    OVERHEAD_TOKENS + text_bytes + images * INPUT_IMAGE_TOKENS_MAX
}

/// Returns the position of the first field of a JSON object.
fn first_field_start(body: &[u8]) -> usize {
    body.iter().position(|byte| *byte == b'{').map_or(0, |open| open + 1)
}

/// Reads what all requests for images have in common. A body without a model gets one at
/// `model_insert_at`.
fn images(fields: &ImageFields<'_>, model_insert_at: usize) -> Result<CallFacts, ParseError> {
    let model = match fields.model().span() {
        None => DEFAULT_MODEL.to_owned(),
        Some(_) => fields.model().name()?,
    };
    let images = fields.images().get()?.unwrap_or(1);
    let tokens_per_reference = match fields.quality().get().as_deref() {
        Some("low") => IMAGE_TOKENS_BY_QUALITY[0],
        Some("medium" | "standard") => IMAGE_TOKENS_BY_QUALITY[1],
        _ => IMAGE_TOKENS_BY_QUALITY[2],
    };
    let pixels = fields.size().get().map_or(AUTO_SIZE_PIXELS, |size| pixels(&size));
    let frame_tokens = (pixels * tokens_per_reference).div_ceil(REFERENCE_PIXELS);
    let partial_images = fields.partial_images().get()?.unwrap_or_default().min(CHOICES_MAX);
    let frames = fields.frame_count().get()?.unwrap_or(1).clamp(1, FRAMES_MAX);
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let mut facts = without_bound(model, &fields.model());
    if facts.model_spans.is_empty() {
        facts.model_spans.push(model_insert_at..model_insert_at);
    }
    facts.stream = fields.stream().get()?;
    facts.output_tokens_max = Some(frame_tokens * frames + partial_images * PARTIAL_IMAGE_TOKENS);
    facts.choices = images;
    facts.hides_output = true;
    facts.item_units_max = UnitCounts::of(Unit::Images, images * frames);
    Ok(facts)
}

fn without_bound(model: String, field: &ModelName<'_>) -> CallFacts {
    let facts = CallFacts::without_output(model, field.span(), ExternalRefs::default());
    CallFacts { output_tokens_max: None, ..facts }
}

/// Returns the pixels of a size such as `1024x1536` or `auto`.
fn pixels(size: &str) -> u64 {
    if size == "auto" {
        return AUTO_SIZE_PIXELS;
    }
    let product = size.split_once('x').and_then(|(width, height)| {
        Some(u64::from(width.parse::<u16>().ok()?) * u64::from(height.parse::<u16>().ok()?))
    });
    product.filter(|pixels| 0 < *pixels).map_or(PIXELS_MAX, |pixels| pixels.min(PIXELS_MAX))
}

/// Reads a request to speak a text.
pub fn speech(body: &[u8]) -> Result<CallFacts, ParseError> {
    let fields = SpeechFields::from_json(body)?;
    let characters = fields.input().required()?.chars().count() as u64;
    let is_slow = fields.speed().value().is_some_and(|speed| speed.starts_with(b"0"));
    let factor = if is_slow { SLOW_SPEECH_FACTOR } else { 1 };
    let model = fields.model().name()?;
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let mut facts = without_bound(model, &fields.model());
    facts.stream = fields.stream_format().get().as_deref() == Some("sse");
    facts.output_tokens_max =
        Some(characters * SPEECH_TOKENS_PER_CHARACTER * factor + OVERHEAD_TOKENS);
    facts.hides_output = true;
    facts.item_units_max = UnitCounts::of(Unit::Characters, characters);
    Ok(facts)
}

/// Reads a form to transcribe or translate audio.
pub fn transcription_form(boundary: &str, body: &[u8]) -> Result<CallFacts, ParseError> {
    let mut totals = FormTotals::default();
    let fields = TranscriptionFields::from_form(body, boundary, |part| totals.add(body, part))?;
    if fields.url().non_empty().is_some() {
        return Err(fields.url().error("is not supported; upload the audio as `file`"));
    }
    if totals.files == 0 {
        let what = "is required: send the audio as a file part of the form";
        return Err(ParseError::for_field("file", what));
    }
    let model = fields.model().name()?;
    fields.models().reject()?;
    fields.route().reject()?;
    fields.fallbacks().reject()?;
    let mut facts = without_bound(model, &fields.model());
    facts.stream = fields.stream().get()?;
    let audio_tokens = totals.audio_seconds * AUDIO_TOKENS_PER_SECOND;
    facts.external_refs.media_tokens = Some(OVERHEAD_TOKENS + totals.text_bytes + audio_tokens);
    let audio_seconds = totals.audio_seconds;
    facts.item_units_max = UnitCounts::of(Unit::AudioSeconds, audio_seconds);
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form_of(fields: &[(&str, &str)], files: &[&str]) -> String {
        let part = |head: &str, value: &str| {
            format!("--B\r\ncontent-disposition: form-data; name={head}\r\n\r\n{value}\r\n")
        };
        let fields = fields.iter().map(|(name, value)| part(name, value));
        let files = files.iter().map(|name| part(&format!("{name}; filename=x"), "0123456789"));
        fields.chain(files).collect::<String>() + "--B--\r\n"
    }

    fn read_form(
        parse: fn(&str, &[u8]) -> Result<CallFacts, ParseError>,
        fields: &[(&str, &str)],
        files: &[&str],
    ) -> Result<CallFacts, ParseError> {
        parse("B", form_of(fields, files).as_bytes())
    }

    fn generation(rest: &str) -> Result<CallFacts, ParseError> {
        let body = format!(r#"{{"model":"m","prompt":"a cat"{rest}}}"#);
        image_generation(body.as_bytes())
    }

    #[test]
    fn images_are_bound_by_the_most_expensive_possible_option() {
        for (rest, images, of_each) in [
            ("", 1, 6_240),
            (r#","n":3,"size":"auto","quality":"auto""#, 3, 6_240),
            (r#","size":"1024x1024","quality":"low""#, 1, 272),
            (r#","size":"1024x1536","quality":"low""#, 1, 408),
            (r#","size":"1024x1024","quality":"medium""#, 1, 1_056),
            (r#","size":"1024x1536","quality":"medium""#, 1, 1_584),
            (r#","size":"1024x1024","quality":"high""#, 1, 4_160),
            (r#","size":"256x256","quality":"standard""#, 1, 66),
            (r#","size":"1792x1024","quality":"hd""#, 1, 7_280),
            (r#","size":"4K","quality":"low""#, 1, 272 * 16),
            (r#","size":"0x9","quality":"low""#, 1, 272 * 16),
            (r#","size":"1024x1024","quality":"low","stream":true,"partial_images":3"#, 1, 572),
            (r#","size":"1024x1024","quality":"low","frame_count":4"#, 1, 1_088),
        ] {
            let request = generation(rest).expect(rest);
            assert_eq!(request.output_tokens_max, Some(of_each), "{rest}");
            assert_eq!(request.choices, images, "{rest}");
            assert_eq!(request.stream, rest.contains("stream"), "{rest}");
            assert_eq!(request.external_refs.media_tokens, None, "{rest}");
        }
        let pieces = |rest| generation(rest).expect("valid").item_units_max.get(Unit::Images);
        assert_eq!((pieces(""), pieces(r#","n":3,"frame_count":4"#)), (1, 12));
    }

    #[test]
    fn errors_name_the_field() {
        for (rest, param) in [
            (r#","n":0"#, "n"),
            (r#","n":129"#, "n"),
            (r#","n":"2""#, "n"),
            (r#","n":1,"n":2"#, "n"),
            (r#","Size":"1x1""#, "size"),
            (r#","stream":"true""#, "stream"),
            (r#","partial_images":-1"#, "partial_images"),
            (r#","models":["dear"]"#, "models"),
        ] {
            assert_eq!(generation(rest).expect_err(rest).param, Some(param), "{rest}");
        }
        let read_speech = |body: &str| speech(body.as_bytes()).map(|_| ());
        for (body, param) in [
            (r#"{"model":"m"}"#, "input"),
            (r#"{"input":"x"}"#, "model"),
            (r#"{"model":"m","input":["x"]}"#, "input"),
            (r#"{"model":"m","input":"x","fallbacks":[1]}"#, "fallbacks"),
        ] {
            assert_eq!(read_speech(body).expect_err(body).param, Some(param), "{body}");
        }
        let transcribe = |fields: &[(&str, &str)]| read_form(transcription_form, fields, &["file"]);
        for (fields, param) in [
            (&[][..], "model"),
            (&[("model", "")], "model"),
            (&[("model", "a"), ("model", "b")], "model"),
            (&[("model[]", "a")], "model"),
            (&[("Model", "a")], "model"),
            (&[("model", "m"), ("stream", "1")], "stream"),
            (&[("model", "m"), ("url", "http://x")], "url"),
        ] {
            assert_eq!(transcribe(fields).expect_err(param).param, Some(param), "{fields:?}");
        }
        let read = read_form(transcription_form, &[("model", "m")], &[]);
        assert_eq!(read.expect_err("silence").param, Some("file"));
        let read = read_form(transcription_form, &[], &["model"]);
        assert_eq!(read.expect_err("a file").param, Some("model"));
    }

    #[test]
    fn input_images_and_audio_have_media_tokens() {
        let edit = read_form(
            image_form,
            &[("model", "m"), ("prompt", "abc"), ("n", "2"), ("user", "u")],
            &["image[]", "image[]", "mask"],
        );
        let edit = edit.expect("valid");
        assert_eq!(edit.external_refs.media_tokens, Some(32 + 4 + 3 * 7_000));
        assert_eq!((edit.choices, edit.item_units_max.get(Unit::Images)), (2, 2));
        let body =
            br#"{"prompt":"abc","images":[{"image_url":"data:,"},{"file_id":"f"}],"mask":{}}"#;
        let edit = image_edit(body).expect("valid");
        assert_eq!(edit.external_refs.media_tokens, Some(32 + 3 + 3 * 7_000));
        assert!(edit.external_refs.state.is_some() && !edit.external_refs.has_external_content);
        let fields = [("model", "m"), ("prompt", "abc")];
        let audio = read_form(transcription_form, &fields, &["file"]).expect("valid");
        assert_eq!(audio.external_refs.media_tokens, Some(32 + 3 + 10));
        assert_eq!(
            (audio.item_units_max.get(Unit::AudioSeconds), audio.output_tokens_max),
            (1, None)
        );
    }

    #[test]
    fn speech_is_counted_by_characters() {
        let read = |body: &str| speech(body.as_bytes()).expect("valid");
        let plain = read(r#"{"model":"m","input":"d\u00e9j\u00e0 \ud83d\ude00"}"#);
        assert_eq!(plain.item_units_max.get(Unit::Characters), 6);
        assert_eq!((plain.output_tokens_max, plain.stream), (Some(6 * 3 + 32), false));
        let slow = read(r#"{"model":"m","input":"a","speed":0.25,"stream_format":"sse"}"#);
        assert_eq!((slow.output_tokens_max, slow.stream), (Some(12 + 32), true));
    }

    #[test]
    fn a_missing_model_is_added_for_the_upstream() {
        let name = "\"other \\\"m\\\"\"";
        let renamed = |request: &CallFacts, body: &str| {
            let [edit] = &request.model_edits(body.as_bytes(), name).collect::<Vec<_>>()[..] else {
                panic!("one edit")
            };
            format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..])
        };
        for body in [r#" {"prompt":"p"}"#, r#" {"model":"m","prompt":"p"}"#] {
            let request = image_generation(body.as_bytes()).expect("valid");
            assert_eq!(request.model_missing_in_body(), !body.contains("model"));
            let expected = format!(r#" {{"model":{name},"prompt":"p"}}"#);
            assert_eq!(renamed(&request, body), expected);
        }
        for fields in [&[][..], &[("model", "m")]] {
            let body = form_of(fields, &["image"]);
            let request = image_form("B", body.as_bytes()).expect("valid");
            assert_eq!(request.model_missing_in_body(), fields.is_empty());
            let expected = if fields.is_empty() { "dall-e-2" } else { "m" };
            assert_eq!(request.model, expected);
            let body = renamed(&request, &body);
            let request = image_form("B", body.as_bytes()).expect("valid");
            assert_eq!(request.model, "other \"m\"");
        }
    }
}
