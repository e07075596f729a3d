//! `.env`: variables for a project on a developer's machine.
//!
//! A line is `NAME=VALUE`, `export NAME=VALUE`, empty, or a comment that begins with `#`. A value
//! in single quotes is taken as it is; one in double quotes may have `\n`, `\r`, `\t`, `\"`, `\\`
//! and `\$`; both may have several lines. A value without quotes ends before ` #`. Variables in
//! values are not replaced. Problems never show values.

use std::collections::BTreeMap;
use std::path::Path;

use crate::beneath::{self, Root};
use crate::problem::Problem;

/// The file, in the project's directory.
pub(crate) const FILE: &str = ".env";

/// The maximum size of the file, in bytes.
const MAX: u64 = 256 << 10;

/// Reads the variables of a project; none without the file.
///
/// # Errors
/// The first problem.
pub(crate) fn read(root: &Root) -> Result<BTreeMap<String, String>, Problem> {
    let bytes = match root.read(Path::new(FILE), MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) if beneath::leaves_root(&error) => {
            return Err(Problem::new(FILE, "a link that leads outside the project"));
        }
        Err(error) => return Err(Problem::new(FILE, format!("cannot be read: {error}"))),
    };
    let text = String::from_utf8(bytes).map_err(|_| Problem::new(FILE, "not UTF-8"))?;
    parse(&text).map_err(|(at, message)| Problem::new(FILE, message).at(&text, at))
}

/// Parses the text of a file. The error has the place as an offset.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, &'static str)> {
    let mut variables = BTreeMap::new();
    let mut at = text.len() - text.trim_start_matches('\u{feff}').len();
    while at < text.len() {
        let line_end = text[at..].find('\n').map_or(text.len(), |end| at + end);
        let line = text[at..line_end].trim();
        if line.is_empty() || line.starts_with('#') {
            at = line_end + 1;
            continue;
        }
        let start = at + text[at..].len() - text[at..].trim_start().len();
        let assignment = match text[start..line_end].strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => &text[start..line_end],
        };
        let Some((name, value)) = assignment.split_once('=') else {
            return Err((start, "expected NAME=VALUE"));
        };
        let name = name.trim();
        let mut letters = name.chars();
        let begins = letters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !begins || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            return Err((
                start,
                "the name of a variable has letters, digits, `_` and `.`",
            ));
        }
        let value_at = line_end - value.trim_start_matches([' ', '\t']).len();
        let (value, end) = match text[value_at..].chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (value, end) = quoted(text, value_at, quote)?;
                let line_end = text[end..].find('\n').map_or(text.len(), |to| end + to);
                let rest = text[end..line_end].trim();
                if !rest.is_empty() && !rest.starts_with('#') {
                    return Err((end, "expected the end of the line after the quote"));
                }
                (value, line_end)
            }
            _ => (unquoted(&text[value_at..line_end]).to_owned(), line_end),
        };
        if value.contains('\0') {
            return Err((value_at, "the value has a NUL character"));
        }
        variables.insert(name.to_owned(), value);
        at = end + 1;
    }
    Ok(variables)
}

/// A value without quotes, up to a comment.
fn unquoted(value: &str) -> &str {
    let comment = value
        .match_indices('#')
        .map(|(at, _)| at)
        .find(|at| *at == 0 || value[..*at].ends_with([' ', '\t']));
    value[..comment.unwrap_or(value.len())].trim()
}

/// The text between quotes, the first of which is at `start`, and the offset after the last.
fn quoted(text: &str, start: usize, quote: char) -> Result<(String, usize), (usize, &'static str)> {
    let mut value = String::new();
    let mut rest = text[start..].char_indices().skip(1);
    while let Some((at, letter)) = rest.next() {
        match letter {
            _ if letter == quote => return Ok((value, start + at + 1)),
            '\\' if quote == '"' => value.push(match rest.next() {
                Some((_, 'n')) => '\n',
                Some((_, 'r')) => '\r',
                Some((_, 't')) => '\t',
                Some((_, other @ ('"' | '\\' | '$'))) => other,
                _ => return Err((start + at, "after `\\` expected n, r, t, \", $ or \\")),
            }),
            _ => value.push(letter),
        }
    }
    Err((start, "the quote has no end"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_env_files() {
        let text = "\u{feff}# a comment\n\nA=plain\n  export B = spaced value  # comment\r\n\
            C='single # \\n $A'\n\
                    D=\"double \\\"quoted\\\"\\n\\$A\" # comment\nE=\nF=a#b\nG='two\nlines'\nH=#\n\
                    A=again\n\
                    export_me=1\nI=http://a/?b=c";
        let expected = [
            ("A", "again"),
            ("B", "spaced value"),
            ("C", "single # \\n $A"),
            ("D", "double \"quoted\"\n$A"),
            ("E", ""),
            ("F", "a#b"),
            ("G", "two\nlines"),
            ("H", ""),
            ("I", "http://a/?b=c"),
            ("export_me", "1"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text).unwrap(), expected.into());
    }

    #[test]
    fn reports_position_but_no_value() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert!(read(&root).unwrap().is_empty());
        for (text, expected) in [
            ("A=1\ns3cret\n", ".env:2:1: expected NAME=VALUE"),
            ("1A=s3cret", ".env:1:1: the name of a variable"),
            ("A=1\n  A B=s3cret", ".env:2:3: the name of a variable"),
            ("A=\"s3cret", ".env:1:3: the quote has no end"),
            ("A='s3cret' x", ".env:1:11: expected the end of the line"),
            ("A=\"s3cret\\q\"", ".env:1:10: after `\\`"),
            ("A=s3cret\0", ".env:1:3: the value has a NUL"),
        ] {
            std::fs::write(directory.path().join(FILE), text).unwrap();
            let problem = read(&root).unwrap_err().to_string();
            assert!(problem.starts_with(expected), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        std::fs::write(directory.path().join(FILE), b"A=s3cret\xff").unwrap();
        assert_eq!(read(&root).unwrap_err().to_string(), ".env: not UTF-8");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[A-Z=\"'#\\\\ \n\r\u{e9}n$]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_are_read_as_they_were(value in "[^'\0]{0,40}") {
            let parsed = parse(&format!("A='{value}'\nB=1")).unwrap();
            proptest::prop_assert_eq!(&parsed["A"], &value);
            proptest::prop_assert_eq!(&parsed["B"], "1");
        }
    }
}
