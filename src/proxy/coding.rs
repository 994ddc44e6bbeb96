//! Coding: bodies that come compressed, read piece by piece in constant memory.

use std::fmt;
use std::io::{self, Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Bytes, BytesMut};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// The most text that one step makes, in bytes; a few times this where a window is let go.
const STEP_BYTES: usize = 32 << 10;
/// The largest window of zstd, as a power of two: what RFC 9659 allows on the web. The others have
/// smaller ones: 32 KiB, and 16 MiB for brotli.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`, of any number of members.
    Gzip,
    /// `deflate`, with the head of zlib or, as some send it, without.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// A coding that nobody here understands, or several of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

impl Coding {
    /// How these headers say that the body is coded; `None` for not at all.
    ///
    /// # Errors
    /// `Unknown` for another coding, and for one within another.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Unknown> {
        let lines = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
        let names = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let mut coded =
            names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
        match (coded.next(), coded.next()) {
            (None, _) => Ok(None),
            (Some(name), None) => Self::named(name).map(Some).ok_or(Unknown),
            (Some(_), Some(_)) => Err(Unknown),
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        let names: [(&[u8], Self); 5] = [
            (b"gzip", Self::Gzip),
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"br", Self::Brotli),
            (b"zstd", Self::Zstd),
        ];
        names.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, coding)| *coding)
    }
}

/// A body that is not what its coding says, or breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

impl From<io::Error> for Corrupt {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Reads a coded body.
pub struct Decoder {
    machine: Machine,
    /// Whether the last step made as much as it may.
    is_full: bool,
}

enum Machine {
    Gzip(MultiGzDecoder<Vec<u8>>),
    /// `deflate` before its first byte says which it is.
    Deflate,
    Zlib(ZlibDecoder<Vec<u8>>),
    Raw(DeflateDecoder<Vec<u8>>),
    Brotli(Box<Brotli>, bool),
    Zstd(DCtx<'static>, bool),
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.machine {
            Machine::Gzip(_) => "gzip",
            Machine::Deflate | Machine::Zlib(_) | Machine::Raw(_) => "deflate",
            Machine::Brotli(..) => "br",
            Machine::Zstd(..) => "zstd",
        })
    }
}

impl Decoder {
    /// At the beginning of a body.
    pub fn new(coding: Coding) -> Self {
        let alloc = StandardAlloc::default;
        let machine = match coding {
            Coding::Gzip => Machine::Gzip(MultiGzDecoder::new(Vec::new())),
            Coding::Deflate => Machine::Deflate,
            Coding::Brotli => {
                let strict = Brotli::new_strict(alloc(), alloc(), alloc());
                Machine::Brotli(Box::new(strict), false)
            }
            Coding::Zstd => {
                let mut context = DCtx::create();
                // Refused only where no such window exists.
                let _ = context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX));
                Machine::Zstd(context, false)
            }
        };
        Self { machine, is_full: false }
    }

    /// Whether there may be more text without more bytes.
    pub const fn has_more(&self) -> bool {
        self.is_full
    }

    /// One step: how many of these bytes were read, and the text that they make. Bytes behind the
    /// end of the body are read and make nothing.
    pub fn step(&mut self, coded: &[u8]) -> Result<(usize, Bytes), Corrupt> {
        if let (Machine::Deflate, Some(first)) = (&self.machine, coded.first()) {
            // A raw stream cannot begin so: the method is 8, the window at most 32 KiB.
            let is_zlib = first & 0x0f == 8 && first >> 4 <= 7;
            self.machine = if is_zlib {
                Machine::Zlib(ZlibDecoder::new(Vec::new()))
            } else {
                Machine::Raw(DeflateDecoder::new(Vec::new()))
            };
        }
        let step = match &mut self.machine {
            Machine::Gzip(decoder) => inflated(decoder, coded, |decoder| decoder.get_mut()),
            Machine::Zlib(decoder) => inflated(decoder, coded, |decoder| decoder.get_mut()),
            Machine::Raw(decoder) => inflated(decoder, coded, |decoder| decoder.get_mut()),
            Machine::Deflate => Ok((0, Bytes::new())),
            Machine::Brotli(state, ended) => unbrotlied(state, ended, coded),
            Machine::Zstd(context, ended) => unzstd(context, ended, coded),
        };
        // What is inflated is all out, as its windows are no larger than a step.
        let keeps = matches!(self.machine, Machine::Brotli(..) | Machine::Zstd(..));
        self.is_full = keeps && step.as_ref().is_ok_and(|(_, text)| STEP_BYTES <= text.len());
        step
    }

    /// Whether the body is whole: nothing is missing at its end.
    pub fn is_at_end(&mut self) -> bool {
        match &mut self.machine {
            Machine::Gzip(decoder) => decoder.try_finish().is_ok(),
            Machine::Zlib(decoder) => decoder.try_finish().is_ok(),
            Machine::Raw(decoder) => decoder.try_finish().is_ok(),
            Machine::Deflate => false,
            Machine::Brotli(_, ended) | Machine::Zstd(_, ended) => *ended,
        }
    }
}

fn inflated<D: Write>(
    decoder: &mut D,
    coded: &[u8],
    text: impl Fn(&mut D) -> &mut Vec<u8>,
) -> Result<(usize, Bytes), Corrupt> {
    let mut read = decoder.write(coded)?;
    if read == coded.len() {
        decoder.flush()?;
    } else if read == 0 && text(decoder).is_empty() {
        read = coded.len();
    }
    Ok((read, Bytes::from(std::mem::take(text(decoder)))))
}

fn unbrotlied(
    state: &mut Brotli,
    ended: &mut bool,
    coded: &[u8],
) -> Result<(usize, Bytes), Corrupt> {
    if *ended {
        return Ok((coded.len(), Bytes::new()));
    }
    let mut text = BytesMut::zeroed(STEP_BYTES);
    let (mut left, mut read, mut room, mut made) = (coded.len(), 0, text.len(), 0);
    let result = BrotliDecompressStream(
        &mut left, &mut read, coded, &mut room, &mut made, &mut text, &mut 0, state,
    );
    match result {
        BrotliResult::ResultFailure => return Err(Corrupt),
        BrotliResult::ResultSuccess => (*ended, read) = (true, coded.len()),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
    }
    text.truncate(made);
    Ok((read, text.freeze()))
}

fn unzstd(
    context: &mut DCtx<'static>,
    ended: &mut bool,
    coded: &[u8],
) -> Result<(usize, Bytes), Corrupt> {
    let mut text = vec![0; STEP_BYTES];
    let mut input = InBuffer::around(coded);
    let mut output = OutBuffer::around(&mut text[..]);
    // What is left of this frame: nothing at its end, where another one may begin.
    let left = context.decompress_stream(&mut output, &mut input).map_err(|_| Corrupt)?;
    let (read, made) = (input.pos(), output.pos());
    if 0 < read + made {
        *ended = left == 0;
    }
    text.truncate(made);
    Ok((read, Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn written<E: Write>(mut encoder: E, text: &[u8], end: impl Fn(E) -> Vec<u8>) -> Vec<u8> {
        encoder.write_all(text).expect("memory takes all");
        end(encoder)
    }

    fn coded(text: &[u8]) -> [(Coding, Vec<u8>); 6] {
        let level = Compression::default();
        let gzip = written(GzEncoder::new(vec![], level), text, |end| end.finish().expect("ends"));
        let zlib =
            written(ZlibEncoder::new(vec![], level), text, |end| end.finish().expect("ends"));
        let raw =
            written(DeflateEncoder::new(vec![], level), text, |end| end.finish().expect("ends"));
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
            (Coding::Gzip, gzip),
            (Coding::Gzip, twice),
            (Coding::Deflate, zlib),
            (Coding::Deflate, raw),
            (Coding::Brotli, brotli),
            (Coding::Zstd, zstd),
        ]
    }

    /// The text of a body that comes in these pieces, and the longest step.
    fn decoded(coding: Coding, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), Corrupt> {
        let mut decoder = Decoder::new(coding);
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
    fn every_coding_is_read_however_it_is_cut() {
        let text = b"one two two three three three, \xc3\xa9 ".repeat(20);
        for (coding, bytes) in coded(&text) {
            for cut in 0..bytes.len() {
                let (all, _, ended) =
                    decoded(coding, &[&bytes[..cut], &bytes[cut..]]).expect("valid");
                assert!(ended && all.len() % text.len() == 0, "{coding:?} {cut}");
                assert!(all.starts_with(&text), "{coding:?} {cut}");
                assert!(
                    !decoded(coding, &[&bytes[..cut]]).expect("valid").2 || cut == bytes.len() / 2
                );
            }
        }
    }

    #[test]
    fn what_has_come_is_text_before_the_end_has() {
        let mut encoder = GzEncoder::new(vec![], Compression::default());
        encoder.write_all(b"data: [DONE]\n\n").expect("memory");
        encoder.flush().expect("memory");
        let (text, _, ended) = decoded(Coding::Gzip, &[encoder.get_ref()]).expect("valid");
        assert_eq!((&text[..], ended), (&b"data: [DONE]\n\n"[..], false));
    }

    #[test]
    fn a_bomb_goes_off_a_little_at_a_time() {
        let text = vec![b' '; 8 << 20];
        for (coding, bytes) in coded(&text) {
            let (all, longest, ended) = decoded(coding, &[&bytes]).expect("valid");
            assert!(ended && text.len() <= all.len(), "{coding:?}");
            assert!(longest <= 4 * STEP_BYTES, "{coding:?}: {longest} in one step");
        }
    }

    #[test]
    fn what_is_no_such_coding_is_corrupt() {
        let text = b"plain text, and not a little of it".repeat(9);
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Zstd] {
            assert_eq!(decoded(coding, &[&text]), Err(Corrupt), "{coding:?}");
        }
        for (coding, mut bytes) in coded(&text) {
            let half = bytes.len() / 2;
            bytes.truncate(half);
            bytes.extend([0xff; 64]);
            let read = decoded(coding, &[&bytes]);
            assert!(read.is_err() || read.is_ok_and(|(all, ..)| all != text), "{coding:?}");
        }
    }

    #[test]
    fn codings_go_by_their_names() {
        for (value, coding) in [
            ("gzip", Ok(Some(Coding::Gzip))),
            ("X-GZIP", Ok(Some(Coding::Gzip))),
            ("deflate", Ok(Some(Coding::Deflate))),
            ("identity, br", Ok(Some(Coding::Brotli))),
            ("zstd", Ok(Some(Coding::Zstd))),
            ("identity", Ok(None)),
            ("", Ok(None)),
            ("compress", Err(Unknown)),
            ("gzip, br", Err(Unknown)),
        ] {
            let headers = [(CONTENT_ENCODING, HeaderValue::from_static(value))];
            assert_eq!(Coding::of(&headers.into_iter().collect()), coding, "{value}");
        }
    }
}
