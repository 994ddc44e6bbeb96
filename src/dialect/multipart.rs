//! Forms: finds the parts of a `multipart/form-data` body, without copying it.
//!
//! Strict, because an upstream has a parser of its own: a body that two parsers could read as
//! different forms is refused.

use std::ops::Range;

use memchr::memmem;

/// Maximum number of parts.
const PARTS_MAX: usize = 256;
/// Maximum length of the headers of a part.
const HEAD_BYTES_MAX: usize = 4 * 1024;
/// Maximum length of a boundary in RFC 2046.
const BOUNDARY_BYTES_MAX: usize = 70;

/// A part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    pub name: &'a str,
    pub is_file: bool,
    /// Position of the value in the body.
    pub value: Range<usize>,
}

/// Returns the boundary in the value of a `content-type` header, or an error message.
pub fn boundary(content_type: &str) -> Result<&str, &'static str> {
    let mut found = None;
    for parameter in content_type.split(';').skip(1) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim().eq_ignore_ascii_case("boundary") && found.replace(value.trim()).is_some() {
            return Err("the header `content-type` has more than one boundary; send one");
        }
    }
    let Some(value) = found else {
        return Err("the header `content-type` has no boundary; add `boundary=…`");
    };
    let bare = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'));
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    bare.filter(|bare| (1..=BOUNDARY_BYTES_MAX).contains(&bare.len()) && bare.bytes().all(is_usual))
        .ok_or("the boundary of the form must have 1 to 70 characters: letters, digits and `'()+_,-./:=?`")
}

/// Calls `on_part` with every part of a form. An error message names the number of the part.
pub fn parts<'a>(
    body: &'a [u8],
    boundary: &str,
    mut on_part: impl FnMut(Part<'a>),
) -> Result<(), String> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    if !body.starts_with(&delimiter.as_bytes()[2..]) {
        return Err("the form must begin with its boundary".to_owned());
    }
    let mut at = delimiter.len() - 2;
    for number in 1..=PARTS_MAX {
        match &body[at..] {
            [b'-', b'-'] | [b'-', b'-', b'\r', b'\n'] if 1 < number => return Ok(()),
            [b'\r', b'\n', ..] => at += 2,
            [] => {
                return Err(format!(
                    "the form ends before part {number}; it must end with `--boundary--`"
                ));
            }
            _ => {
                return Err(format!(
                    "part {number} of the form: unexpected bytes after the boundary"
                ));
            }
        }
        let head = head_end(&body[at..]).ok_or_else(|| {
            format!("part {number} of the form: the headers must end within {HEAD_BYTES_MAX} bytes")
        })?;
        let (name, is_file) = read_head(&body[at..at + head])
            .map_err(|what| format!("part {number} of the form: {what}"))?;
        let start = at + head + 4;
        // The line end of the headers cannot begin a boundary as well, but some parsers let it.
        let from = start - 2;
        let end = finder.find(&body[from..]).map(|end| from + end).filter(|end| start <= *end);
        let Some(end) = end else {
            return Err(format!(
                "part {number} of the form, `{name}`: no boundary follows the value"
            ));
        };
        on_part(Part { name, is_file, value: start..end });
        at = end + delimiter.len();
    }
    Err(format!("the form has more than {PARTS_MAX} parts; send fewer"))
}

/// Returns the line before every part of a form; none if the body is not a form.
pub fn delimiter(body: &[u8]) -> Option<&str> {
    let line = &body[..memmem::find(body, b"\r\n")?];
    std::str::from_utf8(line).ok().filter(|line| line.starts_with("--"))
}

fn head_end(rest: &[u8]) -> Option<usize> {
    memmem::find(&rest[..rest.len().min(HEAD_BYTES_MAX)], b"\r\n\r\n")
}

/// Returns the name of a part from its headers, and whether it is a file.
fn read_head(head: &[u8]) -> Result<(&str, bool), &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "the headers are not UTF-8")?;
    let mut named = None;
    for line in text.split("\r\n") {
        if line.contains(['\r', '\n', '\0']) {
            return Err("a header line has a control character");
        }
        let (field, value) = line.split_once(':').ok_or("a header line has no colon")?;
        if !field.starts_with(|first: char| first.is_ascii_alphabetic())
            || !field.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err("invalid header name");
        }
        if field.eq_ignore_ascii_case("content-disposition") {
            if named.is_some() {
                return Err("duplicate content-disposition; send one");
            }
            named = Some(read_disposition(value)?);
        } else if field.eq_ignore_ascii_case("content-transfer-encoding") {
            let value = value.trim();
            if !["binary", "8bit", "7bit"].iter().any(|plain| value.eq_ignore_ascii_case(plain)) {
                return Err("unsupported content-transfer-encoding; send the value unencoded");
            }
        }
    }
    named.ok_or("missing content-disposition")
}

fn read_disposition(value: &str) -> Result<(&str, bool), &'static str> {
    const INVALID: &str = "invalid content-disposition";
    let (kind, mut rest) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err("the content-disposition must be `form-data`");
    }
    let (mut name, mut is_file) = (None, false);
    while !rest.trim().is_empty() {
        let (key, after) = rest.split_once('=').ok_or(INVALID)?;
        let (text, following) = parameter(after.trim_start()).ok_or(INVALID)?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" if name.is_none() => name = Some(text),
            "filename" | "filename*" => is_file = true,
            _ => return Err(INVALID),
        }
        let following = following.trim_start();
        rest = following.strip_prefix(';').unwrap_or(following);
        if rest.len() == following.len() && !rest.is_empty() {
            return Err(INVALID);
        }
    }
    let name: &str =
        name.filter(|name: &&str| !name.is_empty()).ok_or("the content-disposition has no name")?;
    // Parsers differ in the meaning of an escape in a name.
    if name.contains(['\\', '%']) { Err(INVALID) } else { Ok((name, is_file)) }
}

/// Returns the value of a parameter at the beginning of a text, and the text after it.
fn parameter(text: &str) -> Option<(&str, &str)> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let is_plain = end != 0 && !text[..end].contains('"');
        return is_plain.then(|| text.split_at(end));
    };
    let mut end = 0;
    while let Some(next) = inside[end..].find(['"', '\\']) {
        end += next;
        if inside.as_bytes()[end] == b'"' {
            return Some((&inside[..end], &inside[end + 1..]));
        }
        // An escaped character has one byte.
        end += 2;
        if !inside.is_char_boundary(end) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<(String, bool, String)>, String> {
        let mut found = Vec::new();
        parts(body.as_bytes(), "B", |part| {
            found.push((part.name.to_owned(), part.is_file, body[part.value].to_owned()));
        })?;
        Ok(found)
    }

    fn field(head: &str, value: &str) -> String {
        format!("--B\r\ncontent-disposition: form-data; {head}\r\n\r\n{value}\r\n--B--\r\n")
    }

    #[test]
    fn fields_and_files_are_found() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n\
                    --B\r\ncontent-disposition: form-data; name=prompt\r\n\
                    Content-Type: text/plain; charset=utf-8\r\n\r\n\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"image[]\"; filename=\"a;b\\\"=.png\"\r\n\
                    Content-Transfer-Encoding: binary\r\n\r\n\r\n-B\r\n--\r\n--B--\r\n";
        let part = |name: &str, is_file, value: &str| (name.to_owned(), is_file, value.to_owned());
        let expected = [
            part("model", false, "m"),
            part("prompt", false, ""),
            part("image[]", true, "\r\n-B\r\n--"),
        ];
        assert_eq!(read(body).expect("a form"), expected);
        assert_eq!(read(body.trim_end()).expect("without the last line end"), expected);
    }

    #[test]
    fn names_may_be_quoted_or_bare() {
        for (head, name, is_file) in [
            ("name=\"a\"", "a", false),
            ("name=a", "a", false),
            ("NAME = \"a b\" ; filename=x", "a b", true),
            ("filename*=utf-8''x.png; name=a", "a", true),
            ("name=\"ä;=\"", "ä;=", false),
        ] {
            let found = read(&field(head, "v")).expect(head);
            assert_eq!(found, [(name.to_owned(), is_file, "v".to_owned())], "{head}");
        }
    }

    #[test]
    fn malformed_and_ambiguous_forms_are_refused() {
        let whole = field("name=\"model\"", "m");
        let cases = [
            (String::new(), "must begin"),
            ("--B".to_owned(), "ends before part 1"),
            ("--B--".to_owned(), "unexpected bytes"),
            (format!("preamble\r\n{whole}"), "must begin"),
            (whole.replace("\r\n", "\n"), "unexpected bytes"),
            (format!("{whole}more"), "part 2 of the form: unexpected"),
            (whole.replace("--B--", "--Bx"), "part 2 of the form: unexpected"),
            (whole.replace("--B--", "--B --"), "part 2 of the form: unexpected"),
            (whole[..whole.len() - 9].to_owned(), "part 1 of the form, `model`: no boundary"),
            (whole.replace("\r\n\r\n", "\r\n"), "the headers must end"),
            (whole.replace("form-data", "attachment"), "must be `form-data`"),
            (whole.replace("content-disposition", "x-other"), "missing content-disposition"),
            (whole.replace("content-disposition:", "content-disposition"), "no colon"),
            (whole.replace("form-data;", "form-data;\r\n"), "the content-disposition has no name"),
            (field("name=a\r\n x: y", "m"), "invalid header name"),
            (field("name=a\r\n--B: x", "m"), "invalid header name"),
            (whole.replace("\r\n\r\nm", "\r\n"), "no boundary"),
            (
                field("name=a\r\nContent-Disposition : form-data; name=b", "m"),
                "invalid header name",
            ),
            (field("name=\"mod%65l\"", "m"), "invalid content-disposition"),
            (field("name=\"mod\\el\"", "m"), "invalid content-disposition"),
            (field("name=\"\"", "m"), "the content-disposition has no name"),
            (field("filename=\"x\"", "m"), "the content-disposition has no name"),
            (field("name=\"model", "m"), "invalid content-disposition"),
            (field("name=\"model\\", "m"), "invalid content-disposition"),
            (field("name=\"a\"\"b\"", "m"), "invalid content-disposition"),
            (field("name=a\"b\"", "m"), "invalid content-disposition"),
            (field("name=a; name=b", "m"), "invalid content-disposition"),
            (field("name*=utf-8''model", "m"), "invalid content-disposition"),
            (field("name", "m"), "invalid content-disposition"),
            (field("name=a\r\nContent-Transfer-Encoding: base64", "m"), "unencoded"),
            (field("name=a\r\nContent-Disposition: form-data; name=b", "m"), "duplicate"),
            (field("name=a\nContent-Disposition: x", "m"), "control character"),
            (format!("--B\r\n{}", "a: b\r\n".repeat(1_000)), "must end within"),
            (whole.replace("--B--", &whole.repeat(300)), "more than 256"),
        ];
        for (body, expected) in cases {
            let body = body.replace("--B--\r\n--B\r\n", "--B\r\n");
            let error = read(&body).expect_err(expected);
            assert!(error.contains(expected), "{error}: {body:.200}");
        }
    }

    #[test]
    fn a_truncated_form_is_not_a_form() {
        let whole = field("name=\"model\"; filename=\"ä\\\\.png\"", "value");
        let end = whole.len() - 2;
        for cut in (0..end).filter(|cut| whole.is_char_boundary(*cut)) {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        for cut in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[cut] = 0xff;
            // Nothing panics, and all values are within the body.
            let _ = parts(&bytes, "B", |part| assert!(part.value.end <= bytes.len()));
        }
    }

    #[test]
    fn boundaries_have_only_safe_characters() {
        for (value, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("multipart/form-data;charset=utf-8; Boundary=\"a b\"", None),
            ("multipart/form-data; boundary=\"----x'()\"", Some("----x'()")),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"abc", None),
            ("multipart/form-data; boundary=a; boundary=b", None),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=a{b}", None),
        ] {
            assert_eq!(boundary(value).ok(), expected, "{value}");
        }
        let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
        assert!(boundary(&long).is_err());
    }

    #[test]
    fn the_delimiter_is_the_line_before_every_part() {
        assert_eq!(delimiter(field("name=a", "m").as_bytes()), Some("--B"));
        assert_eq!(delimiter(b"{}"), None);
        assert_eq!(delimiter(b"{}\r\n"), None);
    }
}
