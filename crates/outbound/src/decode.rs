//! Decodes the bodies of responses: gzip, deflate and br.
//!
//! A response is decoded in pieces, between which other tasks run, and never beyond its limit. The
//! windows of decoders are charged like the response itself.

use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf, Bytes};
use http_body::Frame;

use crate::{
    coding::Coding,
    memory::{Memory, MemoryPart},
};

/// The maximum number of codings of one response.
const MAX_CODINGS: usize = 4;
/// How often a stream may be larger when it is decoded. Deflate makes zeros 1032 times smaller.
const MAX_RATIO: u64 = 1100;
/// Bytes that zlib keeps: its window, and its tables.
const ZLIB: u64 = 64 << 10;
/// Bytes that brotli keeps in addition to its window.
const TABLES: u64 = 1 << 20;
/// Bytes that brotli's decoder reads at a time.
const SOURCE: usize = 4 << 10;

/// Why a body was not decoded.
#[derive(Debug)]
pub(crate) enum Problem {
    TooLarge,
    NoMemory,
    Broken(String),
}

/// Decodes a body piece by piece. It reads input only where it needs it for output, and keeps no
/// output, so that it needs the same memory for every body.
pub(crate) struct Decoder {
    codings: Vec<Coding>,
    reader: Box<dyn Read + Send>,
    input: Input,
    /// The maximum number of decoded bytes.
    limit: Option<u64>,
    piece: Box<[u8]>,
    received: u64,
    decoded: u64,
    has_ended: bool,
    trailers: Option<Frame<Bytes>>,
    #[allow(dead_code, reason = "dropped with the piece")]
    part: MemoryPart,
}

/// What a decoder has.
pub(crate) enum DecodeStep {
    Piece(Bytes),
    /// It needs more input.
    More,
    End,
}

impl Decoder {
    /// The maximum number of bytes that are decoded at a time.
    pub(crate) const PIECE: usize = 64 << 10;

    /// A decoder of `codings`, the last one first.
    pub(crate) fn new(
        codings: &[Coding],
        limit: Option<u64>,
        memory: &Memory,
    ) -> Result<Self, Problem> {
        if codings.len() > MAX_CODINGS {
            let text = format!("{} codings upon each other", codings.len());
            return Err(Problem::Broken(text));
        }
        let mut part = memory.part();
        if !part.grow_to(Self::PIECE as u64) {
            return Err(Problem::NoMemory);
        }
        let input = Input::default();
        let mut codings_left = codings.iter().rev();
        let mut reader: Box<dyn Read + Send> = match codings_left.next() {
            Some(coding) => {
                let from = Fed {
                    input: input.clone(),
                    piece: Bytes::new(),
                };
                Box::new(Starting::new(*coding, Box::new(from), memory))
            }
            None => return Err(Problem::Broken("no coding".into())),
        };
        for coding in codings_left {
            reader = Box::new(Starting::new(
                *coding,
                Box::new(BufReader::new(reader)),
                memory,
            ));
        }
        Ok(Self {
            codings: codings.to_vec(),
            reader,
            input,
            limit,
            piece: vec![0; Self::PIECE].into(),
            received: 0,
            decoded: 0,
            has_ended: false,
            trailers: None,
            part,
        })
    }

    /// Lowers the maximum number of decoded bytes.
    pub(crate) fn limit_to(&mut self, bytes: u64) {
        self.limit = Some(bytes);
    }

    pub(crate) fn codings(&self) -> &[Coding] {
        &self.codings
    }

    /// Takes the next input. The last one must have been used up: a step returned `More`.
    pub(crate) fn feed(&mut self, data: Bytes) {
        self.received += data.len() as u64;
        self.input.lock().next = data;
    }

    /// Takes the end of the input.
    pub(crate) fn feed_end(&mut self, trailers: Option<Frame<Bytes>>) {
        self.trailers = trailers;
        self.input.lock().has_ended = true;
        // An empty body has no coding.
        self.has_ended |= self.received == 0;
    }

    /// The trailers after the input, once.
    pub(crate) fn trailers(&mut self) -> Option<Frame<Bytes>> {
        self.trailers.take()
    }

    /// Whether there is more than `bytes` of output, and more than [`MAX_RATIO`] times the input.
    pub(crate) fn expands_beyond(&self, bytes: u64) -> bool {
        self.decoded > bytes && self.decoded / MAX_RATIO > self.received
    }

    /// Decodes up to one piece.
    pub(crate) fn step(&mut self) -> Result<DecodeStep, Problem> {
        let mut len = 0;
        while !self.has_ended && len < self.piece.len() {
            match self.reader.read(&mut self.piece[len..]) {
                Ok(0) => self.has_ended = true,
                Ok(n) => len += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if len == 0 {
                        return Ok(DecodeStep::More);
                    }
                    break;
                }
                Err(error) if is_no_memory(&error) => return Err(Problem::NoMemory),
                Err(error) => return Err(Problem::Broken(error.to_string())),
            }
        }
        self.decoded += len as u64;
        if self.limit.is_some_and(|limit| self.decoded > limit) {
            return Err(Problem::TooLarge);
        }
        Ok(match len {
            0 => DecodeStep::End,
            _ => DecodeStep::Piece(Bytes::copy_from_slice(&self.piece[..len])),
        })
    }
}

/// Input of a decoder, one piece at a time.
#[derive(Clone, Default)]
struct Input(Arc<Mutex<InputState>>);

#[derive(Default)]
struct InputState {
    next: Bytes,
    has_ended: bool,
}

impl Input {
    fn lock(&self) -> MutexGuard<'_, InputState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what a decoder was fed; where there is nothing more, reading would block.
struct Fed {
    input: Input,
    piece: Bytes,
}

impl BufRead for Fed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() {
            let mut input = self.input.lock();
            self.piece = std::mem::take(&mut input.next);
            if self.piece.is_empty() && !input.has_ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, n: usize) {
        self.piece.advance(n);
    }
}

impl Read for Fed {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let n = from.read(to)?;
        self.consume(n);
        Ok(n)
    }
}

type Source = Box<dyn BufRead + Send>;

/// A decoder that begins once its first bytes say what it needs.
enum Starting {
    Waits {
        coding: Coding,
        from: Option<Source>,
        begin: Vec<u8>,
        memory: Memory,
    },
    Runs(Box<dyn Read + Send>),
}

impl Starting {
    fn new(coding: Coding, from: Source, memory: &Memory) -> Self {
        Self::Waits {
            coding,
            from: Some(from),
            begin: Vec::new(),
            memory: memory.clone(),
        }
    }
}

impl Read for Starting {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Runs(reader) => return reader.read(to),
                Self::Waits {
                    coding,
                    from,
                    begin,
                    memory,
                } => {
                    let needed = match coding {
                        Coding::Gzip => 0,
                        Coding::Brotli => 1,
                        Coding::Deflate => 2,
                    };
                    while let Some(from) = from
                        && begin.len() < needed
                    {
                        let bytes = from.fill_buf()?;
                        let n = bytes.len().min(needed - begin.len());
                        begin.extend_from_slice(&bytes[..n]);
                        from.consume(n);
                        if n == 0 {
                            break;
                        }
                    }
                    let from = from.take().ok_or(io::ErrorKind::UnexpectedEof)?;
                    let begin = std::mem::take(begin);
                    *self = Self::Runs(decoder(*coding, begin, from, memory)?);
                }
            }
        }
    }
}

/// Marks a decoder's failure to get memory.
#[derive(Debug, thiserror::Error)]
#[error("no memory left")]
struct NoMemory;

fn is_no_memory(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<NoMemory>())
}

fn decoder(
    coding: Coding,
    begin: Vec<u8>,
    from: Source,
    memory: &Memory,
) -> io::Result<Box<dyn Read + Send>> {
    let keeps = match coding {
        Coding::Gzip | Coding::Deflate => ZLIB,
        Coding::Brotli => TABLES + brotli_window(begin.first().copied().unwrap_or(0))?,
    };
    let mut part = memory.part();
    if !part.grow_to(keeps) {
        return Err(io::Error::other(NoMemory));
    }
    let is_zlib = is_zlib(&begin);
    let from = Read::chain(Cursor::new(begin), from);
    Ok(match coding {
        Coding::Gzip => Box::new(ChargedDecoder(Gzip::new(from), part)),
        // Some servers send raw deflate data, without the wrapping of the coding.
        Coding::Deflate if is_zlib => Box::new(ChargedDecoder(
            flate2::bufread::ZlibDecoder::new(from),
            part,
        )),
        Coding::Deflate => Box::new(ChargedDecoder(
            flate2::bufread::DeflateDecoder::new(from),
            part,
        )),
        Coding::Brotli => Box::new(ChargedDecoder(
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
fn brotli_window(first: u8) -> io::Result<u64> {
    let bits = match (first & 1, first >> 1 & 7, first >> 4 & 7) {
        (0, ..) => 16,
        (_, 0, 0) => 17,
        // Windows of up to 1 GiB, which are not part of the standard.
        (_, 0, 1) => return Err(io::Error::other("a window larger than 16 MiB")),
        (_, 0, n) => 8 + n,
        (_, n, _) => 17 + n,
    };
    Ok(1 << bits)
}

/// A decoder, and the memory that it keeps.
struct ChargedDecoder<R>(
    R,
    #[allow(dead_code, reason = "dropped with the decoder")] MemoryPart,
);

impl<R: Read> Read for ChargedDecoder<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

/// Members of a gzip file; trailing data is ignored.
struct Gzip<R> {
    member: Option<flate2::bufread::GzDecoder<R>>,
    /// The source, between two members.
    between: Option<R>,
}

impl<R: BufRead> Gzip<R> {
    fn new(from: R) -> Self {
        Self {
            member: Some(flate2::bufread::GzDecoder::new(from)),
            between: None,
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(member) = &mut self.member {
                let n = member.read(to)?;
                if n > 0 || to.is_empty() {
                    return Ok(n);
                }
                self.between = self
                    .member
                    .take()
                    .map(flate2::bufread::GzDecoder::into_inner);
            }
            let is_member = match &mut self.between {
                Some(from) => from.fill_buf()?.starts_with(&[0x1f]),
                None => return Ok(0),
            };
            let from = self.between.take();
            self.member = from
                .filter(|_| is_member)
                .map(flate2::bufread::GzDecoder::new);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

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

    fn decode(
        codings: &[Coding],
        pieces: &[&[u8]],
        limit: u64,
        memory: &Memory,
    ) -> Result<Vec<u8>, Problem> {
        let mut decoder = Decoder::new(codings, Some(limit), memory)?;
        let mut pieces = pieces.iter();
        let mut decoded = Vec::new();
        loop {
            match decoder.step()? {
                DecodeStep::Piece(piece) => decoded.extend_from_slice(&piece),
                DecodeStep::More => match pieces.next() {
                    Some(piece) => decoder.feed(Bytes::copy_from_slice(piece)),
                    None => decoder.feed_end(None),
                },
                DecodeStep::End => return Ok(decoded),
            }
        }
    }

    /// Decodes a body, whatever pieces it comes in.
    fn undo(codings: &[Coding], body: &[u8], limit: u64) -> Result<Vec<u8>, Problem> {
        let memory = memory(64 << 20);
        let whole = decode(codings, &[body], limit, &memory);
        for size in [1, 2, 1000] {
            let pieces: Vec<&[u8]> = body.chunks(size).collect();
            let decoded = decode(codings, &pieces, limit, &memory);
            assert_eq!(format!("{decoded:?}"), format!("{whole:?}"), "{size}");
        }
        whole
    }

    #[test]
    fn decodes_each_coding_and_combinations() {
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
            let decoded = undo(codings, &body, 1 << 20).unwrap();
            assert_eq!(decoded, text.as_bytes(), "{codings:?}");
        }
        let twice = [&zipped[..], &gzip(b"more")].concat();
        let decoded = undo(&[Coding::Gzip], &twice, 1 << 20).unwrap();
        assert_eq!(decoded.len(), text.len() + 4, "two members");
        let text = "some text that repeats itself; ".repeat(2000);
        let decoded = undo(&[Coding::Brotli], BROTLI, 1 << 20).unwrap();
        assert_eq!(decoded, text.as_bytes());
        let empty = undo(&[Coding::Brotli], b"\x3b", 1 << 20).unwrap();
        assert!(empty.is_empty());
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100 << 10);
        let problem = undo(&[Coding::Gzip], &bomb, 1 << 20).unwrap_err();
        assert!(matches!(problem, Problem::TooLarge), "{problem:?}");
        // What comes out is charged by who reads it; this is for the decoder itself.
        let small = memory(1 << 10);
        let problem = decode(&[Coding::Gzip], &[&bomb], 32 << 20, &small);
        assert!(matches!(problem, Err(Problem::NoMemory)), "{problem:?}");
        // 16 MiB of zeros in 14 bytes.
        let bomb = b"\x9f\xff\xff\xff\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x1f";
        let problem = undo(&[Coding::Brotli], bomb, 1 << 20).unwrap_err();
        assert!(matches!(problem, Problem::TooLarge), "{problem:?}");
        let all = undo(&[Coding::Brotli], bomb, 16 << 20).unwrap();
        assert_eq!(all.len(), 16 << 20);
        let exact = undo(&[Coding::Gzip], &gzip(&[7; 1000]), 1000).unwrap();
        assert_eq!(exact.len(), 1000);
        let problem = undo(&[Coding::Gzip], &gzip(&[7; 1001]), 1000);
        assert!(matches!(problem, Err(Problem::TooLarge)));
    }

    #[test]
    fn rejects_broken_input() {
        let zipped = gzip(b"some text");
        for (coding, body) in [
            (Coding::Gzip, &b"no gzip at all"[..]),
            (Coding::Gzip, &zipped[..zipped.len() - 9]),
            (Coding::Deflate, b"\x78\x9c\xff\xff\xff"),
            (Coding::Brotli, b"\xff\xff\xff\xff\xff\xff"),
            // A window of 1 GiB.
            (Coding::Brotli, b"\x11\x9e\0\0\0"),
        ] {
            let problem = undo(&[coding], body, 1000).unwrap_err();
            assert!(matches!(problem, Problem::Broken(_)), "{coding:?}");
        }
        let many = [Coding::Gzip; MAX_CODINGS + 1];
        let problem = undo(&many, &zipped, 1000).unwrap_err();
        assert!(matches!(problem, Problem::Broken(_)));
    }
}
