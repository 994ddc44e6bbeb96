//! The policy fields of requests for images and audio, as JSON or as a form.

use crate::dialect::endpoint::{Endpoint, Media};
use crate::dialect::json;
use crate::dialect::media::sound;
use crate::dialect::multipart::Part;
use crate::dialect::outside::Outside;
use crate::dialect::request::{Fields, Request, RequestFault};
use crate::domain::pieces::Pieces;

/// The most images that a request may ask for.
const IMAGES_MAX: u64 = 128;
/// Tokens of an image of so many pixels, by its quality: low, medium, high.
const TOKENS_OF_IMAGE: [u64; 3] = [272, 1_056, 4_160];
const PIXELS: u64 = 1 << 20;
/// Pixels of the largest size that is chosen for a client, and of a size in words not known.
const PIXELS_OF_AUTO: u64 = 1024 * 1536;
const PIXELS_MAX: u64 = 1 << 24;
/// Tokens of an image that comes before it is ready.
const TOKENS_OF_PARTIAL: u64 = 100;
/// Tokens of an image that is shown to the model, at most.
const TOKENS_OF_INPUT: u64 = 7_000;
/// Tokens of a second that is heard, and what comes on top of any text, at most.
const TOKENS_PER_SECOND: u64 = 10;
const TOKENS_OF_FRAME: u64 = 32;
/// Tokens spoken for a character, at most: twenty a second, at seven characters a second.
const TOKENS_PER_CHARACTER: u64 = 3;
/// How much slower than usual a voice can be asked to speak.
const SLOWEST: u64 = 4;

/// The model of whoever names none, as the provider documents it. The upstream is told so, as its
/// own default may depend on other fields.
const MODEL_DEFAULT: &str = "dall-e-2";
const MODEL_FAULT: &str = "must be the name of a model, a string";

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
const TRANSCRIPT_FIELDS: [&str; 6] = ["model", "models", "route", "fallbacks", "stream", "url"];

/// What a form has beside its policy fields.
#[derive(Debug, Default)]
struct Rest {
    files: u64,
    seconds: u64,
    text_bytes: u64,
}

impl Rest {
    fn add(&mut self, body: &[u8], part: &Part<'_>) {
        if part.is_file {
            self.files += 1;
            self.seconds += sound::seconds(&body[part.value.clone()]);
        } else {
            self.text_bytes += part.value.len() as u64;
        }
    }
}

/// Reads a request that came as JSON.
pub fn json(endpoint: Endpoint, body: &[u8]) -> Result<Request, RequestFault> {
    if endpoint.takes_only_forms() {
        let message = "the header `content-type` must be multipart/form-data".to_owned();
        return Err(RequestFault { param: None, message });
    }
    if endpoint.media() == Some(Media::Speech) {
        return speech(&Fields::read(body, SPEECH_FIELDS)?);
    }
    let fields = Fields::read(body, IMAGE_FIELDS)?;
    let prompt = fields.text(10, "must be a text")?;
    let mut request = images(&fields, start_of_fields(body))?;
    if endpoint == Endpoint::ImageEdits {
        let mut shown = 0;
        json::each(body, &["image", "images", "mask"], |images| {
            json::elements(images, |image| {
                shown += 1;
                json::each(image, &["file_id"], |id| {
                    if id != b"null" {
                        request.outside.names_state("file_id");
                    }
                });
            });
        });
        // What is kept elsewhere is an image as well: no window of a model bounds it.
        request.outside.refers = false;
        request.outside.media_tokens = Some(seen_tokens(prompt.len() as u64, shown));
    }
    Ok(request)
}

/// Reads a request that came as a form with that boundary.
pub fn form(endpoint: Endpoint, boundary: &str, body: &[u8]) -> Result<Request, RequestFault> {
    if !endpoint.takes_forms() {
        let message = "the header `content-type` must be application/json".to_owned();
        return Err(RequestFault { param: None, message });
    }
    let mut rest = Rest::default();
    let other = |part: &Part<'_>| rest.add(body, part);
    if endpoint.media() == Some(Media::Images) {
        let fields = Fields::of_form(body, boundary, IMAGE_FIELDS, other)?;
        let mut request = images(&fields, 0)?;
        let prompt = fields.value(10).unwrap_or_default().len() as u64;
        let tokens = seen_tokens(prompt.saturating_add(rest.text_bytes), rest.files);
        request.outside.media_tokens = Some(tokens);
        return Ok(request);
    }
    let fields = Fields::of_form(body, boundary, TRANSCRIPT_FIELDS, other)?;
    transcript(&fields, &rest)
}

/// The most input tokens of a prompt with images.
fn seen_tokens(text_bytes: u64, images: u64) -> u64 {
    TOKENS_OF_FRAME + text_bytes + images * TOKENS_OF_INPUT
}

/// Where the first field of a JSON object begins.
fn start_of_fields(body: &[u8]) -> usize {
    body.iter().position(|byte| *byte == b'{').map_or(0, |open| open + 1)
}

/// A request without output of its own, to be completed.
fn plain<const N: usize>(fields: &Fields<'_, N>, model: String) -> Result<Request, RequestFault> {
    (1..4).try_for_each(|at| fields.names_no_model(at))?;
    let silent = Request::silent(model, fields.place(0), Outside::default());
    Ok(Request { output_tokens_max: None, ..silent })
}

fn images(fields: &Fields<'_, 11>, unnamed_at: usize) -> Result<Request, RequestFault> {
    let model = match fields.place(0) {
        None => MODEL_DEFAULT.to_owned(),
        Some(_) => fields.text(0, MODEL_FAULT)?,
    };
    let images = fields.count(4)?.unwrap_or(1);
    if !(1..=IMAGES_MAX).contains(&images) {
        return Err(RequestFault::about("n", "must be from 1 to 128"));
    }
    let word = |at| fields.value(at).and_then(|value| fields.text_of(value));
    let of_quality = match word(6).as_deref() {
        Some("low") => TOKENS_OF_IMAGE[0],
        Some("medium" | "standard") => TOKENS_OF_IMAGE[1],
        _ => TOKENS_OF_IMAGE[2],
    };
    let pixels = word(5).map_or(PIXELS_OF_AUTO, |size| pixels_of(&size));
    let whole = (pixels * of_quality).div_ceil(PIXELS);
    let partials = fields.count(8)?.unwrap_or_default().min(IMAGES_MAX) * TOKENS_OF_PARTIAL;
    let frames = fields.count(9)?.unwrap_or(1).clamp(1, IMAGES_MAX);
    let mut request = plain(fields, model)?;
    if request.model_places.is_empty() {
        request.model_places.push(unnamed_at..unnamed_at);
    }
    request.stream = fields.flag(7)?;
    request.output_tokens_max = Some(whole * frames + partials);
    request.choices = images;
    request.hides_output = true;
    request.pieces = Pieces { images: images * frames, ..Pieces::default() };
    Ok(request)
}

/// The pixels of `1024x1536`, of `auto`, or of what is not known.
fn pixels_of(size: &str) -> u64 {
    if size == "auto" {
        return PIXELS_OF_AUTO;
    }
    let sides = size.split_once('x').and_then(|(width, height)| {
        Some(u64::from(width.parse::<u16>().ok()?) * u64::from(height.parse::<u16>().ok()?))
    });
    sides.filter(|pixels| 0 < *pixels).map_or(PIXELS_MAX, |pixels| pixels.min(PIXELS_MAX))
}

fn speech(fields: &Fields<'_, 7>) -> Result<Request, RequestFault> {
    let characters = fields.text(4, "must be a text")?.chars().count() as u64;
    let format = fields.value(5).and_then(json::string_of);
    let is_slow = fields.value(6).is_some_and(|speed| speed.starts_with(b"0"));
    let pace = if is_slow { SLOWEST } else { 1 };
    let mut request = plain(fields, fields.text(0, MODEL_FAULT)?)?;
    request.stream = format.as_deref() == Some("sse");
    request.output_tokens_max = Some(characters * TOKENS_PER_CHARACTER * pace + TOKENS_OF_FRAME);
    request.hides_output = true;
    request.pieces = Pieces { characters, ..Pieces::default() };
    Ok(request)
}

fn transcript(fields: &Fields<'_, 6>, rest: &Rest) -> Result<Request, RequestFault> {
    if fields.filled(5).is_some() {
        let what = "leads to audio that is not in the form; send it as `file`";
        return Err(RequestFault::about("url", what));
    }
    if rest.files == 0 {
        return Err(RequestFault::about("file", "must be a file in the form"));
    }
    let mut request = plain(fields, fields.text(0, MODEL_FAULT)?)?;
    request.stream = fields.flag(4)?;
    let heard = rest.seconds * TOKENS_PER_SECOND;
    request.outside.media_tokens = Some(TOKENS_OF_FRAME + rest.text_bytes + heard);
    request.pieces = Pieces { audio_seconds: rest.seconds, ..Pieces::default() };
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
    ) -> Result<Request, RequestFault> {
        form(endpoint, "B", form_of(fields, files).as_bytes())
    }

    fn generation(rest: &str) -> Result<Request, RequestFault> {
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
            assert_eq!(request.outside.media_tokens, None, "{rest}");
        }
        let pieces = |rest| generation(rest).expect("valid").pieces.images;
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
            assert_eq!((by_json, by_form), (!endpoint.takes_only_forms(), endpoint.takes_forms()));
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
        assert_eq!(edit.outside.media_tokens, Some(32 + 4 + 3 * 7_000));
        assert_eq!((edit.choices, edit.pieces.images), (2, 2));
        let body =
            br#"{"prompt":"abc","images":[{"image_url":"data:,"},{"file_id":"f"}],"mask":{}}"#;
        let edit = json(Endpoint::ImageEdits, body).expect("valid");
        assert_eq!(edit.outside.media_tokens, Some(32 + 3 + 3 * 7_000));
        assert!(edit.outside.state.is_some() && !edit.outside.refers);
        let fields = [("model", "m"), ("prompt", "abc")];
        let heard = read_form(Endpoint::Transcriptions, &fields, &["file"]).expect("valid");
        assert_eq!(heard.outside.media_tokens, Some(32 + 3 + 10));
        assert_eq!((heard.pieces.audio_seconds, heard.output_tokens_max), (1, None));
    }

    #[test]
    fn speech_is_counted_by_its_letters() {
        let read = |body: &str| json(Endpoint::Speech, body.as_bytes()).expect("valid");
        let plain = read(r#"{"model":"m","input":"d\u00e9j\u00e0 \ud83d\ude00"}"#);
        assert_eq!(plain.pieces.characters, 6);
        assert_eq!((plain.output_tokens_max, plain.stream), (Some(6 * 3 + 32), false));
        let slow = read(r#"{"model":"m","input":"a","speed":0.25,"stream_format":"sse"}"#);
        assert_eq!((slow.output_tokens_max, slow.stream), (Some(12 + 32), true));
    }

    #[test]
    fn the_model_is_named_for_the_upstream_where_the_body_names_none() {
        let name = "\"other \\\"m\\\"\"";
        let renamed = |request: &Request, body: &str| {
            let [edit] = &request.renamed(body.as_bytes(), name).collect::<Vec<_>>()[..] else {
                panic!("one edit")
            };
            format!("{}{}{}", &body[..edit.range.start], edit.text, &body[edit.range.end..])
        };
        for body in [r#" {"prompt":"p"}"#, r#" {"model":"m","prompt":"p"}"#] {
            let request = json(Endpoint::ImageGenerations, body.as_bytes()).expect("valid");
            assert_eq!(request.is_unnamed(), !body.contains("model"));
            let expected = format!(r#" {{"model":{name},"prompt":"p"}}"#);
            assert_eq!(renamed(&request, body), expected);
        }
        for fields in [&[][..], &[("model", "m")]] {
            let body = form_of(fields, &["image"]);
            let request = form(Endpoint::ImageVariations, "B", body.as_bytes()).expect("valid");
            assert_eq!(request.is_unnamed(), fields.is_empty());
            let expected = if fields.is_empty() { "dall-e-2" } else { "m" };
            assert_eq!(request.model, expected);
            let body = renamed(&request, &body);
            let request = form(Endpoint::ImageVariations, "B", body.as_bytes()).expect("valid");
            assert_eq!(request.model, "other \"m\"");
        }
    }
}
