//! Content encodings: decodes compressed bodies piece by piece in constant memory.

use std::fmt;
use std::io::{self, Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Bytes, BytesMut};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// Decoded bytes per step; some decoders exceed it a few times when they flush a window.
const STEP_BYTES: usize = 32 << 10;
/// The largest zstd window as a power of two, the maximum of RFC 9659. The other encodings bound
/// their windows: 32 KiB, and 16 MiB for brotli.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentEncoding {
    /// With any number of members.
    Gzip,
    /// With a zlib header or, as some clients send it, without.
    Deflate,
    Brotli,
    Zstd,
}

/// An unknown encoding, or more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsupportedEncoding;

impl ContentEncoding {
    /// Returns the encoding of a body with these headers; `None` if it is not encoded.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, UnsupportedEncoding> {
        let lines = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
        let names = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let mut encodings =
            names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
        match (encodings.next(), encodings.next()) {
            (None, _) => Ok(None),
            (Some(name), None) => Self::from_name(name).map(Some).ok_or(UnsupportedEncoding),
            (Some(_), Some(_)) => Err(UnsupportedEncoding),
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        let names: [(&[u8], Self); 5] = [
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"br", Self::Brotli),
            (b"zstd", Self::Zstd),
        ];
        names
            .iter()
            .find(|(spelling, _)| spelling.eq_ignore_ascii_case(name))
            .map(|(_, encoding)| *encoding)
    }
}

/// A body is not valid in its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError;

impl From<io::Error> for DecodeError {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Decodes one body.
pub struct Decoder {
    state: DecoderState,
    /// Whether the last step filled its output.
    is_full: bool,
}

enum DecoderState {
    Gzip(MultiGzDecoder<Vec<u8>>),
    /// `deflate` before the first byte, which decides between `Zlib` and `Raw`.
    Deflate,
    Zlib(ZlibDecoder<Vec<u8>>),
    Raw(DeflateDecoder<Vec<u8>>),
    Brotli(Box<Brotli>, bool),
    Zstd(DCtx<'static>, bool),
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            DecoderState::Gzip(_) => "gzip",
            DecoderState::Deflate | DecoderState::Zlib(_) | DecoderState::Raw(_) => "deflate",
            DecoderState::Brotli(..) => "br",
            DecoderState::Zstd(..) => "zstd",
        })
    }
}

impl Decoder {
    pub fn new(encoding: ContentEncoding) -> Self {
        let alloc = StandardAlloc::default;
        let state = match encoding {
            ContentEncoding::Gzip => DecoderState::Gzip(MultiGzDecoder::new(Vec::new())),
            ContentEncoding::Deflate => DecoderState::Deflate,
            ContentEncoding::Brotli => {
                let strict = Brotli::new_strict(alloc(), alloc(), alloc());
                DecoderState::Brotli(Box::new(strict), false)
            }
            ContentEncoding::Zstd => {
                let mut context = DCtx::create();
                // Refused only where no such window exists.
                let _ = context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX));
                DecoderState::Zstd(context, false)
            }
        };
        Self { state, is_full: false }
    }

    /// True if another step may produce output without further input.
    pub const fn has_more(&self) -> bool {
        self.is_full
    }

    /// Decodes one step. Returns how many bytes were consumed and the decoded text. Bytes after the
    /// end of the body are consumed and ignored.
    pub fn step(&mut self, encoded: &[u8]) -> Result<(usize, Bytes), DecodeError> {
        if let (DecoderState::Deflate, Some(first)) = (&self.state, encoded.first()) {
            // A zlib header has method 8 and a window of at most 32 KiB; a raw stream never starts
            // with such a byte.
            let is_zlib = first & 0x0f == 8 && first >> 4 <= 7;
            self.state = if is_zlib {
                DecoderState::Zlib(ZlibDecoder::new(Vec::new()))
            } else {
                DecoderState::Raw(DeflateDecoder::new(Vec::new()))
            };
        }
        let step = match &mut self.state {
            DecoderState::Gzip(decoder) => inflate(decoder, encoded, |decoder| decoder.get_mut()),
            DecoderState::Zlib(decoder) => inflate(decoder, encoded, |decoder| decoder.get_mut()),
            DecoderState::Raw(decoder) => inflate(decoder, encoded, |decoder| decoder.get_mut()),
            DecoderState::Deflate => Ok((0, Bytes::new())),
            DecoderState::Brotli(state, ended) => decode_brotli(state, ended, encoded),
            DecoderState::Zstd(context, ended) => decode_zstd(context, ended, encoded),
        };
        // Inflate decoders keep no output back: their window is not larger than a step.
        let buffers_output =
            matches!(self.state, DecoderState::Brotli(..) | DecoderState::Zstd(..));
        self.is_full =
            buffers_output && step.as_ref().is_ok_and(|(_, text)| STEP_BYTES <= text.len());
        step
    }

    /// True if the body is complete.
    pub fn is_at_end(&mut self) -> bool {
        match &mut self.state {
            DecoderState::Gzip(decoder) => decoder.try_finish().is_ok(),
            DecoderState::Zlib(decoder) => decoder.try_finish().is_ok(),
            DecoderState::Raw(decoder) => decoder.try_finish().is_ok(),
            DecoderState::Deflate => false,
            DecoderState::Brotli(_, ended) | DecoderState::Zstd(_, ended) => *ended,
        }
    }
}

fn inflate<D: Write>(
    decoder: &mut D,
    encoded: &[u8],
    text: impl Fn(&mut D) -> &mut Vec<u8>,
) -> Result<(usize, Bytes), DecodeError> {
    let mut read = decoder.write(encoded)?;
    if read == encoded.len() {
        decoder.flush()?;
    } else if read == 0 && text(decoder).is_empty() {
        read = encoded.len();
    }
    Ok((read, Bytes::from(std::mem::take(text(decoder)))))
}

fn decode_brotli(
    state: &mut Brotli,
    ended: &mut bool,
    encoded: &[u8],
) -> Result<(usize, Bytes), DecodeError> {
    if *ended {
        return Ok((encoded.len(), Bytes::new()));
    }
    let mut text = BytesMut::zeroed(STEP_BYTES);
    let (mut available_in, mut read, mut available_out, mut written) =
        (encoded.len(), 0, text.len(), 0);
    let result = BrotliDecompressStream(
        &mut available_in,
        &mut read,
        encoded,
        &mut available_out,
        &mut written,
        &mut text,
        &mut 0,
        state,
    );
    match result {
        BrotliResult::ResultFailure => return Err(DecodeError),
        BrotliResult::ResultSuccess => (*ended, read) = (true, encoded.len()),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
    }
    text.truncate(written);
    Ok((read, text.freeze()))
}

fn decode_zstd(
    context: &mut DCtx<'static>,
    ended: &mut bool,
    encoded: &[u8],
) -> Result<(usize, Bytes), DecodeError> {
    let mut text = vec![0; STEP_BYTES];
    let mut input = InBuffer::around(encoded);
    let mut output = OutBuffer::around(&mut text[..]);
    // 0 at the end of a frame, after which another frame may follow.
    let remaining = context.decompress_stream(&mut output, &mut input).map_err(|_| DecodeError)?;
    let (read, written) = (input.pos(), output.pos());
    if 0 < read + written {
        *ended = remaining == 0;
    }
    text.truncate(written);
    Ok((read, Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn encode<E: Write>(mut encoder: E, text: &[u8], end: impl Fn(E) -> Vec<u8>) -> Vec<u8> {
        encoder.write_all(text).expect("memory takes all");
        end(encoder)
    }

    fn encoded_forms(text: &[u8]) -> [(ContentEncoding, Vec<u8>); 6] {
        let level = Compression::default();
        let gzip = encode(GzEncoder::new(vec![], level), text, |end| end.finish().expect("ends"));
        let zlib = encode(ZlibEncoder::new(vec![], level), text, |end| end.finish().expect("ends"));
        let raw =
            encode(DeflateEncoder::new(vec![], level), text, |end| end.finish().expect("ends"));
        let mut brotli = Vec::new();
        brotli::BrotliCompress(
            &mut &text[..],
            &mut brotli,
            &brotli::enc::BrotliEncoderParams::default(),
        )
        .expect("memory takes all");
        let mut zstd = vec![0; zstd_safe::compress_bound(text.len())];
        let length = zstd_safe::compress(&mut zstd[..], text, 3).expect("memory takes all");
        zstd.truncate(length);
        let twice = [&gzip[..], &gzip].concat();
        [
            (ContentEncoding::Gzip, gzip),
            (ContentEncoding::Gzip, twice),
            (ContentEncoding::Deflate, zlib),
            (ContentEncoding::Deflate, raw),
            (ContentEncoding::Brotli, brotli),
            (ContentEncoding::Zstd, zstd),
        ]
    }

    /// Returns the decoded text, the length of the longest step, and whether the body is complete.
    fn decode_pieces(
        encoding: ContentEncoding,
        pieces: &[&[u8]],
    ) -> Result<(Vec<u8>, usize, bool), DecodeError> {
        let mut decoder = Decoder::new(encoding);
        let (mut all, mut longest) = (Vec::new(), 0);
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() || decoder.has_more() {
                let (read, text) = decoder.step(&piece[at..])?;
                at += read;
                longest = longest.max(text.len());
                all.extend_from_slice(&text);
            }
        }
        Ok((all, longest, decoder.is_at_end()))
    }

    #[test]
    fn every_encoding_is_decoded_at_any_cut() {
        let text = b"one two two three three three, \xc3\xa9 ".repeat(20);
        for (encoding, bytes) in encoded_forms(&text) {
            for cut in 0..bytes.len() {
                let (all, _, ended) =
                    decode_pieces(encoding, &[&bytes[..cut], &bytes[cut..]]).expect("valid");
                assert!(ended && all.len() % text.len() == 0, "{encoding:?} {cut}");
                assert!(all.starts_with(&text), "{encoding:?} {cut}");
                assert!(
                    !decode_pieces(encoding, &[&bytes[..cut]]).expect("valid").2
                        || cut == bytes.len() / 2
                );
            }
        }
    }

    #[test]
    fn text_is_decoded_before_the_end_of_the_body() {
        let mut encoder = GzEncoder::new(vec![], Compression::default());
        encoder.write_all(b"data: [DONE]\n\n").expect("memory");
        encoder.flush().expect("memory");
        let (text, _, ended) =
            decode_pieces(ContentEncoding::Gzip, &[encoder.get_ref()]).expect("valid");
        assert_eq!((&text[..], ended), (&b"data: [DONE]\n\n"[..], false));
    }

    #[test]
    fn a_decompression_bomb_is_decoded_in_bounded_steps() {
        let text = vec![b' '; 8 << 20];
        for (encoding, bytes) in encoded_forms(&text) {
            let (all, longest, ended) = decode_pieces(encoding, &[&bytes]).expect("valid");
            assert!(ended && text.len() <= all.len(), "{encoding:?}");
            assert!(longest <= 4 * STEP_BYTES, "{encoding:?}: {longest} in one step");
        }
    }

    #[test]
    fn a_body_in_another_format_is_a_decode_error() {
        let text = b"plain text, and not a little of it".repeat(9);
        for encoding in [ContentEncoding::Gzip, ContentEncoding::Deflate, ContentEncoding::Zstd] {
            assert_eq!(decode_pieces(encoding, &[&text]), Err(DecodeError), "{encoding:?}");
        }
        for (encoding, mut bytes) in encoded_forms(&text) {
            let half = bytes.len() / 2;
            bytes.truncate(half);
            bytes.extend([0xff; 64]);
            let read = decode_pieces(encoding, &[&bytes]);
            assert!(read.is_err() || read.is_ok_and(|(all, ..)| all != text), "{encoding:?}");
        }
    }

    #[test]
    fn encodings_are_parsed_from_the_header() {
        for (value, encoding) in [
            ("gzip", Ok(Some(ContentEncoding::Gzip))),
            ("X-GZIP", Ok(Some(ContentEncoding::Gzip))),
            ("deflate", Ok(Some(ContentEncoding::Deflate))),
            ("identity, br", Ok(Some(ContentEncoding::Brotli))),
            ("zstd", Ok(Some(ContentEncoding::Zstd))),
            ("identity", Ok(None)),
            ("", Ok(None)),
            ("compress", Err(UnsupportedEncoding)),
            ("gzip, br", Err(UnsupportedEncoding)),
        ] {
            let headers = [(CONTENT_ENCODING, HeaderValue::from_static(value))];
            assert_eq!(
                ContentEncoding::from_headers(&headers.into_iter().collect()),
                encoding,
                "{value}"
            );
        }
    }
}
