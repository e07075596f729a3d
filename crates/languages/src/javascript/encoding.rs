//! Text encodings for the kit: <https://encoding.spec.whatwg.org>, by the `encoding_rs` crate.

use encoding_rs::{CoderResult, Decoder, DecoderResult, Encoding};

/// Decodes bytes that come in parts.
pub(super) struct TextDecoder {
    decoder: Decoder,
    /// Malformed bytes are an error, instead of U+FFFD.
    fatal: bool,
}

/// The bytes are malformed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl TextDecoder {
    /// `None` for an unknown encoding. A byte order mark is kept if `keep_mark`.
    pub(super) fn new(label: &str, keep_mark: bool, fatal: bool) -> Option<Self> {
        let encoding = Encoding::for_label_no_replacement(label.as_bytes())?;
        let decoder = if keep_mark {
            encoding.new_decoder_without_bom_handling()
        } else {
            encoding.new_decoder_with_bom_removal()
        };
        Some(Self { decoder, fatal })
    }

    /// Appends the text of some bytes; `last`: no more follow.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        text: &mut String,
        last: bool,
    ) -> Result<(), Malformed> {
        let mut rest = bytes;
        loop {
            // At least the space for one character: decoders do not continue without.
            text.reserve(rest.len().max(16));
            let (is_full, read) = if self.fatal {
                match self
                    .decoder
                    .decode_to_string_without_replacement(rest, text, last)
                {
                    (DecoderResult::Malformed(..), _) => return Err(Malformed),
                    (result, read) => (result == DecoderResult::OutputFull, read),
                }
            } else {
                let (result, read, _) = self.decoder.decode_to_string(rest, text, last);
                (result == CoderResult::OutputFull, read)
            };
            rest = &rest[read..];
            if !is_full {
                return Ok(());
            }
        }
    }
}

/// The name of the encoding with a label, in lower case.
pub(super) fn name(label: &str) -> Option<String> {
    Encoding::for_label_no_replacement(label.as_bytes())
        .map(|encoding| encoding.name().to_lowercase())
}

/// Percent-decodes a text; bytes that are not UTF-8 become U+FFFD.
pub(super) fn percent_decode(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text);
    decoded.decode_utf8_lossy().into_owned()
}

/// Converts a text of the interpreter to UTF-8: lone surrogates, which have three bytes, become
/// U+FFFD, which has three as well.
pub(super) fn replace_surrogates(text: &mut [u8]) {
    let mut from = 0;
    while let Some(at) = memchr::memchr(0xed, &text[from..]) {
        from += at + 1;
        if let Some(rest @ [0xa0..=0xbf, _]) = text.get_mut(from..from + 2) {
            rest.copy_from_slice(&[0xbf, 0xbd]);
            text[from - 1] = 0xef;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decode(label: &str, parts: &[&[u8]], keep_mark: bool) -> String {
        let mut decoder = TextDecoder::new(label, keep_mark, false).unwrap();
        let mut text = String::new();
        for (index, part) in parts.iter().enumerate() {
            decoder
                .decode(part, &mut text, index + 1 == parts.len())
                .unwrap();
        }
        text
    }

    #[test]
    fn labels_are_known_and_bytes_become_text() {
        assert_eq!(name(" UTF8\n").as_deref(), Some("utf-8"));
        for label in ["no such", "\u{a0}utf-8", "replacement", "iso-2022-kr"] {
            assert_eq!(name(label), None, "{label:?}");
        }
        assert_eq!(decode("utf-8", &[b"\xef\xbb\xbfa\xff"], false), "a\u{fffd}");
        assert_eq!(decode("utf-8", &[b"\xef\xbb\xbfa"], true), "\u{feff}a");
        let mut fatal = TextDecoder::new("utf-8", false, true).unwrap();
        assert_eq!(
            fatal.decode(b"\xff", &mut String::new(), true),
            Err(Malformed)
        );
        assert_eq!(percent_decode("a%20%ff%zz%+a"), "a \u{fffd}%zz%+a");
    }

    #[test]
    fn parts_may_end_within_a_character() {
        assert_eq!(decode("utf-16le", &[b"a", b"\0b\0"], false), "ab");
        assert_eq!(decode("shift_jis", &[b"\x82", b"\xa0"], false), "\u{3042}");
        // A byte order mark is only one at the beginning.
        assert_eq!(
            decode("utf-8", &[b"a", b"\xef\xbb", b"\xbfb"], false),
            "a\u{feff}b"
        );
        assert_eq!(decode("utf-8", &[b"\xef", b"\xbb\xbfa"], false), "a");
        assert_eq!(decode("utf-8", &[b"\xe2\x9c"], false), "\u{fffd}");
    }

    #[test]
    fn a_surrogate_that_is_alone_becomes_one_character() {
        let mut text = b"a\xed\xa0\x80\xed\x9f\xbf\xed\xb0\x80\xed".to_vec();
        replace_surrogates(&mut text);
        assert_eq!(
            text,
            "a\u{fffd}\u{d7ff}\u{fffd}"
                .bytes()
                .chain([0xed])
                .collect::<Vec<_>>()
        );
    }
}
