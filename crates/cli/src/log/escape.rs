//! Escapes characters that would make a line of the text log look like another one.

use std::borrow::Cow;

/// Escapes the control and bidirectional characters of a line; its final line break stays.
pub(crate) fn escape_controls(line: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = match line.strip_suffix(b"\n") {
        Some(text) => (text, "\n"),
        None => (line, ""),
    };
    // Most lines are plain: these are the first bytes of all characters to escape.
    let is_plain = |byte: &u8| !(*byte < 0x20 || matches!(byte, 0x7f | 0xc2 | 0xd8 | 0xe2));
    if text.iter().all(is_plain) {
        return line.into();
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '\0' => escaped.push_str("\\0"),
            '\r' | '\n' => escaped.extend(character.escape_default()),
            _ if is_misleading(character) => escaped.extend(character.escape_unicode()),
            _ => escaped.push(character),
        }
    }
    escaped.push_str(end);
    escaped.into_bytes().into()
}

/// Controls, line breaks, and marks that change the direction of what follows.
fn is_misleading(character: char) -> bool {
    match character {
        '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_not_copied() {
        assert!(matches!(escape_controls(b"a line\n"), Cow::Borrowed(_)));
        assert!(matches!(
            escape_controls("caf\u{e9} \u{4e2d}".as_bytes()),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn only_misleading_characters_are_escaped() {
        let text =
            |line: &str| String::from_utf8_lossy(&escape_controls(line.as_bytes())).into_owned();
        assert_eq!(
            text("tab\tand \u{20ac} \u{a9}\n"),
            "tab\tand \u{20ac} \u{a9}\n"
        );
        assert_eq!(text("\u{1b}[31m\u{85}"), "\\u{1b}[31m\\u{85}");
        assert_eq!(
            text("\u{200f}\u{2067}\u{61c}"),
            "\\u{200f}\\u{2067}\\u{61c}"
        );
    }
}
