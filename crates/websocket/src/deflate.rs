//! Compressed messages (`permessage-deflate`, RFC 7692), of the server's side.
//!
//! Neither side keeps a window from one message to the next (`no_context_takeover`): an idle socket
//! holds no memory for it, and no message tells by its length what another one had.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header};

const NAME: &str = "permessage-deflate";

/// What a flush ends with; it is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Shorter messages are sent as they are.
pub(crate) const LEAST: usize = 128;

/// What an [`Inflater`] takes, in bytes.
pub(crate) const INFLATER: u64 = 48 << 10;

/// The windows that a client may ask the server to keep to: pieces that are compressed, each by
/// itself, are not longer.
const WINDOWS: std::ops::RangeInclusive<u8> = 14..=15;

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// The window that the client has asked for, as the logarithm of its size.
    window: Option<u8>,
}

impl Deflate {
    /// The first offer of a client that can be accepted.
    pub(crate) fn offered(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).find_map(Self::of)
    }

    /// An offer, unless it is of something else, malformed, or asks for what is not done.
    fn of(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if parts.next() != Some(NAME) {
            return None;
        }
        let mut seen = Vec::new();
        let mut window = None;
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (part, None),
            };
            let bits = value.map(window_bits);
            match (name, bits) {
                ("server_no_context_takeover" | "client_no_context_takeover", None)
                | ("client_max_window_bits", None | Some(Some(_))) => {}
                ("server_max_window_bits", Some(Some(bits))) if WINDOWS.contains(&bits) => {
                    window = Some(bits);
                }
                _ => return None,
            }
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
        }
        Some(Self { window })
    }

    /// The header that accepts the offer.
    #[must_use]
    pub fn header(self) -> HeaderValue {
        let accepted = match self.window {
            None => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            Some(14) => {
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=14"
            }
            Some(_) => {
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=15"
            }
        };
        HeaderValue::from_static(accepted)
    }
}

/// The logarithm of a window's size, as RFC 7692, 7.1.2, writes it.
fn window_bits(text: &str) -> Option<u8> {
    let bits = text.parse().ok().filter(|bits| (8..=15).contains(bits));
    bits.filter(|_| !text.starts_with(['0', '+']))
}

/// Bytes that are not compressed as the protocol says.
#[derive(Debug)]
pub(crate) struct BadData;

/// Inflates one message.
pub(crate) struct Inflater {
    state: Decompress,
    /// A block has said that it is the last one.
    has_ended: bool,
    /// What has come after it.
    after: usize,
}

impl Inflater {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            state: Decompress::new(false),
            has_ended: false,
            after: 0,
        })
    }

    /// Inflates into the spare capacity of `out`. Returns how many bytes were used, and whether all
    /// was and nothing waits for more room.
    pub(crate) fn inflate(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, bool), BadData> {
        let mut used = 0;
        if !self.has_ended {
            let before = self.state.total_in();
            let status = self
                .state
                .decompress_vec(bytes, out, FlushDecompress::None)
                .map_err(|_| BadData)?;
            used = usize::try_from(self.state.total_in() - before).map_err(|_| BadData)?;
            self.has_ended = matches!(status, Status::StreamEnd);
        }
        if self.has_ended {
            // The first byte of an empty block, whose rest is the tail (RFC 7692, 7.2.3.4).
            let rest = &bytes[used..];
            self.after += rest.len();
            if self.after > 1 || rest.iter().any(|byte| *byte != 0) {
                return Err(BadData);
            }
            return Ok((bytes.len(), true));
        }
        Ok((used, used == bytes.len() && out.len() < out.capacity()))
    }

    /// What follows the last byte of the message.
    pub(crate) fn tail(&self) -> &'static [u8] {
        match self.has_ended {
            true => &[],
            false => &TAIL,
        }
    }
}

thread_local! {
    /// It takes hundreds of KiB, and is in use only while a piece is compressed.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// Compresses a piece of a message by itself. The pieces, one after another, are the message; the
/// last one ends it.
pub(crate) fn compress(piece: &[u8], is_last: bool) -> Option<Vec<u8>> {
    // Incompressible bytes take five more for each block of 64 KiB, and the flush a few.
    let mut out = Vec::with_capacity(piece.len() + piece.len() / 1024 + 64);
    COMPRESS.with_borrow_mut(|state| {
        state.reset();
        let status = state
            .compress_vec(piece, &mut out, FlushCompress::Sync)
            .ok()?;
        let is_whole = state.total_in() == piece.len() as u64 && out.ends_with(&TAIL);
        (status == Status::Ok && is_whole).then_some(())
    })?;
    if is_last {
        out.truncate(out.len() - TAIL.len());
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepted(offers: &[&'static str]) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            let offer = HeaderValue::from_static(offer);
            headers.append(header::SEC_WEBSOCKET_EXTENSIONS, offer);
        }
        Deflate::offered(&headers).map(Deflate::header)
    }

    #[test]
    fn an_offer_is_accepted_without_windows_that_are_kept() {
        let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for offers in [
            &["permessage-deflate"][..],
            &["permessage-deflate; client_max_window_bits"],
            &["permessage-deflate;client_max_window_bits=\"10\";server_no_context_takeover"],
            &["other; a=b, permessage-deflate"],
            &["other", "permessage-deflate; client_no_context_takeover"],
            &["permessage-deflate; server_max_window_bits=9, permessage-deflate"],
        ] {
            assert_eq!(accepted(offers).unwrap(), plain, "{offers:?}");
        }
        let window = accepted(&["permessage-deflate; server_max_window_bits=14"]).unwrap();
        assert!(
            window
                .to_str()
                .unwrap()
                .ends_with("server_max_window_bits=14")
        );
        for offers in [
            &[][..],
            &["deflate"],
            &["permessage-deflate; server_max_window_bits=13"],
            &["permessage-deflate; server_max_window_bits"],
            &["permessage-deflate; server_max_window_bits=16"],
            &["permessage-deflate; client_max_window_bits=7"],
            &["permessage-deflate; client_max_window_bits=010"],
            &["permessage-deflate; client_no_context_takeover=1"],
            &["permessage-deflate; client_max_window_bits; client_max_window_bits"],
            &["permessage-deflate; unknown"],
            &["permessage-deflate;"],
        ] {
            assert_eq!(accepted(offers), None, "{offers:?}");
        }
    }

    /// The content of compressed bytes, inflated `step` bytes at a time.
    fn inflated(bytes: &[u8], step: usize) -> Result<Vec<u8>, BadData> {
        let mut inflater = Inflater::new();
        let mut all = Vec::new();
        let mut feed = |inflater: &mut Inflater, mut bytes: &[u8]| loop {
            let mut out = Vec::with_capacity(7);
            let (used, is_done) = inflater.inflate(bytes, &mut out)?;
            all.extend(out);
            bytes = &bytes[used..];
            if is_done {
                return Ok(());
            }
        };
        for part in bytes.chunks(step) {
            feed(&mut inflater, part)?;
        }
        let tail = inflater.tail();
        feed(&mut inflater, tail)?;
        Ok(all)
    }

    #[test]
    fn the_examples_of_the_rfc_are_inflated() {
        for bytes in [
            // 7.2.3.1, 7.2.3.3, 7.2.3.4, 7.2.3.5
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            for step in [1, 3, 100] {
                assert_eq!(inflated(bytes, step).unwrap(), b"Hello", "{bytes:?}");
            }
        }
    }

    #[test]
    fn bad_bytes_are_an_error() {
        for bytes in [
            &[0xff, 0xff, 0xff][..],
            // After the last block.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x01],
            // A distance before the first byte.
            &[0x02, 0x04, 0x00],
        ] {
            assert!(inflated(bytes, 100).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_one_message(
            content in proptest::collection::vec(0..4u8, 0..50_000),
            piece in 1000..16_384usize,
        ) {
            let mut compressed = Vec::new();
            let mut pieces = content.chunks(piece).peekable();
            while let Some(part) = pieces.next() {
                compressed.extend(compress(part, pieces.peek().is_none()).unwrap());
            }
            prop_assert_eq!(inflated(&compressed, 999).unwrap(), content);
        }
    }

    #[test]
    fn incompressible_bytes_are_sent() {
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..16_384)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let compressed = compress(&noise, true).unwrap();
        assert!(compressed.len() < noise.len() + 64, "{}", compressed.len());
        assert_eq!(inflated(&compressed, 4096).unwrap(), noise);
    }
}
