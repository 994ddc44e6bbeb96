//! Meters a response as it is forwarded, whether or not it is encoded.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::dialect::endpoint::Endpoint;
use crate::dialect::estimate;
use crate::dialect::stream_meter::{Metered, UsageReading};
use crate::domain::usage::Usage;
use crate::proxy::response::content_encoding::{ContentEncoding, DecodeError, Decoder};
use crate::proxy::response::decoded_meter::{DecodedMeter, MeterConfig, StreamOptions};

/// Reads usage from a response as it is forwarded.
#[derive(Debug)]
pub struct ResponseMeter {
    decoded: DecodedMeter,
    encoded: Option<Box<EncodedBody>>,
}

impl ResponseMeter {
    /// Meters nothing.
    pub const OFF: Self = Self { decoded: DecodedMeter::Off, encoded: None };

    /// Meters a response with these headers, and removes headers that will not match the forwarded
    /// body. `usage_max` is the maximum usage of a call for images or audio.
    pub fn for_response(
        fields: &mut HeaderMap,
        endpoint: Endpoint,
        usage_max: Option<Usage>,
        stream: StreamOptions,
    ) -> Self {
        let has_content_type = |name: &[u8]| {
            let value = fields.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
            value.get(..name.len()).is_some_and(|value| value.eq_ignore_ascii_case(name))
        };
        let is_stream = has_content_type(b"text/event-stream");
        // A declared JSON document is forwarded unchanged.
        let stream_requested = stream.requested;
        let strip_usage = stream.strip_usage && !has_content_type(b"application/json");
        let config = MeterConfig { endpoint, usage_max, is_stream, stream_requested, strip_usage };
        let encoding = ContentEncoding::from_headers(fields);
        if strip_usage && encoding.is_ok() {
            fields.remove(CONTENT_LENGTH);
            fields.remove(CONTENT_ENCODING);
        }
        match encoding {
            Ok(None) => Self::new(config),
            encoding => Self::for_encoded(config, encoding.ok().flatten()),
        }
    }

    const fn new(config: MeterConfig) -> Self {
        Self { decoded: DecodedMeter::Undetermined(config), encoded: None }
    }

    /// Meters a decoded copy of an encoded response. `encoding` is `None` if it is unknown.
    ///
    /// The client receives the encoded bytes, or the decoded ones if usage is stripped.
    fn for_encoded(config: MeterConfig, encoding: Option<ContentEncoding>) -> Self {
        let encoded = EncodedBody {
            decoder: encoding.map(Decoder::new),
            sends_decoded: config.strip_usage && encoding.is_some(),
            ..EncodedBody::default()
        };
        Self { decoded: DecodedMeter::Undetermined(config), encoded: Some(Box::new(encoded)) }
    }

    /// Returns the usage read so far.
    pub fn reading(&self) -> UsageReading {
        let mut reading = self.decoded.reading();
        reading.counted_output +=
            self.encoded.as_ref().map_or(0, |encoded| encoded.undecoded_tokens);
        reading
    }

    /// Returns the id of an object that the provider stores, at most 256 bytes.
    pub fn state_id(&self) -> Option<&str> {
        self.decoded.state_id()
    }

    /// Meters the next bytes. `is_last` is true if no more bytes follow.
    ///
    /// # Errors
    /// If decoded text must be sent and the bytes cannot be decoded.
    pub fn read(&mut self, data: Bytes, is_last: bool) -> Result<Metered, DecodeError> {
        match &mut self.encoded {
            None => Ok(self.decoded.read(data, is_last)),
            Some(encoded) => {
                (encoded.piece, encoded.undecoded) = (data.clone(), data);
                encoded.step(&mut self.decoded)
            }
        }
    }

    /// True if bytes of the last read are not decoded yet.
    pub fn has_pending(&self) -> bool {
        self.encoded.as_ref().is_some_and(|encoded| encoded.has_pending())
    }

    /// Decodes the next step.
    pub fn resume(&mut self) -> Result<Metered, DecodeError> {
        let step = self.encoded.as_mut().map(|encoded| encoded.step(&mut self.decoded));
        step.unwrap_or_else(|| Ok(Metered::default()))
    }

    /// Ends the response and returns the bytes that were held.
    pub fn finish(&mut self) -> Result<Vec<Bytes>, DecodeError> {
        let rest = self.decoded.finish();
        match &mut self.encoded {
            Some(encoded) if !encoded.sends_decoded => {
                Ok(encoded.held.drain(..).map(|(piece, _)| piece).collect())
            }
            Some(encoded) => encoded.is_complete().then(|| vec![rest]).ok_or(DecodeError),
            None => Ok(vec![rest]),
        }
    }

    /// True if the response is one complete document.
    pub fn is_complete_document(&mut self) -> bool {
        self.decoded.is_document()
            && self.encoded.as_mut().is_none_or(|encoded| encoded.is_complete())
    }
}

/// A coded answer.
#[derive(Debug, Default)]
struct EncodedBody {
    /// `None` if the encoding is unknown or the bytes do not match it.
    decoder: Option<Decoder>,
    /// Whether the client receives the decoded text.
    sends_decoded: bool,
    /// The bytes of the last read, and the part of them that is not decoded yet.
    piece: Bytes,
    undecoded: Bytes,
    /// Held pieces, each with the length of the text up to its end.
    held: VecDeque<(Bytes, u64)>,
    /// Length of the text so far, and of the part that the client may see.
    decoded_bytes: u64,
    forwardable_bytes: u64,
    is_closing: bool,
    /// Estimated tokens of the bytes that could not be decoded.
    undecoded_tokens: u64,
}

impl EncodedBody {
    fn step(&mut self, meter: &mut DecodedMeter) -> Result<Metered, DecodeError> {
        let step = self
            .decoder
            .as_mut()
            .ok_or(DecodeError)
            .and_then(|decoder| decoder.step(&self.undecoded));
        let Ok((read, text)) = step else { return self.forward_undecoded() };
        self.undecoded.advance(read);
        self.decoded_bytes += text.len() as u64;
        let metered = meter.read(text, false);
        if self.sends_decoded {
            return Ok(metered);
        }
        self.forwardable_bytes +=
            metered.forward.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.is_closing |= !metered.held.is_empty();
        if !self.has_pending() {
            self.held.push_back((std::mem::take(&mut self.piece), self.decoded_bytes));
        }
        Ok(self.release_ready(metered.flush_held))
    }

    /// Forwards bytes that cannot be decoded, unless the client must receive the decoded text.
    fn forward_undecoded(&mut self) -> Result<Metered, DecodeError> {
        if self.sends_decoded {
            return Err(DecodeError);
        }
        self.decoder = None;
        if !self.is_closing {
            self.forwardable_bytes = u64::MAX;
        }
        self.undecoded_tokens += estimate::tokens_of_bytes(&self.undecoded);
        self.undecoded.clear();
        self.held.push_back((std::mem::take(&mut self.piece), self.decoded_bytes));
        Ok(self.release_ready(false))
    }

    /// Releases the pieces whose text the client may see. Pieces after the end of the text wait for
    /// the settlement.
    fn release_ready(&mut self, flush_held: bool) -> Metered {
        let mut metered = Metered { flush_held, ..Metered::default() };
        while let Some((piece, _)) =
            self.held.pop_front_if(|(_, text_end)| *text_end <= self.forwardable_bytes)
        {
            metered.forward.push(piece);
        }
        if self.is_closing {
            metered.held.extend(self.held.drain(..).map(|(piece, _)| piece));
        }
        metered
    }

    fn has_pending(&self) -> bool {
        !self.undecoded.is_empty() || self.decoder.as_ref().is_some_and(Decoder::has_more)
    }

    fn is_complete(&mut self) -> bool {
        self.decoder.as_mut().is_some_and(Decoder::is_at_end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzDecoder, GzEncoder};

    use super::*;
    use crate::domain::usage::Usage;

    const EVENTS: [&str; 4] = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"one two\"}}]}\n\nda",
        "ta: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
        "data: [DON",
        "E]\n\n",
    ];

    fn config(is_stream: bool, strip_usage: bool) -> MeterConfig {
        let endpoint = Endpoint::ChatCompletions;
        MeterConfig { endpoint, usage_max: None, is_stream, stream_requested: true, strip_usage }
    }

    /// Compresses each text separately flushed, and returns the pieces and the end of the stream.
    fn gzip(text: &[&str]) -> Vec<Bytes> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let pieces = text.iter().map(|piece| {
            encoder.write_all(piece.as_bytes()).expect("memory");
            encoder.flush().expect("memory");
            Bytes::from(std::mem::take(encoder.get_mut()))
        });
        let mut pieces: Vec<Bytes> = pieces.collect();
        pieces.push(encoder.finish().expect("memory").into());
        pieces
    }

    /// Returns the text that a client can decode from these bytes.
    fn decode(encoded: &[u8]) -> String {
        let mut decoder = GzDecoder::new(Vec::new());
        decoder.write_all(encoded).expect("valid so far");
        decoder.flush().expect("memory");
        String::from_utf8(decoder.get_ref().clone()).expect("text")
    }

    /// Returns the forwarded bytes, the held bytes and the usage.
    fn run(
        mut meter: ResponseMeter,
        pieces: &[Bytes],
    ) -> Result<(Vec<u8>, Vec<u8>, UsageReading), DecodeError> {
        let (mut forwarded, mut held) = (Vec::new(), Vec::new());
        let mut collect = |metered: Metered| {
            assert!(held.is_empty() || metered.forward.is_empty(), "held bytes stay in order");
            forwarded.extend(metered.forward.concat());
            held.extend(metered.held.concat());
        };
        for piece in pieces {
            collect(meter.read(piece.clone(), false)?);
            while meter.has_pending() {
                collect(meter.resume()?);
            }
        }
        held.extend(meter.finish()?.concat());
        Ok((forwarded, held, meter.reading()))
    }

    #[test]
    fn encoded_pieces_that_reveal_the_end_are_held() {
        let pieces = gzip(&EVENTS);
        let meter = ResponseMeter::for_encoded(config(true, false), Some(ContentEncoding::Gzip));
        let (forwarded, held, reading) = run(meter, &pieces).expect("valid");
        assert_eq!([&forwarded[..], &held].concat(), pieces.concat(), "byte for byte");
        let visible = decode(&forwarded);
        assert!(visible.contains("completion_tokens") && !visible.contains("[DONE]"), "{visible}");
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
        assert!(reading.terminated);
    }

    #[test]
    fn the_last_byte_of_an_encoded_document_is_held() {
        let text = [r#"{"usage":{"prompt_tokens":3,"#, r#""completion_tokens":2}"#, "}"];
        let pieces = gzip(&text);
        let meter = ResponseMeter::for_encoded(config(false, false), Some(ContentEncoding::Gzip));
        let (forwarded, held, reading) = run(meter, &pieces).expect("valid");
        assert_eq!([&forwarded[..], &held].concat(), pieces.concat());
        assert_eq!(decode(&forwarded), text[..2].concat());
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
    }

    #[test]
    fn a_stripped_response_is_sent_decoded_and_must_be_complete() {
        let pieces = gzip(&EVENTS);
        let meter = || ResponseMeter::for_encoded(config(true, true), Some(ContentEncoding::Gzip));
        let (forwarded, held, reading) = run(meter(), &pieces).expect("valid");
        assert_eq!(forwarded, EVENTS[0].as_bytes()[..EVENTS[0].len() - 2]);
        assert_eq!(held, b"data: [DONE]\n\n");
        assert_eq!(reading.reported, Some(Usage::from_tokens(3, 2)));
        assert!(run(meter(), &pieces[..3]).is_err(), "the body is incomplete");
        assert!(run(meter(), &[pieces[0].clone(), Bytes::from_static(&[0xff; 99])]).is_err());
    }

    #[test]
    fn an_undecodable_response_is_forwarded_and_estimated() {
        let noise = Bytes::from_static(&[0xfe; 300]);
        for (encoding, pieces) in [
            (None, vec![noise.clone(), noise.clone()]),
            (Some(ContentEncoding::Gzip), vec![gzip(&EVENTS)[0].clone(), noise.clone(), noise]),
        ] {
            let meter = ResponseMeter::for_encoded(config(true, false), encoding);
            let (forwarded, held, reading) = run(meter, &pieces).expect("it passes");
            assert_eq!([&forwarded[..], &held].concat(), pieces.concat());
            assert!(200 <= reading.counted_output && reading.reported.is_none(), "{reading:?}");
        }
    }

    #[test]
    fn the_first_bytes_decide_between_stream_and_document() {
        let stream =
            Bytes::from_static(b"data: {\"usage\":{\"prompt_tokens\":9}}\n\ndata: [DONE]\n\n");
        let document = Bytes::from_static(b"\n{\"usage\":{\"prompt_tokens\":9}}");
        let usage = Some(Usage::from_tokens(9, 0));
        for declared in [false, true] {
            let (_, held, reading) =
                run(ResponseMeter::new(config(declared, false)), std::slice::from_ref(&stream))
                    .expect("plain");
            assert_eq!(
                (&held[..], reading.reported),
                (&b"data: [DONE]\n\n"[..], usage),
                "{declared}"
            );
            let (_, held, reading) =
                run(ResponseMeter::new(config(declared, false)), std::slice::from_ref(&document))
                    .expect("plain");
            assert_eq!((&held[..], reading.reported), (&b"}"[..], usage), "{declared}");
        }
    }
}
