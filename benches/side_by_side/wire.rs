//! A minimal HTTP/1.1 parser for requests and responses: heads, lengths and chunks.

use anyhow::{Context, Result, bail, ensure};
use memchr::{memchr, memmem};

/// The parts of a message, passed by `Reader::feed` in this order.
pub enum Part<'a> {
    /// The first line and the headers, including the final blank line.
    Head(&'a [u8]),
    Body(&'a [u8]),
    End,
}

/// Splits the bytes of a connection into messages.
#[derive(Default)]
pub struct Reader {
    /// An incomplete head. Usually empty; then nothing is copied.
    partial_head: Vec<u8>,
    body: Option<Body>,
}

impl Reader {
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_part: impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            let Some(body) = &mut self.body else {
                let Some(rest) = self.feed_head(bytes, &mut on_part)? else { return Ok(()) };
                bytes = rest;
                self.end_if_done(&mut on_part)?;
                continue;
            };
            let used = body.feed(bytes, &mut on_part)?;
            bytes = &bytes[used..];
            self.end_if_done(&mut on_part)?;
        }
        Ok(())
    }

    /// Returns the bytes after the head, or `None` if the head is incomplete.
    fn feed_head<'a>(
        &mut self,
        bytes: &'a [u8],
        on_part: &mut impl FnMut(Part) -> Result<()>,
    ) -> Result<Option<&'a [u8]>> {
        let before = self.partial_head.len();
        let buffered = if before == 0 {
            bytes
        } else {
            self.partial_head.extend_from_slice(bytes);
            &self.partial_head
        };
        let Some(blank) = memmem::find(buffered, b"\r\n\r\n") else {
            ensure!(buffered.len() < 64 * 1024, "message head larger than 64 KB");
            if before == 0 {
                self.partial_head.extend_from_slice(bytes);
            }
            return Ok(None);
        };
        let head = &buffered[..blank + 4];
        self.body = Some(Body::from_head(head)?);
        on_part(Part::Head(head))?;
        let rest = &bytes[head.len() - before..];
        self.partial_head.clear();
        Ok(Some(rest))
    }

    fn end_if_done(&mut self, on_part: &mut impl FnMut(Part) -> Result<()>) -> Result<()> {
        if self.body.as_ref().is_some_and(Body::is_done) {
            self.body = None;
            on_part(Part::End)?;
        }
        Ok(())
    }
}

/// Parsing state of a body.
enum Body {
    Fixed {
        left: usize,
    },
    Size {
        value: usize,
    },
    Extension {
        value: usize,
    },
    Data {
        left: usize,
    },
    DataEnd,
    /// After the last chunk: lines until an empty one.
    Trailer {
        line_bytes: usize,
    },
    Done,
}

impl Body {
    fn from_head(head: &[u8]) -> Result<Self> {
        let mut length = None;
        let mut lines = head;
        while let Some(end) = memchr(b'\n', lines) {
            let line = &lines[..end];
            lines = &lines[end + 1..];
            if let Some(value) = value_of(line, b"content-length:") {
                length = Some(value.parse().context("content-length is not a number")?);
            } else if value_of(line, b"transfer-encoding:").is_some_and(|v| v == "chunked") {
                return Ok(Body::Size { value: 0 });
            }
        }
        // A response without both would end with the connection, which no leg may do.
        let is_response = head.starts_with(b"HTTP/");
        ensure!(length.is_some() || !is_response, "response without a length");
        Ok(Body::Fixed { left: length.unwrap_or(0) })
    }

    fn is_done(&self) -> bool {
        matches!(self, Body::Done | Body::Fixed { left: 0 })
    }

    /// Consumes one step of the body and returns the number of bytes. The caller loops.
    fn feed(
        &mut self,
        bytes: &[u8],
        on_part: &mut impl FnMut(Part) -> Result<()>,
    ) -> Result<usize> {
        if let Body::Fixed { left } | Body::Data { left } = self {
            let used = bytes.len().min(*left);
            *left -= used;
            if *left == 0 && matches!(self, Body::Data { .. }) {
                *self = Body::DataEnd;
            }
            on_part(Part::Body(&bytes[..used]))?;
            return Ok(used);
        }
        let byte = bytes[0];
        *self = match *self {
            Body::Size { value } | Body::Extension { value } if byte == b'\n' => match value {
                0 => Body::Trailer { line_bytes: 0 },
                left => Body::Data { left },
            },
            Body::Size { value } => match char::from(byte).to_digit(16) {
                Some(digit) => Body::Size { value: value * 16 + digit as usize },
                None => Body::Extension { value },
            },
            Body::Extension { value } => Body::Extension { value },
            Body::DataEnd if byte == b'\n' => Body::Size { value: 0 },
            Body::DataEnd if byte == b'\r' => Body::DataEnd,
            Body::Trailer { line_bytes: 0 } if byte == b'\n' => Body::Done,
            Body::Trailer { .. } if byte == b'\n' => Body::Trailer { line_bytes: 0 },
            Body::Trailer { line_bytes } if byte == b'\r' => Body::Trailer { line_bytes },
            Body::Trailer { line_bytes } => Body::Trailer { line_bytes: line_bytes + 1 },
            _ => bail!("invalid chunked body"),
        };
        Ok(1)
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let start = line.get(..name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    std::str::from_utf8(&line[name.len()..]).ok().map(str::trim)
}
