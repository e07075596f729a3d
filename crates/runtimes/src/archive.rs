//! Extracts one file from the archive of a package, a tar compressed with gzip. Nothing else of the
//! archive is written to disk.

use std::{
    io::{self, Read},
    path::{Component, Path},
};

use flate2::read::MultiGzDecoder;

use crate::error::Error;

/// The maximum size of an unpacked archive, in bytes: a larger one is a decompression bomb.
const MAX_UNPACKED: u64 = 2 << 30;

/// The file `wanted` of an archive. Packages have all their files in one directory with any name,
/// usually `package`.
pub(crate) fn file_of(archive: &[u8], wanted: &str, max: u64) -> Result<Vec<u8>, Error> {
    let broken = |error: io::Error| Error::new(format!("the package cannot be unpacked: {error}"));
    let unpacked = MultiGzDecoder::new(archive).take(MAX_UNPACKED);
    let mut archive = tar::Archive::new(unpacked);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let is_wanted = entry
            .path()
            .is_ok_and(|path| below_top(&path) == Some(Path::new(wanted)));
        if !is_wanted || !entry.header().entry_type().is_file() {
            continue;
        }
        if entry.size() > max {
            return Err(Error::new(format!(
                "{wanted} has {} bytes, more than {max}",
                entry.size()
            )));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        return Ok(bytes);
    }
    Err(Error::new(format!("the package has no file {wanted}")))
}

/// A path without its first directory.
fn below_top(path: &Path) -> Option<&Path> {
    let mut components = path.components();
    match components.next()? {
        Component::Normal(_) => Some(components.as_path()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use flate2::{Compression, write::GzEncoder};
    use tar::{Builder, EntryType, Header};

    use super::*;

    fn archive(files: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, kind, content) in files {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn only_the_wanted_regular_file_is_taken() {
        let archive = archive(&[
            ("package/a.wasm", EntryType::Symlink, b""),
            ("package/sub/a.wasm", EntryType::Regular, b"sub"),
            ("other/a.wasm", EntryType::Regular, b"yes"),
        ]);
        assert_eq!(file_of(&archive, "a.wasm", 3).unwrap(), b"yes");
        assert_eq!(file_of(&archive, "sub/a.wasm", 3).unwrap(), b"sub");
        let error = file_of(&archive, "b.wasm", 3).unwrap_err().to_string();
        assert_eq!(error, "the package has no file b.wasm");
        let error = file_of(&archive, "a.wasm", 2).unwrap_err().to_string();
        assert_eq!(error, "a.wasm has 3 bytes, more than 2");
    }

    #[test]
    fn a_broken_archive_is_told() {
        let whole = archive(&[("package/a", EntryType::Regular, &[1; 100_000])]);
        for broken in [&b"no gzip"[..], &whole[..whole.len() / 2]] {
            let error = file_of(broken, "a", 1 << 20).unwrap_err().to_string();
            assert!(error.contains("cannot be unpacked"), "{error}");
        }
    }
}
