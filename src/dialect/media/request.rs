//! The policy fields of requests for images and audio, as JSON or as a form.

use crate::dialect::call_facts::{CallFacts, ParseError, PolicyFields};
use crate::dialect::endpoint::{Endpoint, Media};
use crate::dialect::external_refs::ExternalRefs;
use crate::dialect::json;
use crate::dialect::media::audio_duration;
use crate::dialect::multipart::Part;
use crate::domain::unit_counts::UnitCounts;
use crate::domain::usage::Unit;

/// The most images that a request may ask for.
const IMAGES_MAX: u64 = 128;
/// Tokens of an image of so many pixels, by its quality: low, medium, high.
const IMAGE_TOKENS_BY_QUALITY: [u64; 3] = [272, 1_056, 4_160];
const REFERENCE_PIXELS: u64 = 1 << 20;
/// Pixels of the largest size that is chosen for a client, and of a size in words not known.
const AUTO_SIZE_PIXELS: u64 = 1024 * 1536;
const PIXELS_MAX: u64 = 1 << 24;
/// Tokens of an image that comes before it is ready.
const PARTIAL_IMAGE_TOKENS: u64 = 100;
/// Tokens of an image that is shown to the model, at most.
const INPUT_IMAGE_TOKENS_MAX: u64 = 7_000;
/// Tokens of a second that is heard, and what comes on top of any text, at most.
const AUDIO_TOKENS_PER_SECOND: u64 = 10;
const OVERHEAD_TOKENS: u64 = 32;
/// Tokens spoken for a character, at most: twenty a second, at seven characters a second.
const SPEECH_TOKENS_PER_CHARACTER: u64 = 3;
/// How much slower than usual a voice can be asked to speak.
const SLOW_SPEECH_FACTOR: u64 = 4;

/// The model of whoever names none, as the provider documents it. The upstream is told so, as its
/// own default may depend on other fields.
const DEFAULT_MODEL: &str = "dall-e-2";
const MODEL_ERROR: &str = "must be the name of a model, a string";

const IMAGE_FIELDS: [&str; 11] = [
    "model",
    "models",
    "route",
    "fallbacks",
    "n",
    "size",
    "quality",
    "stream",
    "partial_images",
    "frame_count",
    "prompt",
];
const SPEECH_FIELDS: [&str; 7] =
    ["model", "models", "route", "fallbacks", "input", "stream_format", "speed"];
const TRANSCRIPTION_FIELDS: [&str; 6] = ["model", "models", "route", "fallbacks", "stream", "url"];

/// What a form has beside its policy fields.
#[derive(Debug, Default)]
struct FormTotals {
    files: u64,
    seconds: u64,
    text_bytes: u64,
}

impl FormTotals {
    fn add(&mut self, body: &[u8], part: &Part<'_>) {
        if part.is_file {
            self.files += 1;
            self.seconds += audio_duration::seconds(&body[part.value.clone()]);
        } else {
            self.text_bytes += part.value.len() as u64;
        }
    }
}

/// Reads a request that came as JSON.
pub fn json(endpoint: Endpoint, body: &[u8]) -> Result<CallFacts, ParseError> {
    if endpoint.accepts_only_forms() {
        let message = "the header `content-type` must be multipart/form-data".to_owned();
        return Err(ParseError { param: None, message });
    }
    if endpoint.media() == Some(Media::Speech) {
        return speech(&PolicyFields::from_json(body, SPEECH_FIELDS)?);
    }
    let fields = PolicyFields::from_json(body, IMAGE_FIELDS)?;
    let prompt = fields.required_text(10, "must be a text")?;
    let mut request = images(&fields, first_field_start(body))?;
    if endpoint == Endpoint::ImageEdits {
        let mut shown = 0;
        json::each_named(body, &["image", "images", "mask"], |images| {
            json::elements(images, |image| {
                shown += 1;
                json::each_named(image, &["file_id"], |id| {
                    if id != b"null" {
                        request.external_refs.add_state_ref("file_id");
                    }
                });
            });
        });
        // What is kept elsewhere is an image as well: no window of a model bounds it.
        request.external_refs.has_external_content = false;
        request.external_refs.media_tokens = Some(image_prompt_tokens(prompt.len() as u64, shown));
    }
    Ok(request)
}

/// Reads a request that came as a form with that boundary.
pub fn form(endpoint: Endpoint, boundary: &str, body: &[u8]) -> Result<CallFacts, ParseError> {
    if !endpoint.accepts_forms() {
        let message = "the header `content-type` must be application/json".to_owned();
        return Err(ParseError { param: None, message });
    }
    let mut totals = FormTotals::default();
    let other = |part: &Part<'_>| totals.add(body, part);
    if endpoint.media() == Some(Media::Images) {
        let fields = PolicyFields::from_form(body, boundary, IMAGE_FIELDS, other)?;
        let mut request = images(&fields, 0)?;
        let prompt = fields.value(10).unwrap_or_default().len() as u64;
        let tokens = image_prompt_tokens(prompt.saturating_add(totals.text_bytes), totals.files);
        request.external_refs.media_tokens = Some(tokens);
        return Ok(request);
    }
    let fields = PolicyFields::from_form(body, boundary, TRANSCRIPTION_FIELDS, other)?;
    transcription(&fields, &totals)
}

/// The most input tokens of a prompt with images.
fn image_prompt_tokens(text_bytes: u64, images: u64) -> u64 {
    OVERHEAD_TOKENS + text_bytes + images * INPUT_IMAGE_TOKENS_MAX
}

/// Where the first field of a JSON object begins.
fn first_field_start(body: &[u8]) -> usize {
    body.iter().position(|byte| *byte == b'{').map_or(0, |open| open + 1)
}

/// A request without output of its own, to be completed.
fn facts_without_bound<const N: usize>(
    fields: &PolicyFields<'_, N>,
    model: String,
) -> Result<CallFacts, ParseError> {
    (1..4).try_for_each(|at| fields.reject_model_override(at))?;
    let silent = CallFacts::without_output(model, fields.span(0), ExternalRefs::default());
    Ok(CallFacts { output_tokens_max: None, ..silent })
}

fn images(fields: &PolicyFields<'_, 11>, unnamed_at: usize) -> Result<CallFacts, ParseError> {
    let model = match fields.span(0) {
        None => DEFAULT_MODEL.to_owned(),
        Some(_) => fields.required_text(0, MODEL_ERROR)?,
    };
    let images = fields.count(4)?.unwrap_or(1);
    if !(1..=IMAGES_MAX).contains(&images) {
        return Err(ParseError::for_field("n", "must be from 1 to 128"));
    }
    let word = |at| fields.value(at).and_then(|value| fields.text_value(value));
    let of_quality = match word(6).as_deref() {
        Some("low") => IMAGE_TOKENS_BY_QUALITY[0],
        Some("medium" | "standard") => IMAGE_TOKENS_BY_QUALITY[1],
        _ => IMAGE_TOKENS_BY_QUALITY[2],
    };
    let pixels = word(5).map_or(AUTO_SIZE_PIXELS, |size| pixels(&size));
    let whole = (pixels * of_quality).div_ceil(REFERENCE_PIXELS);
    let partials = fields.count(8)?.unwrap_or_default().min(IMAGES_MAX) * PARTIAL_IMAGE_TOKENS;
    let frames = fields.count(9)?.unwrap_or(1).clamp(1, IMAGES_MAX);
    let mut request = facts_without_bound(fields, model)?;
    if request.model_spans.is_empty() {
        request.model_spans.push(unnamed_at..unnamed_at);
    }
    request.stream = fields.flag(7)?;
    request.output_tokens_max = Some(whole * frames + partials);
    request.choices = images;
    request.hides_output = true;
    request.item_units_max = UnitCounts::of(Unit::Images, images * frames);
    Ok(request)
}

/// The pixels of `1024x1536`, of `auto`, or of what is not known.
fn pixels(size: &str) -> u64 {
    if size == "auto" {
        return AUTO_SIZE_PIXELS;
    }
    let sides = size.split_once('x').and_then(|(width, height)| {
        Some(u64::from(width.parse::<u16>().ok()?) * u64::from(height.parse::<u16>().ok()?))
    });
    sides.filter(|pixels| 0 < *pixels).map_or(PIXELS_MAX, |pixels| pixels.min(PIXELS_MAX))
}

fn speech(fields: &PolicyFields<'_, 7>) -> Result<CallFacts, ParseError> {
    let characters = fields.required_text(4, "must be a text")?.chars().count() as u64;
    let format = fields.value(5).and_then(json::string_of);
    let is_slow = fields.value(6).is_some_and(|speed| speed.starts_with(b"0"));
    let pace = if is_slow { SLOW_SPEECH_FACTOR } else { 1 };
    let mut request = facts_without_bound(fields, fields.required_text(0, MODEL_ERROR)?)?;
    request.stream = format.as_deref() == Some("sse");
    request.output_tokens_max =
        Some(characters * SPEECH_TOKENS_PER_CHARACTER * pace + OVERHEAD_TOKENS);
    request.hides_output = true;
    request.item_units_max = UnitCounts::of(Unit::Characters, characters);
    Ok(request)
}

fn transcription(
    fields: &PolicyFields<'_, 6>,
    totals: &FormTotals,
) -> Result<CallFacts, ParseError> {
    if fields.non_empty(5).is_some() {
        let what = "leads to audio that is not in the form; send it as `file`";
        return Err(ParseError::for_field("url", what));
    }
    if totals.files == 0 {
        return Err(ParseError::for_field("file", "must be a file in the form"));
    }
    let mut request = facts_without_bound(fields, fields.required_text(0, MODEL_ERROR)?)?;
    request.stream = fields.flag(4)?;
    let heard = totals.seconds * AUDIO_TOKENS_PER_SECOND;
    request.external_refs.media_tokens = Some(OVERHEAD_TOKENS + totals.text_bytes + heard);
    request.item_units_max = UnitCounts::of(Unit::AudioSeconds, totals.seconds);
    Ok(request)
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
        endpoint: Endpoint,
        fields: &[(&str, &str)],
        files: &[&str],
    ) -> Result<CallFacts, ParseError> {
        form(endpoint, "B", form_of(fields, files).as_bytes())
    }

    fn generation(rest: &str) -> Result<CallFacts, ParseError> {
        let body = format!(r#"{{"model":"m","prompt":"a cat"{rest}}}"#);
        json(Endpoint::ImageGenerations, body.as_bytes())
    }

    #[test]
    fn images_are_bound_by_the_dearest_that_was_not_excluded() {
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
    fn faults_name_the_field() {
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
        let speech = |body: &str| json(Endpoint::Speech, body.as_bytes()).map(|_| ());
        for (body, param) in [
            (r#"{"model":"m"}"#, "input"),
            (r#"{"input":"x"}"#, "model"),
            (r#"{"model":"m","input":["x"]}"#, "input"),
            (r#"{"model":"m","input":"x","fallbacks":[1]}"#, "fallbacks"),
        ] {
            assert_eq!(speech(body).expect_err(body).param, Some(param), "{body}");
        }
        let transcribe =
            |fields: &[(&str, &str)]| read_form(Endpoint::Transcriptions, fields, &["file"]);
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
        let read = read_form(Endpoint::Transcriptions, &[("model", "m")], &[]);
        assert_eq!(read.expect_err("silence").param, Some("file"));
        let read = read_form(Endpoint::Transcriptions, &[], &["model"]);
        assert_eq!(read.expect_err("a file").param, Some("model"));
    }

    #[test]
    fn a_request_comes_as_its_endpoint_takes_it() {
        let fields = [("model", "m"), ("prompt", "p")];
        for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.media().is_some()) {
            let body = r#"{"model":"m","prompt":"p","input":"i","image":"data:,"}"#;
            let by_json = json(endpoint, body.as_bytes()).is_ok();
            let by_form = read_form(endpoint, &fields, &["file"]).is_ok();
            assert_eq!(
                (by_json, by_form),
                (!endpoint.accepts_only_forms(), endpoint.accepts_forms())
            );
            assert!(by_json || by_form, "{endpoint:?}");
        }
    }

    #[test]
    fn what_is_shown_and_heard_is_no_text() {
        let edit = read_form(
            Endpoint::ImageEdits,
            &[("model", "m"), ("prompt", "abc"), ("n", "2"), ("user", "u")],
            &["image[]", "image[]", "mask"],
        );
        let edit = edit.expect("valid");
        assert_eq!(edit.external_refs.media_tokens, Some(32 + 4 + 3 * 7_000));
        assert_eq!((edit.choices, edit.item_units_max.get(Unit::Images)), (2, 2));
        let body =
            br#"{"prompt":"abc","images":[{"image_url":"data:,"},{"file_id":"f"}],"mask":{}}"#;
        let edit = json(Endpoint::ImageEdits, body).expect("valid");
        assert_eq!(edit.external_refs.media_tokens, Some(32 + 3 + 3 * 7_000));
        assert!(edit.external_refs.state.is_some() && !edit.external_refs.has_external_content);
        let fields = [("model", "m"), ("prompt", "abc")];
        let heard = read_form(Endpoint::Transcriptions, &fields, &["file"]).expect("valid");
        assert_eq!(heard.external_refs.media_tokens, Some(32 + 3 + 10));
        assert_eq!(
            (heard.item_units_max.get(Unit::AudioSeconds), heard.output_tokens_max),
            (1, None)
        );
    }

    #[test]
    fn speech_is_counted_by_its_letters() {
        let read = |body: &str| json(Endpoint::Speech, body.as_bytes()).expect("valid");
        let plain = read(r#"{"model":"m","input":"d\u00e9j\u00e0 \ud83d\ude00"}"#);
        assert_eq!(plain.item_units_max.get(Unit::Characters), 6);
        assert_eq!((plain.output_tokens_max, plain.stream), (Some(6 * 3 + 32), false));
        let slow = read(r#"{"model":"m","input":"a","speed":0.25,"stream_format":"sse"}"#);
        assert_eq!((slow.output_tokens_max, slow.stream), (Some(12 + 32), true));
    }

    #[test]
    fn the_model_is_named_for_the_upstream_where_the_body_names_none() {
        let name = "\"other \\\"m\\\"\"";
        let renamed = |request: &CallFacts, body: &str| {
            let [edit] = &request.model_edits(body.as_bytes(), name).collect::<Vec<_>>()[..] else {
                panic!("one edit")
            };
            format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..])
        };
        for body in [r#" {"prompt":"p"}"#, r#" {"model":"m","prompt":"p"}"#] {
            let request = json(Endpoint::ImageGenerations, body.as_bytes()).expect("valid");
            assert_eq!(request.model_missing_in_body(), !body.contains("model"));
            let expected = format!(r#" {{"model":{name},"prompt":"p"}}"#);
            assert_eq!(renamed(&request, body), expected);
        }
        for fields in [&[][..], &[("model", "m")]] {
            let body = form_of(fields, &["image"]);
            let request = form(Endpoint::ImageVariations, "B", body.as_bytes()).expect("valid");
            assert_eq!(request.model_missing_in_body(), fields.is_empty());
            let expected = if fields.is_empty() { "dall-e-2" } else { "m" };
            assert_eq!(request.model, expected);
            let body = renamed(&request, &body);
            let request = form(Endpoint::ImageVariations, "B", body.as_bytes()).expect("valid");
            assert_eq!(request.model, "other \"m\"");
        }
    }
}
