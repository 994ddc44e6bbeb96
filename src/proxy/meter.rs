//! Meter: what reads the usage out of an answer as it passes, whether or not it is coded.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::dialect::endpoint::Endpoint;
use crate::dialect::estimate;
use crate::dialect::meter::{Passage, Reading};
use crate::domain::usage::Usage;
use crate::proxy::coding::{Coding, Corrupt, Decoder};
use crate::proxy::plain::{Expected, Plain};

/// What reads the usage out of an answer as it passes.
#[derive(Debug)]
pub struct Meter {
    plain: Plain,
    coded: Option<Box<Coded>>,
}

impl Meter {
    /// Reads nothing: the answer is free.
    pub const OFF: Self = Self { plain: Plain::Off, coded: None };

    /// Reads an answer with these headers; they lose what will not be true of what is sent. `most` is
    /// all that images or audio can use; `asked` and `strips` say that a stream was asked for, and
    /// usage by the gateway only.
    pub fn of_answer(
        fields: &mut HeaderMap,
        (endpoint, most): (Endpoint, Option<Usage>),
        (asked, strips): (bool, bool),
    ) -> Self {
        let is_of_type = |name: &[u8]| {
            let value = fields.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
            value.get(..name.len()).is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        let is_stream = is_of_type(b"text/event-stream");
        // What is said to be a document comes as it is.
        let strips = strips && !is_of_type(b"application/json");
        let expected = Expected { endpoint, most, is_stream, asked, strips };
        let coding = Coding::of(fields);
        if strips && coding.is_ok() {
            fields.remove(CONTENT_LENGTH);
            fields.remove(CONTENT_ENCODING);
        }
        match coding {
            Ok(None) => Self::new(expected),
            coded => Self::of_coded(expected, coded.ok().flatten()),
        }
    }

    /// Reads an answer that is not coded.
    const fn new(expected: Expected) -> Self {
        Self { plain: Plain::Unread(expected), coded: None }
    }

    /// Reads a copy of an answer that is coded, in some way that is known or not.
    ///
    /// The client gets what came; but where something is taken out, it gets the text.
    fn of_coded(expected: Expected, coding: Option<Coding>) -> Self {
        let coded = Coded {
            decoder: coding.map(Decoder::new),
            replaces: expected.strips && coding.is_some(),
            ..Coded::default()
        };
        Self { plain: Plain::Unread(expected), coded: Some(Box::new(coded)) }
    }

    /// What was learned so far.
    pub fn reading(&self) -> Reading {
        let mut reading = self.plain.reading();
        reading.counted_output += self.coded.as_ref().map_or(0, |coded| coded.unread_tokens);
        reading
    }

    /// The id of what the provider keeps for the caller, at most 256 bytes.
    pub fn kept_id(&self) -> Option<&str> {
        self.plain.kept_id()
    }

    /// Reads what one read brought, of which it is known whether it is the last.
    ///
    /// # Errors
    /// `Corrupt` where the client is given the text of what cannot be decoded.
    pub fn read(&mut self, data: Bytes, is_last: bool) -> Result<Passage, Corrupt> {
        match &mut self.coded {
            None => Ok(self.plain.read(data, is_last)),
            Some(coded) => {
                (coded.piece, coded.rest) = (data.clone(), data);
                coded.step(&mut self.plain)
            }
        }
    }

    /// Whether some of what was read last is still to be decoded.
    pub fn is_amid(&self) -> bool {
        self.coded.as_ref().is_some_and(|coded| coded.is_amid())
    }

    /// Decodes some more of it.
    pub fn go_on(&mut self) -> Result<Passage, Corrupt> {
        let step = self.coded.as_mut().map(|coded| coded.step(&mut self.plain));
        step.unwrap_or_else(|| Ok(Passage::default()))
    }

    /// What is left when the upstream ends.
    pub fn finish(&mut self) -> Result<Vec<Bytes>, Corrupt> {
        let rest = self.plain.finish();
        match &mut self.coded {
            Some(coded) if !coded.replaces => {
                Ok(coded.waiting.drain(..).map(|(piece, _)| piece).collect())
            }
            Some(coded) => coded.is_whole().then(|| vec![rest]).ok_or(Corrupt),
            None => Ok(vec![rest]),
        }
    }

    /// Whether the end of the answer is the end of a document that was understood.
    pub fn is_whole_document(&mut self) -> bool {
        self.plain.is_document() && self.coded.as_mut().is_none_or(|coded| coded.is_whole())
    }
}

/// A coded answer.
#[derive(Debug, Default)]
struct Coded {
    /// `None` where the coding is not known, or what came is not what it says.
    decoder: Option<Decoder>,
    /// Whether the client is given the text.
    replaces: bool,
    /// What was read last, and what of it is still to be decoded.
    piece: Bytes,
    rest: Bytes,
    /// What is held back, each piece with the length of the text that it is the end of.
    waiting: VecDeque<(Bytes, u64)>,
    /// The length of the text so far, and of what may be seen of it.
    decoded: u64,
    passed: u64,
    closing: bool,
    /// By our own count, of what could not be decoded.
    unread_tokens: u64,
}

impl Coded {
    fn step(&mut self, plain: &mut Plain) -> Result<Passage, Corrupt> {
        let step = self.decoder.as_mut().ok_or(Corrupt).and_then(|own| own.step(&self.rest));
        let Ok((read, text)) = step else { return self.pass_unread() };
        self.rest.advance(read);
        self.decoded += text.len() as u64;
        let passage = plain.read(text, false);
        if self.replaces {
            return Ok(passage);
        }
        self.passed += passage.pass.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.closing |= !passage.end.is_empty();
        if !self.is_amid() {
            self.waiting.push_back((std::mem::take(&mut self.piece), self.decoded));
        }
        Ok(self.released(passage.is_alive))
    }

    /// What nobody understands passes, unless the client was to be given the text.
    fn pass_unread(&mut self) -> Result<Passage, Corrupt> {
        if self.replaces {
            return Err(Corrupt);
        }
        self.decoder = None;
        if !self.closing {
            self.passed = u64::MAX;
        }
        self.unread_tokens += estimate::tokens_of_bytes(&self.rest);
        self.rest.clear();
        self.waiting.push_back((std::mem::take(&mut self.piece), self.decoded));
        Ok(self.released(false))
    }

    /// The pieces that let a client see no more than it may; what waits behind the end of the text
    /// waits for the settlement.
    fn released(&mut self, is_alive: bool) -> Passage {
        let mut passage = Passage { is_alive, ..Passage::default() };
        while let Some((piece, _)) = self.waiting.pop_front_if(|(_, seen)| *seen <= self.passed) {
            passage.pass.push(piece);
        }
        if self.closing {
            passage.end.extend(self.waiting.drain(..).map(|(piece, _)| piece));
        }
        passage
    }

    fn is_amid(&self) -> bool {
        !self.rest.is_empty() || self.decoder.as_ref().is_some_and(Decoder::has_more)
    }

    fn is_whole(&mut self) -> bool {
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

    fn expected(is_stream: bool, strips: bool) -> Expected {
        let endpoint = Endpoint::ChatCompletions;
        Expected { endpoint, most: None, is_stream, asked: true, strips }
    }

    /// The pieces of a coded text, each of which lets its reader see all up to there; and the rest.
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

    /// What a client can read of coded bytes.
    fn seen(coded: &[u8]) -> String {
        let mut decoder = GzDecoder::new(Vec::new());
        decoder.write_all(coded).expect("valid so far");
        decoder.flush().expect("memory");
        String::from_utf8(decoder.get_ref().clone()).expect("text")
    }

    /// All that passed, all that waits, and what was learned.
    fn run(mut meter: Meter, pieces: &[Bytes]) -> Result<(Vec<u8>, Vec<u8>, Reading), Corrupt> {
        let (mut pass, mut end) = (Vec::new(), Vec::new());
        let mut take = |passage: Passage| {
            assert!(end.is_empty() || passage.pass.is_empty(), "what waits keeps its place");
            pass.extend(passage.pass.concat());
            end.extend(passage.end.concat());
        };
        for piece in pieces {
            take(meter.read(piece.clone(), false)?);
            while meter.is_amid() {
                take(meter.go_on()?);
            }
        }
        end.extend(meter.finish()?.concat());
        Ok((pass, end, meter.reading()))
    }

    #[test]
    fn coded_pieces_wait_that_would_show_the_end() {
        let pieces = gzip(&EVENTS);
        let meter = Meter::of_coded(expected(true, false), Some(Coding::Gzip));
        let (pass, end, reading) = run(meter, &pieces).expect("valid");
        assert_eq!([&pass[..], &end].concat(), pieces.concat(), "byte for byte");
        let sees = seen(&pass);
        assert!(sees.contains("completion_tokens") && !sees.contains("[DONE]"), "{sees}");
        assert_eq!(reading.reported, Some(Usage::tokens_of(3, 2)));
        assert!(reading.terminated);
    }

    #[test]
    fn the_last_byte_of_a_coded_document_waits() {
        let text = [r#"{"usage":{"prompt_tokens":3,"#, r#""completion_tokens":2}"#, "}"];
        let pieces = gzip(&text);
        let meter = Meter::of_coded(expected(false, false), Some(Coding::Gzip));
        let (pass, end, reading) = run(meter, &pieces).expect("valid");
        assert_eq!([&pass[..], &end].concat(), pieces.concat());
        assert_eq!(seen(&pass), text[..2].concat());
        assert_eq!(reading.reported, Some(Usage::tokens_of(3, 2)));
    }

    #[test]
    fn where_something_is_taken_out_the_text_is_sent_and_must_be_whole() {
        let pieces = gzip(&EVENTS);
        let meter = || Meter::of_coded(expected(true, true), Some(Coding::Gzip));
        let (pass, end, reading) = run(meter(), &pieces).expect("valid");
        assert_eq!(pass, EVENTS[0].as_bytes()[..EVENTS[0].len() - 2]);
        assert_eq!(end, b"data: [DONE]\n\n");
        assert_eq!(reading.reported, Some(Usage::tokens_of(3, 2)));
        assert!(run(meter(), &pieces[..3]).is_err(), "it breaks off");
        assert!(run(meter(), &[pieces[0].clone(), Bytes::from_static(&[0xff; 99])]).is_err());
    }

    #[test]
    fn what_nobody_understands_passes_and_is_counted() {
        let noise = Bytes::from_static(&[0xfe; 300]);
        for (coding, pieces) in [
            (None, vec![noise.clone(), noise.clone()]),
            (Some(Coding::Gzip), vec![gzip(&EVENTS)[0].clone(), noise.clone(), noise]),
        ] {
            let meter = Meter::of_coded(expected(true, false), coding);
            let (pass, end, reading) = run(meter, &pieces).expect("it passes");
            assert_eq!([&pass[..], &end].concat(), pieces.concat());
            assert!(200 <= reading.counted_output && reading.reported.is_none(), "{reading:?}");
        }
    }

    #[test]
    fn what_an_answer_is_its_first_bytes_say() {
        let stream =
            Bytes::from_static(b"data: {\"usage\":{\"prompt_tokens\":9}}\n\ndata: [DONE]\n\n");
        let document = Bytes::from_static(b"\n{\"usage\":{\"prompt_tokens\":9}}");
        let usage = Some(Usage::tokens_of(9, 0));
        for said in [false, true] {
            let (_, end, reading) =
                run(Meter::new(expected(said, false)), std::slice::from_ref(&stream))
                    .expect("plain");
            assert_eq!((&end[..], reading.reported), (&b"data: [DONE]\n\n"[..], usage), "{said}");
            let (_, end, reading) =
                run(Meter::new(expected(said, false)), std::slice::from_ref(&document))
                    .expect("plain");
            assert_eq!((&end[..], reading.reported), (&b"}"[..], usage), "{said}");
        }
    }
}
