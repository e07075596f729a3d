//! Text encodings for the kit: <https://encoding.spec.whatwg.org>, by the `encoding_rs` crate.

use encoding_rs::Encoding;

fn of(name: &str) -> Option<&'static Encoding> {
    Encoding::for_label(name.as_bytes())
}

/// The name of the encoding that a label means, in lower case.
pub(super) fn name(label: &str) -> Option<String> {
    of(label).map(|encoding| encoding.name().to_lowercase())
}

/// Bytes as text; what is malformed becomes U+FFFD.
pub(super) fn decode(label: &str, bytes: &[u8], keep_mark: bool) -> Option<String> {
    let encoding = of(label)?;
    Some(
        if keep_mark {
            encoding.decode_without_bom_handling(bytes).0
        } else {
            encoding.decode_with_bom_removal(bytes).0
        }
        .into_owned(),
    )
}

/// Are there bytes that mean nothing in the encoding?
pub(super) fn is_malformed(label: &str, bytes: &[u8]) -> bool {
    of(label).is_none_or(|encoding| encoding.decode_with_bom_removal(bytes).1)
}

/// Undoes percent-encoding; bytes that are not UTF-8 become U+FFFD.
pub(super) fn percent_decode(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text);
    decoded.decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_known_and_bytes_become_text() {
        assert_eq!(name("UTF8").as_deref(), Some("utf-8"));
        assert_eq!(name("no such"), None);
        assert_eq!(
            decode("utf-8", b"\xef\xbb\xbfa\xff", false).as_deref(),
            Some("a\u{fffd}")
        );
        assert!(is_malformed("utf-8", b"\xff") && !is_malformed("utf-8", b"a"));
        assert_eq!(percent_decode("a%20%ff%zz%+a"), "a \u{fffd}%zz%+a");
    }
}
