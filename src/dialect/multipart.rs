//! Forms: finds the parts of a `multipart/form-data` body where they stand, without copying it.
//!
//! Strict, as upstreams read the same bytes in their own ways: what two readers could take for two
//! forms is refused.

use std::ops::Range;

use memchr::memmem;

/// The most parts of a form.
const PARTS_MAX: usize = 256;
/// The longest head of a part, in bytes.
const HEAD_BYTES_MAX: usize = 4 * 1024;
/// The longest boundary, as RFC 2046 has it.
const BOUNDARY_BYTES_MAX: usize = 70;

/// A part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// The name of the field.
    pub name: &'a str,
    /// Whether it is a file.
    pub is_file: bool,
    /// Where its value stands in the body.
    pub value: Range<usize>,
}

/// The boundary that the value of a `content-type` names.
///
/// # Errors
/// What is wrong with it.
pub fn boundary(content_type: &str) -> Result<&str, &'static str> {
    let mut found = None;
    for parameter in content_type.split(';').skip(1) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim().eq_ignore_ascii_case("boundary") && found.replace(value.trim()).is_some() {
            return Err("the header `content-type` names more than one boundary; name one");
        }
    }
    let Some(value) = found else {
        return Err("the header `content-type` names no boundary; add `boundary=…`");
    };
    let bare = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'));
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    bare.filter(|bare| (1..=BOUNDARY_BYTES_MAX).contains(&bare.len()) && bare.bytes().all(is_usual))
        .ok_or("the boundary of the form must be 1 to 70 letters, digits or `'()+_,-./:=?`")
}

/// Calls `visit` with every part of a form.
///
/// # Errors
/// What breaks the form, with the number of the part.
pub fn parts<'a>(
    body: &'a [u8],
    boundary: &str,
    mut on_part: impl FnMut(Part<'a>),
) -> Result<(), String> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    if !body.starts_with(&delimiter.as_bytes()[2..]) {
        return Err("the form does not begin with its boundary".to_owned());
    }
    let mut at = delimiter.len() - 2;
    for number in 1..=PARTS_MAX {
        match &body[at..] {
            [b'-', b'-'] | [b'-', b'-', b'\r', b'\n'] if 1 < number => return Ok(()),
            [b'\r', b'\n', ..] => at += 2,
            [] => return Err(format!("the form ends before its part {number}")),
            _ => return Err(format!("a boundary before part {number} of the form goes on oddly")),
        }
        let head = head_end(&body[at..]).ok_or_else(|| {
            format!("part {number} of the form has no head that ends within {HEAD_BYTES_MAX} bytes")
        })?;
        let (name, is_file) =
            read_head(&body[at..at + head]).map_err(|what| format!("part {number} {what}"))?;
        let start = at + head + 4;
        // What ends the head cannot begin a boundary as well; to some it does.
        let from = start - 2;
        let end = finder.find(&body[from..]).map(|end| from + end).filter(|end| start <= *end);
        let Some(end) = end else {
            return Err(format!("part {number} of the form, `{name}`, has no end"));
        };
        on_part(Part { name, is_file, value: start..end });
        at = end + delimiter.len();
    }
    Err(format!("the form has more than {PARTS_MAX} parts; send fewer"))
}

/// The line that begins every part of a form, or `None` for what is no form.
pub fn delimiter(body: &[u8]) -> Option<&str> {
    let line = &body[..memmem::find(body, b"\r\n")?];
    std::str::from_utf8(line).ok().filter(|line| line.starts_with("--"))
}

fn head_end(rest: &[u8]) -> Option<usize> {
    memmem::find(&rest[..rest.len().min(HEAD_BYTES_MAX)], b"\r\n\r\n")
}

/// The name that the head of a part gives it, and whether it is a file.
fn read_head(head: &[u8]) -> Result<(&str, bool), &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "has a head that is not UTF-8")?;
    let mut named = None;
    for line in text.split("\r\n") {
        if line.contains(['\r', '\n', '\0']) {
            return Err("has a line in its head that ends oddly");
        }
        let (field, value) =
            line.split_once(':').ok_or("has a line in its head without a colon")?;
        if !field.starts_with(|first: char| first.is_ascii_alphabetic())
            || !field.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err("has a line in its head that begins oddly");
        }
        if field.eq_ignore_ascii_case("content-disposition") {
            if named.is_some() {
                return Err("has two content-dispositions; send one");
            }
            named = Some(read_disposition(value)?);
        } else if field.eq_ignore_ascii_case("content-transfer-encoding") {
            let value = value.trim();
            if !["binary", "8bit", "7bit"].iter().any(|plain| value.eq_ignore_ascii_case(plain)) {
                return Err("is encoded; send it as it is");
            }
        }
    }
    named.ok_or("has no content-disposition")
}

fn read_disposition(value: &str) -> Result<(&str, bool), &'static str> {
    const ODD: &str = "has a content-disposition that is not understood";
    let (kind, mut rest) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err("is no `form-data`");
    }
    let (mut name, mut is_file) = (None, false);
    while !rest.trim().is_empty() {
        let (key, after) = rest.split_once('=').ok_or(ODD)?;
        let (text, behind) = parameter(after.trim_start()).ok_or(ODD)?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" if name.is_none() => name = Some(text),
            "filename" | "filename*" => is_file = true,
            _ => return Err(ODD),
        }
        let behind = behind.trim_start();
        rest = behind.strip_prefix(';').unwrap_or(behind);
        if rest.len() == behind.len() && !rest.is_empty() {
            return Err(ODD);
        }
    }
    let name: &str = name.filter(|name: &&str| !name.is_empty()).ok_or("has no name")?;
    // Readers do not agree on what an escape in a name means.
    if name.contains(['\\', '%']) { Err(ODD) } else { Ok((name, is_file)) }
}

/// The value of a parameter at the beginning of a text, and what follows it.
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
        // What is escaped is one letter, of one byte if it means anything.
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
    fn fields_and_files_are_found_where_they_stand() {
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
        assert_eq!(read(body.trim_end()).expect("without the last line's end"), expected);
    }

    #[test]
    fn names_are_read_however_they_are_written() {
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
    fn what_two_readers_could_read_in_two_ways_is_refused_by_name() {
        let whole = field("name=\"model\"", "m");
        let cases = [
            (String::new(), "does not begin"),
            ("--B".to_owned(), "ends before its part 1"),
            ("--B--".to_owned(), "goes on oddly"),
            (format!("preamble\r\n{whole}"), "does not begin"),
            (whole.replace("\r\n", "\n"), "goes on oddly"),
            (format!("{whole}more"), "before part 2"),
            (whole.replace("--B--", "--Bx"), "before part 2"),
            (whole.replace("--B--", "--B --"), "before part 2"),
            (whole[..whole.len() - 9].to_owned(), "part 1 of the form, `model`, has no end"),
            (whole.replace("\r\n\r\n", "\r\n"), "part 1 of the form has no head"),
            (whole.replace("form-data", "attachment"), "part 1 is no `form-data`"),
            (whole.replace("content-disposition", "x-other"), "no content-disposition"),
            (whole.replace("content-disposition:", "content-disposition"), "without a colon"),
            (whole.replace("form-data;", "form-data;\r\n"), "has no name"),
            (field("name=a\r\n x: y", "m"), "begins oddly"),
            (field("name=a\r\n--B: x", "m"), "begins oddly"),
            (whole.replace("\r\n\r\nm", "\r\n"), "no end"),
            (field("name=a\r\nContent-Disposition : form-data; name=b", "m"), "begins oddly"),
            (field("name=\"mod%65l\"", "m"), "not understood"),
            (field("name=\"mod\\el\"", "m"), "not understood"),
            (field("name=\"\"", "m"), "has no name"),
            (field("filename=\"x\"", "m"), "has no name"),
            (field("name=\"model", "m"), "not understood"),
            (field("name=\"model\\", "m"), "not understood"),
            (field("name=\"a\"\"b\"", "m"), "not understood"),
            (field("name=a\"b\"", "m"), "not understood"),
            (field("name=a; name=b", "m"), "not understood"),
            (field("name*=utf-8''model", "m"), "not understood"),
            (field("name", "m"), "not understood"),
            (field("name=a\r\nContent-Transfer-Encoding: base64", "m"), "is encoded"),
            (field("name=a\r\nContent-Disposition: form-data; name=b", "m"), "two"),
            (field("name=a\nContent-Disposition: x", "m"), "ends oddly"),
            (format!("--B\r\n{}", "a: b\r\n".repeat(1_000)), "no head that ends within"),
            (whole.replace("--B--", &whole.repeat(300)), "more than 256"),
        ];
        for (body, says) in cases {
            let body = body.replace("--B--\r\n--B\r\n", "--B\r\n");
            let fault = read(&body).expect_err(says);
            assert!(fault.contains(says), "{fault}: {body:.200}");
        }
    }

    #[test]
    fn no_cut_of_a_form_is_a_form() {
        let whole = field("name=\"model\"; filename=\"ä\\\\.png\"", "value");
        let end = whole.len() - 2;
        for cut in (0..end).filter(|cut| whole.is_char_boundary(*cut)) {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        for cut in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[cut] = 0xff;
            // Whatever comes out, nothing panics, and what is found is within.
            let _ = parts(&bytes, "B", |part| assert!(part.value.end <= bytes.len()));
        }
    }

    #[test]
    fn a_boundary_is_one_of_usual_letters() {
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
    fn a_form_shows_the_line_between_its_parts() {
        assert_eq!(delimiter(field("name=a", "m").as_bytes()), Some("--B"));
        assert_eq!(delimiter(b"{}"), None);
        assert_eq!(delimiter(b"{}\r\n"), None);
    }
}
