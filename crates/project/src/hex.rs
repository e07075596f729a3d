//! Lower-case hexadecimal text of bytes.

use std::fmt::Write;

/// Encodes bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Decodes exactly `N` bytes. `None` if the text is not that.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes() {
        assert_eq!(encode(&[0, 9, 0xab, 0xff]), "0009abff");
        assert_eq!(decode("0009ABff"), Some([0, 9, 0xab, 0xff]));
        for text in ["", "00", "0009abfg", "0009abff00", "+009abff"] {
            assert_eq!(decode::<4>(text), None, "{text}");
        }
    }
}
