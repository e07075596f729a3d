//! Content codings of responses (RFC 9110, 8.4.1): gzip, deflate and br.
//!
//! A response is decoded in pieces, between which other tasks run, and never beyond its limit. The
//! windows of decoders are charged like the response itself.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use crate::memory::{Buffer, Memory, Part};

/// The codings that are asked for if the sender does not say what it accepts.
pub(crate) const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, deflate, br");

/// The maximum number of codings of one response.
const MAX_CODINGS: usize = 4;
/// Bytes that are decoded at a time.
const PIECE: usize = 64 << 10;
/// Bytes that zlib keeps: its window, and its tables.
const ZLIB: u64 = 64 << 10;
/// Bytes that brotli keeps in addition to its window.
const TABLES: u64 = 1 << 20;
/// Bytes that brotli's decoder reads at a time.
const SOURCE: usize = 4 << 10;

/// An extension of a request: the content codings of the response are decoded, and
/// `Content-Encoding` and `Content-Length` are removed. Without it, the body is not decoded.
///
/// If the request has no `Accept-Encoding`, the codings that can be decoded are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    /// Always, as `fetch` does.
    Always,
    /// Unless the request has its own `Accept-Encoding`: its author may decode the body.
    IfUnasked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
    Brotli,
}

/// Why a body was not decoded.
#[derive(Debug)]
pub(crate) enum Problem {
    TooLarge,
    NoMemory,
    Broken(String),
}

/// An `Accept-Encoding` without the codings that cannot be decoded.
pub(crate) fn only_accepted(headers: &mut HeaderMap) {
    let known = |entry: &&[u8]| {
        let name = entry.split(|byte| *byte == b';').next().unwrap_or_default();
        let name = name.trim_ascii().to_ascii_lowercase();
        matches!(
            name.as_slice(),
            b"gzip" | b"x-gzip" | b"deflate" | b"br" | b"identity" | b"*"
        )
    };
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let entries = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let kept: Vec<&[u8]> = entries.map(<[u8]>::trim_ascii).filter(known).collect();
    let kept = HeaderValue::from_bytes(&kept.join(&b", "[..]));
    // A header with a value keeps one; without any coding it is `identity`.
    let kept = kept.unwrap_or(HeaderValue::from_static(""));
    headers.insert(
        header::ACCEPT_ENCODING,
        match kept.is_empty() {
            true => HeaderValue::from_static("identity"),
            false => kept,
        },
    );
}

/// The codings of a response, in the order in which they were applied; none if one of them is
/// unknown.
pub(crate) fn codings(headers: &HeaderMap) -> Vec<Coding> {
    let mut codings = Vec::new();
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    for name in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let known = match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => continue,
            b"gzip" | b"x-gzip" => Coding::Gzip,
            b"deflate" => Coding::Deflate,
            b"br" => Coding::Brotli,
            _ => return Vec::new(),
        };
        codings.push(known);
    }
    codings
}

/// Decodes `codings`, the last one first.
pub(crate) async fn decode(
    body: Bytes,
    codings: &[Coding],
    limit: u64,
    memory: &Memory,
) -> Result<Bytes, Problem> {
    if codings.len() > MAX_CODINGS {
        let text = format!("{} codings upon each other", codings.len());
        return Err(Problem::Broken(text));
    }
    let mut reader: Box<dyn BufRead + Send> = Box::new(Cursor::new(body));
    for coding in codings.iter().rev() {
        reader = Box::new(BufReader::new(decoder(*coding, reader, memory)?));
    }
    let mut decoded = Buffer::new(memory);
    loop {
        // One byte beyond the limit shows that there is more.
        let left = limit.saturating_add(1) - decoded.len() as u64;
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        if !decoded.reserve(piece, limit.saturating_add(1)) {
            return Err(Problem::NoMemory);
        }
        match decoded.fill(piece, |to| reader.read(to)) {
            Ok(0) => return Ok(decoded.freeze()),
            Ok(_) if decoded.len() as u64 > limit => return Err(Problem::TooLarge),
            Ok(n) if n < PIECE / 2 => {}
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => return Err(Problem::Broken(error.to_string())),
        }
    }
}

fn decoder(
    coding: Coding,
    mut from: Box<dyn BufRead + Send>,
    memory: &Memory,
) -> Result<Box<dyn Read + Send>, Problem> {
    let begin = from
        .fill_buf()
        .map_err(|error| Problem::Broken(error.to_string()))?;
    let keeps = match coding {
        Coding::Gzip | Coding::Deflate => ZLIB,
        Coding::Brotli => TABLES + brotli_window(begin.first().copied().unwrap_or(0))?,
    };
    let mut part = memory.part();
    if !part.grow_to(keeps) {
        return Err(Problem::NoMemory);
    }
    Ok(match coding {
        Coding::Gzip => Box::new(Kept(
            Gzip(Some(flate2::bufread::GzDecoder::new(from))),
            part,
        )),
        // Some servers send raw deflate data, without the wrapping of the coding.
        Coding::Deflate if is_zlib(begin) => {
            Box::new(Kept(flate2::bufread::ZlibDecoder::new(from), part))
        }
        Coding::Deflate => Box::new(Kept(flate2::bufread::DeflateDecoder::new(from), part)),
        Coding::Brotli => Box::new(Kept(
            brotli_decompressor::Decompressor::new(from, SOURCE),
            part,
        )),
    })
}

/// RFC 1950, 2.2.
fn is_zlib(begin: &[u8]) -> bool {
    matches!(begin, [method, flags, ..]
        if method & 15 == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0)
}

/// The window's size, from the first byte (RFC 7932, 9.1).
fn brotli_window(first: u8) -> Result<u64, Problem> {
    let bits = match (first & 1, first >> 1 & 7, first >> 4 & 7) {
        (0, ..) => 16,
        (_, 0, 0) => 17,
        // Windows of up to 1 GiB, which are not part of the standard.
        (_, 0, 1) => return Err(Problem::Broken("a window larger than 16 MiB".into())),
        (_, 0, n) => 8 + n,
        (_, n, _) => 17 + n,
    };
    Ok(1 << bits)
}

/// A decoder, and the memory that it keeps.
struct Kept<R>(
    R,
    #[allow(dead_code, reason = "dropped with the decoder")] Part,
);

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

/// Members of a gzip file; trailing data is ignored.
struct Gzip<R>(Option<flate2::bufread::GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let n = member.read(to)?;
            if n > 0 || to.is_empty() {
                return Ok(n);
            }
            let Some(mut from) = self.0.take().map(flate2::bufread::GzDecoder::into_inner) else {
                break;
            };
            if from.fill_buf()?.starts_with(&[0x1f]) {
                self.0 = Some(flate2::bufread::GzDecoder::new(from));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{io::Write, sync::Arc};

    use flate2::{Compression, write};

    use super::*;
    use crate::memory::Budget;

    /// 2000 times `some text that repeats itself; `, as the reference encoder writes it.
    const BROTLI: &[u8] =
        b"\x1b\x2f\xf2\xf8\x8d\x94\x6e\xde\xaa\x06\xd9\x29\x9b\x93\x20\x6d\x6f\x4d\x08\x25\xaa\
        \x5c\xa6\x5d\x40\x82\x91\x92\xf4\xe5\x3b\x89\xe3\xcb\xe9\x00\x02";

    fn memory(bytes: u64) -> Memory {
        Memory::new(Arc::new(Budget::new(bytes)), None)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    async fn undo(codings: &[Coding], body: &[u8], limit: u64) -> Result<Bytes, Problem> {
        let body = Bytes::copy_from_slice(body);
        decode(body, codings, limit, &memory(64 << 20)).await
    }

    #[tokio::test]
    async fn undoes_each_coding_and_several_upon_each_other() {
        let text = "some text that repeats itself; ".repeat(10_000);
        let zipped = gzip(text.as_bytes());
        let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(text.as_bytes()).unwrap();
        let mut raw = write::DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(text.as_bytes()).unwrap();
        for (codings, body) in [
            (&[Coding::Gzip][..], zipped.clone()),
            (&[Coding::Deflate], zlib.finish().unwrap()),
            (&[Coding::Deflate], raw.finish().unwrap()),
            (&[Coding::Gzip, Coding::Gzip], gzip(&zipped)),
            (&[Coding::Gzip], [&zipped[..], b"\0\0garbage"].concat()),
        ] {
            let decoded = undo(codings, &body, 1 << 20).await.unwrap();
            assert_eq!(decoded, text, "{codings:?}");
        }
        let twice = [&zipped[..], &gzip(b"more")].concat();
        let decoded = undo(&[Coding::Gzip], &twice, 1 << 20).await.unwrap();
        assert_eq!(decoded.len(), text.len() + 4, "two members");
        let text = "some text that repeats itself; ".repeat(2000);
        let decoded = undo(&[Coding::Brotli], BROTLI, 1 << 20).await.unwrap();
        assert_eq!(decoded, text);
        let empty = undo(&[Coding::Brotli], b"\x3b", 1 << 20).await.unwrap();
        assert!(empty.is_empty());
    }

    #[tokio::test]
    async fn a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100 << 10);
        let problem = undo(&[Coding::Gzip], &bomb, 1 << 20).await.unwrap_err();
        assert!(matches!(problem, Problem::TooLarge), "{problem:?}");
        let small = memory(512 << 10);
        let problem = decode(bomb.into(), &[Coding::Gzip], 32 << 20, &small).await;
        assert!(matches!(problem, Err(Problem::NoMemory)), "{problem:?}");
        // 16 MiB of zeros in 14 bytes.
        let bomb = b"\x9f\xff\xff\xff\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x1f";
        let problem = undo(&[Coding::Brotli], bomb, 1 << 20).await.unwrap_err();
        assert!(matches!(problem, Problem::TooLarge), "{problem:?}");
        let all = undo(&[Coding::Brotli], bomb, 16 << 20).await.unwrap();
        assert_eq!(all.len(), 16 << 20);
        let exact = undo(&[Coding::Gzip], &gzip(&[7; 1000]), 1000)
            .await
            .unwrap();
        assert_eq!(exact.len(), 1000);
        let problem = undo(&[Coding::Gzip], &gzip(&[7; 1001]), 1000).await;
        assert!(matches!(problem, Err(Problem::TooLarge)));
    }

    #[tokio::test]
    async fn what_is_broken_is_an_error() {
        let zipped = gzip(b"some text");
        for (coding, body) in [
            (Coding::Gzip, &b"no gzip at all"[..]),
            (Coding::Gzip, &zipped[..zipped.len() - 9]),
            (Coding::Deflate, b"\x78\x9c\xff\xff\xff"),
            (Coding::Brotli, b"\xff\xff\xff\xff\xff\xff"),
            // A window of 1 GiB.
            (Coding::Brotli, b"\x11\x9e\0\0\0"),
        ] {
            let problem = undo(&[coding], body, 1000).await.unwrap_err();
            assert!(matches!(problem, Problem::Broken(_)), "{coding:?}");
        }
        let many = [Coding::Gzip; MAX_CODINGS + 1];
        let problem = undo(&many, &zipped, 1000).await.unwrap_err();
        assert!(matches!(problem, Problem::Broken(_)));
    }

    #[test]
    fn names_of_codings() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            codings(&headers)
        };
        assert_eq!(of(&["GZIP"]), [Coding::Gzip]);
        assert_eq!(
            of(&["x-gzip, identity", "br"]),
            [Coding::Gzip, Coding::Brotli]
        );
        assert_eq!(of(&["deflate"]), [Coding::Deflate]);
        // Unknown values are kept.
        assert_eq!(of(&["gzip, zstd"]), []);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn only_what_can_be_undone_is_asked_for() {
        for (asked, kept) in [
            ("gzip, deflate, br, zstd", "gzip, deflate, br"),
            ("br;q=1.0, zstd;q=0.9,*;q=0", "br;q=1.0, *;q=0"),
            ("zstd", "identity"),
            ("identity", "identity"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(asked));
            only_accepted(&mut headers);
            assert_eq!(headers[header::ACCEPT_ENCODING], kept);
        }
    }
}
