//! The program that a file carries at its end.
//!
//! ```text
//! the shim | the program, compressed (zlib) | trailer
//! trailer: length of the compressed program (8) | length of the program (8) | SHA-256 of it (32)
//!          | MAGIC (16)
//! ```
//!
//! Numbers are little-endian. `scripts/one-file.py` writes it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use flate2::bufread::ZlibDecoder;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The last bytes of a file that carries a program.
const MAGIC: &[u8; 16] = b"\0wws-carried-v1\n";

/// The length of the trailer, in bytes.
const TRAILER: usize = 8 + 8 + 32 + MAGIC.len();

/// The longest program, in bytes: what is longer is a broken trailer.
const MAX_LENGTH: u64 = 1 << 30;

/// How many bytes are unpacked at once.
const PIECE: usize = 64 << 10;

/// A program in another file.
#[derive(Debug)]
pub(super) struct Payload {
    file: File,
    /// Where the compressed program starts, and its length in bytes.
    start: u64,
    compressed: u64,
    /// The length of the program in bytes.
    pub(super) length: u64,
    /// The SHA-256 of the program.
    pub(super) digest: [u8; 32],
}

impl Payload {
    /// Finds the program that `file` carries. Returns `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or what it carries is broken.
    pub(super) fn find(mut file: File) -> Result<Option<Self>> {
        let failed = |error| Error::io("read the server in the shim", error);
        let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let Some(payload_end) = end.checked_sub(TRAILER as u64) else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER];
        file.seek(SeekFrom::Start(payload_end)).map_err(failed)?;
        file.read_exact(&mut trailer).map_err(failed)?;
        let (numbers, rest) = trailer.split_at(16);
        let (digest, magic) = rest.split_at(32);
        if magic != MAGIC {
            return Ok(None);
        }
        let numbers = numbers.as_chunks::<8>().0;
        let [compressed, length] = [0, 1].map(|number| u64::from_le_bytes(numbers[number]));
        let start = payload_end.checked_sub(compressed);
        match start.filter(|_| length <= MAX_LENGTH) {
            Some(start) => Ok(Some(Self {
                file,
                start,
                compressed,
                length,
                digest: std::array::from_fn(|byte| digest[byte]),
            })),
            None => Err(broken("its lengths do not fit the file")),
        }
    }

    /// Writes the program to `output`, and checks it.
    ///
    /// # Errors
    /// Reading or writing fails, or the program is not the one that the trailer describes.
    pub(super) fn write_to(&self, mut output: impl Write) -> Result<()> {
        let mut file = &self.file;
        let read = |error| Error::io("read the server in the shim", error);
        file.seek(SeekFrom::Start(self.start)).map_err(read)?;
        let compressed = BufReader::with_capacity(PIECE, file.take(self.compressed));
        // One byte more than expected shows that the content is too long.
        let mut program = ZlibDecoder::new(compressed).take(self.length + 1);
        let mut piece = vec![0; PIECE];
        let (mut length, mut digest) = (0, Sha256::new());
        loop {
            let count = match program.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read(error)),
            };
            let piece = &piece[..count];
            digest.update(piece);
            length += count as u64;
            output
                .write_all(piece)
                .map_err(|error| Error::io("write the server", error))?;
        }
        if length != self.length || digest.finalize().as_slice() != self.digest {
            return Err(broken("its SHA-256 is not the one that it was packed with"));
        }
        Ok(())
    }
}

fn broken(reason: &str) -> Error {
    Error::unknown(format!(
        "the server in the shim is broken ({reason}): install the shim again"
    ))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    /// Returns a file that carries `program`.
    pub(in crate::server) fn carrier(program: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(program).unwrap();
        let compressed = encoder.finish().unwrap();
        let mut file = b"\x7fELF the shim".to_vec();
        file.extend_from_slice(&compressed);
        file.extend_from_slice(&(compressed.len() as u64).to_le_bytes());
        file.extend_from_slice(&(program.len() as u64).to_le_bytes());
        file.extend_from_slice(&Sha256::digest(program));
        file.extend_from_slice(MAGIC);
        file
    }

    fn find(content: &[u8]) -> Result<Option<Payload>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Payload::find(file)
    }

    fn unpack(content: &[u8]) -> Result<Vec<u8>> {
        let mut program = Vec::new();
        find(content)?.unwrap().write_to(&mut program)?;
        Ok(program)
    }

    #[test]
    fn finds_what_a_file_carries() {
        let program: Vec<u8> = (0..1_000_000_u32).map(|byte| (byte / 7) as u8).collect();
        assert_eq!(unpack(&carrier(&program)).unwrap(), program);
        for other in [&b""[..], b"short", &[0; TRAILER], &[0xff; 4096]] {
            assert!(find(other).unwrap().is_none());
        }
    }

    #[test]
    fn reports_broken_files() {
        let program = vec![3; 200_000];
        let whole = carrier(&program);
        let trailer = whole.len() - TRAILER;
        // Each byte of the compressed program and of the trailer's lengths and digest.
        for at in (14..trailer).chain(trailer..whole.len() - MAGIC.len()) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            // Bits of the compressed form that mean nothing may differ.
            if let Ok(unpacked) = unpack(&changed) {
                assert_eq!(unpacked, program);
            }
        }
        let mut longer = whole.clone();
        longer[trailer + 8..trailer + 16].copy_from_slice(&u64::MAX.to_le_bytes());
        let error = find(&longer).unwrap_err().to_string();
        assert!(error.contains("install the shim again"), "{error}");
        let mut bomb = carrier(&vec![0; 1 << 20]);
        let trailer = bomb.len() - TRAILER;
        bomb[trailer + 8..trailer + 16].copy_from_slice(&10_u64.to_le_bytes());
        assert!(unpack(&bomb).is_err());
    }
}
