//! Reads the request body completely and parses what the gateway needs. A body that arrives
//! uncompressed and in one piece is not copied.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName};
use http::request::Parts;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::dialect::call_facts::CallFacts;
use crate::dialect::endpoint::{Dialect, Endpoint};
use crate::dialect::{multipart, parse};
use crate::proxy::query_string;
use crate::proxy::refusal::error_spec::{InvalidRequest, Refusal};
use crate::proxy::response::content_encoding::{
    ContentEncoding, DecodeError, Decoder, UnsupportedEncoding,
};
use crate::proxy::server::worker::ProxySettings;
use crate::tasks;

/// A request whose body was read and parsed.
#[derive(Debug)]
pub struct ReceivedCall {
    pub endpoint: Endpoint,
    /// Request line and headers.
    pub parts: Parts,
    /// The body as received, or decoded if it was compressed.
    pub body: Bytes,
    /// Policy-relevant facts of the body.
    pub facts: CallFacts,
}

/// Reads and parses the body. `model` is the percent-encoded model name in the path, if there is one.
pub async fn receive(
    endpoint: Endpoint,
    model: Option<&str>,
    mut parts: Parts,
    mut body: Incoming,
    settings: &ProxySettings,
) -> Result<ReceivedCall, Refusal> {
    let bytes_max = settings.body_bytes_max;
    let checked =
        check_headers(endpoint, &parts, bytes_max).and_then(|()| check_query(endpoint, &parts));
    let checked = checked.and_then(|()| {
        ContentEncoding::from_headers(&parts.headers)
            .map_err(|UnsupportedEncoding| Refusal::UnsupportedEncoding)
    });
    let read = match checked {
        Ok(encoding) => read_body(&mut body, settings).await.map(|bytes| (bytes, encoding)),
        Err(refusal) => Err(refusal),
    };
    let body = match read {
        Ok((bytes, None)) => bytes,
        Ok((bytes, Some(encoding))) => {
            parts.headers.remove(CONTENT_ENCODING);
            decode_body(&bytes, encoding, bytes_max).await?
        }
        Err(refusal) => {
            drain_request_body(&parts, body).await;
            return Err(refusal);
        }
    };
    let model = model.map(decode_model_name).transpose()?;
    let (bytes, path_model) = (body.clone(), model.map(Cow::into_owned));
    let content_type = content_type_of(&parts);
    let boundary =
        if is_form(content_type) { Some(form_boundary(content_type)?.to_owned()) } else { None };
    let read = move || match boundary {
        Some(boundary) => parse::parse_form(endpoint, &boundary, &bytes),
        None => parse::parse_json(endpoint, path_model.as_deref(), &bytes),
    };
    let facts = tasks::run_offloaded(body.len(), read)
        .await
        .map_err(|fault| InvalidRequest::Body { param: fault.param, message: fault.message })
        .map_err(Refusal::Invalid)?;
    Ok(ReceivedCall { endpoint, parts, body, facts })
}

/// The name of the model without its escapes. One that could lead a provider's front to another
/// path is no name of a model.
fn decode_model_name(model: &str) -> Result<Cow<'_, str>, Refusal> {
    let is_valid = |name: &Cow<'_, str>| {
        let is_forbidden = |letter: char| letter.is_control() || matches!(letter, '?' | '#' | '\\');
        !name.contains("..") && !name.contains(is_forbidden)
    };
    query_string::decoded(model).filter(is_valid).ok_or(Refusal::Invalid(InvalidRequest::ModelName))
}

fn form_boundary(content_type: &str) -> Result<&str, Refusal> {
    multipart::boundary(content_type)
        .map_err(|problem| Refusal::Invalid(InvalidRequest::FormBoundary(problem)))
}

/// The value of a header; empty where it is no text.
fn header<'a>(parts: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    parts.headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The type of the body, with its parameters.
fn content_type_of(parts: &Parts) -> &str {
    header(parts, &CONTENT_TYPE).unwrap_or_default()
}

fn is_form(content_type: &str) -> bool {
    is_type(content_type, "multipart/form-data")
}

fn is_type(content_type: &str, expected: &str) -> bool {
    content_type
        .split(';')
        .next()
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(expected))
}

fn check_headers(endpoint: Endpoint, parts: &Parts, bytes_max: usize) -> Result<(), Refusal> {
    let content_type = content_type_of(parts);
    if is_form(content_type) && endpoint.accepts_forms() {
        form_boundary(content_type)?;
    } else if endpoint.accepts_only_forms() {
        return Err(Refusal::Invalid(InvalidRequest::NotForm));
    } else if !is_type(content_type, "application/json") {
        return Err(Refusal::Invalid(InvalidRequest::NotJson));
    }
    let declared = header(parts, &CONTENT_LENGTH).and_then(|value| value.parse::<usize>().ok());
    if declared.is_some_and(|length| bytes_max < length) {
        return Err(Refusal::TooLarge(bytes_max));
    }
    Ok(())
}

fn check_query(endpoint: Endpoint, parts: &Parts) -> Result<(), Refusal> {
    if endpoint.dialect() != Dialect::Gemini {
        return Ok(());
    }
    query_string::unmeterable_param(parts.uri.query().unwrap_or_default())
        .map_or(Ok(()), |name| Err(Refusal::Invalid(InvalidRequest::UnmeterableQuery(name))))
}

/// How long a client is listened to that is about to be refused, and how long it may be silent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(250);
const DRAIN_BYTES_MAX: usize = 256 << 20;

/// Reads and discards the body before a refusal. A client that is still sending when its connection
/// closes would see a broken connection instead of the refusal. A client that sent `Expect` has sent
/// nothing yet.
pub async fn drain_request_body(parts: &Parts, mut body: Incoming) {
    if parts.headers.contains_key(EXPECT) || body.is_end_stream() {
        return;
    }
    let remaining = async {
        let mut bytes = 0;
        while bytes < DRAIN_BYTES_MAX
            && let Ok(Some(Ok(frame))) =
                tokio::time::timeout(DRAIN_IDLE_TIMEOUT, body.frame()).await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Who takes longer is closed on.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, remaining).await;
}

/// After how many bytes of text, or steps that may bring none, the other calls of this worker have
/// their turn.
const YIELD_EVERY_BYTES: usize = 256 << 10;
const YIELD_EVERY_STEPS: usize = 64;

/// The text of a coded body, of at most `bytes_max` bytes.
async fn decode_body(
    encoded: &[u8],
    encoding: ContentEncoding,
    bytes_max: usize,
) -> Result<Bytes, Refusal> {
    let undecodable = || Refusal::Invalid(InvalidRequest::Undecodable(encoding.name()));
    let mut decoder = Decoder::new(encoding);
    let (mut text, mut at, mut yielded_at, mut steps) = (BytesMut::new(), 0, 0, 0);
    while at < encoded.len() || decoder.has_more() {
        let (read, piece) = decoder.step(&encoded[at..]).map_err(|DecodeError| undecodable())?;
        at += read;
        if bytes_max < text.len() + piece.len() {
            return Err(Refusal::TooLarge(bytes_max));
        }
        text.extend_from_slice(&piece);
        steps += 1;
        if YIELD_EVERY_BYTES <= text.len() - yielded_at || YIELD_EVERY_STEPS <= steps {
            (yielded_at, steps) = (text.len(), 0);
            tokio::task::yield_now().await;
        }
    }
    if decoder.is_at_end() { Ok(text.freeze()) } else { Err(undecodable()) }
}

async fn read_body(body: &mut Incoming, settings: &ProxySettings) -> Result<Bytes, Refusal> {
    let bytes_max = settings.body_bytes_max;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let next = tokio::time::timeout(settings.client_idle, body.frame()).await;
        let Some(frame) = next.map_err(|_| Refusal::Invalid(InvalidRequest::BodyTimedOut))? else {
            break;
        };
        let frame = frame.map_err(|_| Refusal::Invalid(InvalidRequest::BodyIncomplete))?;
        let Ok(data) = frame.into_data() else { continue };
        let received = if rest.is_empty() { &first[..] } else { &rest[..] };
        if bytes_max < received.len() + data.len() {
            return Err(Refusal::TooLarge(bytes_max));
        }
        if first.is_empty() {
            first = data;
            if body.is_end_stream() {
                return Ok(first);
            }
        } else {
            if rest.is_empty() {
                // As long as it says it is, which was checked; what is never written costs nothing.
                let expected = body.size_hint().upper().unwrap_or_default();
                let expected = usize::try_from(expected).unwrap_or_default();
                rest.reserve(first.len() + data.len() + expected);
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}
