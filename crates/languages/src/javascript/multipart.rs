//! Parses `multipart/form-data` (RFC 7578): the spans of the parts of a body, and their headers.

use memchr::memmem::{Finder, find};
use serde::Serialize;

/// A part of a form.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct FormPart {
    name: String,
    /// Set if the part is a file.
    filename: Option<String>,
    #[serde(rename = "type")]
    content_type: Option<String>,
    /// The span of the content.
    start: usize,
    end: usize,
}

/// The parts of a body, or what is wrong with it.
pub(super) fn parse(body: &[u8], boundary: &str) -> Result<Vec<FormPart>, &'static str> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = Finder::new(&delimiter);
    // The preamble before the first boundary is ignored (RFC 2046, 5.1.1).
    let mut at = if body.starts_with(&delimiter.as_bytes()[2..]) {
        delimiter.len() - 2
    } else {
        finder.find(body).ok_or("its boundary is not in it")? + delimiter.len()
    };
    let mut parts = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
        let line = at + padding.count();
        if !body[line..].starts_with(b"\r\n") {
            return Err("a boundary is not followed by a line break");
        }
        // A part without headers begins with an empty line.
        let head_end = line + find(&body[line..], b"\r\n\r\n").ok_or("a part has no content")?;
        let start = head_end + 4;
        let mut head = body[line..head_end].to_vec();
        head.drain(..2.min(head.len()));
        let mut part = headers(&head)?;
        let end = end_of(body, &finder, head_end + 2)?;
        (part.start, part.end) = (start, end.max(start));
        parts.push(part);
        at = end + delimiter.len();
    }
}

/// The end of the content before the next boundary. A boundary counts only if its line continues as
/// it may.
fn end_of(body: &[u8], finder: &Finder<'_>, from: usize) -> Result<usize, &'static str> {
    let mut from = from;
    loop {
        let end = from
            + finder
                .find(&body[from..])
                .ok_or("its last boundary is missing")?;
        let rest = &body[end + finder.needle().len()..];
        let line = rest.trim_ascii_start();
        if rest.starts_with(b"--") || rest.starts_with(b"\r\n") || line.len() < rest.len() {
            return Ok(end);
        }
        from = end + 2;
    }
}

fn headers(head: &[u8]) -> Result<FormPart, &'static str> {
    let mut part = None;
    let mut content_type = None;
    for line in String::from_utf8_lossy(head).split("\r\n") {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim_matches([' ', '\t']);
        if name.trim_end().eq_ignore_ascii_case("content-disposition") {
            part = Some(disposition(value)?);
        } else if name.trim_end().eq_ignore_ascii_case("content-type") {
            content_type = Some(value.to_owned());
        }
    }
    let mut part = part.ok_or("a part has no Content-Disposition")?;
    part.content_type = content_type;
    Ok(part)
}

/// `form-data; name="..."; filename="..."`. Values may be tokens, without quotes.
fn disposition(value: &str) -> Result<FormPart, &'static str> {
    let (kind, mut rest) = value.split_at(value.find(';').unwrap_or(value.len()));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err("a part is not form-data");
    }
    let (mut name, mut filename, mut extended) = (None, None, None);
    while let Some(parameter) = rest.strip_prefix(';') {
        let Some((key, given)) = parameter.split_once('=') else {
            break;
        };
        let given = given.trim_start_matches([' ', '\t']);
        let (value, after) = match given.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted).ok_or("a quotation mark is missing")?,
            None => {
                let end = given.find(';').unwrap_or(given.len());
                (given[..end].trim().to_owned(), &given[end..])
            }
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = name.or(Some(unescape(&value))),
            "filename" => filename = filename.or(Some(unescape(&value))),
            "filename*" => extended = extended.or_else(|| extended_value(&value)),
            _ => {}
        }
        rest = after.trim_start();
    }
    Ok(FormPart {
        name: name.ok_or("a part has no name")?,
        filename: filename.or(extended),
        content_type: None,
        start: 0,
        end: 0,
    })
}

/// The content of quotation marks, and the rest. Some senders write `\"` for a quotation mark;
/// another backslash is literal, because some send whole Windows paths.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        let more = &rest[end + 1..];
        match rest[..end].strip_suffix('\\') {
            Some(before) if more.contains('"') => {
                value.push_str(before);
                value.push('"');
                rest = more;
            }
            _ => {
                value.push_str(&rest[..end]);
                return Some((value, more));
            }
        }
    }
}

/// Decodes the escapes of browsers in names (<https://html.spec.whatwg.org/#multipart-form-data>).
fn unescape(value: &str) -> String {
    value
        .replace("%0D", "\r")
        .replace("%0d", "\r")
        .replace("%0A", "\n")
        .replace("%0a", "\n")
        .replace("%22", "\"")
}

/// `UTF-8''a%20b` (RFC 8187).
fn extended_value(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(encoded).collect();
    let encoding = encoding_rs::Encoding::for_label(charset.as_bytes())?;
    Some(encoding.decode_without_bom_handling(&bytes).0.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Name, file name, type and content of each part.
    fn form(body: &str) -> Result<Vec<[String; 4]>, &'static str> {
        let parts = parse(body.as_bytes(), "BB")?;
        Ok(parts
            .into_iter()
            .map(|part| {
                [
                    part.name,
                    part.filename.unwrap_or_else(|| "-".into()),
                    part.content_type.unwrap_or_else(|| "-".into()),
                    body[part.start..part.end].into(),
                ]
            })
            .collect())
    }

    #[test]
    fn reads_parts_by_their_grammar() {
        for (body, parts) in [
            (
                "--BB\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Disposition: form-data; name=test\r\n\r\nabc\r\n--BB--\r\n",
                vec![["test", "-", "text/plain; charset=utf-8", "abc"]],
            ),
            (
                "--BB\r\nContent-Type: image/png; name=\"photo.png\"\r\n\
                 Content-Disposition: form-data; name=\"file\"; filename=\"p.png\"\r\n\r\n1\r\n\
                 --BB--",
                vec![["file", "p.png", "image/png; name=\"photo.png\"", "1"]],
            ),
            (
                "before\r\n--BB  \r\ncontent-disposition:form-data;filename=\"\"; \
                 name=\"a;b=%22%0D%0A\"\r\n\r\n\r\n--BB\r\n\
                 content-disposition: form-data; name=\"x\"; filename*=UTF-8''%e2%82%ac.txt\r\n\r\n\
                 \r\n--BBB\r\n--BB--after",
                vec![
                    ["a;b=\"\r\n", "", "-", ""],
                    ["x", "€.txt", "-", "\r\n--BBB"],
                ],
            ),
            (
                "--BB\r\nContent-Disposition: form-data; name=\"a\\\"b\"; filename=\"C:\\x\\\"\r\n\
                 \r\ny\r\n--BB--",
                vec![["a\"b", "C:\\x\\", "-", "y"]],
            ),
            ("--BB--", vec![]),
        ] {
            let parts: Vec<[String; 4]> = parts
                .into_iter()
                .map(|part| part.map(str::to_owned))
                .collect();
            assert_eq!(form(body).unwrap(), parts, "{body}");
        }
    }

    #[test]
    fn reports_parse_errors() {
        for (body, why) in [
            ("", "boundary is not in it"),
            ("--BBx\r\n", "not followed by a line break"),
            ("--BB\r\nx: y", "no content"),
            ("--BB\r\n\r\nabc\r\n--BB--", "no Content-Disposition"),
            (
                "--BB\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--BB--",
                "no name",
            ),
            (
                "--BB\r\nContent-Disposition: form-data; name=\"a\r\n\r\nabc\r\n--BB--",
                "quotation mark",
            ),
            (
                "--BB\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--BB--",
                "not form-data",
            ),
            (
                "--BB\r\nContent-Disposition: form-data; name=a\r\n\r\nabc\r\n--BB",
                "last boundary is missing",
            ),
            (
                "--BB\r\nContent-Disposition: form-data; name=a\r\n\r\nabc",
                "last boundary",
            ),
        ] {
            let error = form(body).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
    }

    #[test]
    fn no_body_makes_it_panic() {
        let full = "--BB\r\nContent-Disposition: form-data; name=\"a\"; filename*=x'y'%z\r\n\
            Content-Type: t\r\n\r\nabc\r\n--BB--";
        for end in 0..full.len() {
            let _ = parse(&full.as_bytes()[..end], "BB");
            for byte in [0, b'"', b'\r', b'\n', b'-', b';', b'=', 0xff] {
                let mut bytes = full.as_bytes().to_vec();
                bytes[end] = byte;
                let _ = parse(&bytes, "BB");
            }
        }
    }
}
