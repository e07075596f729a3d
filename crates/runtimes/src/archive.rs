//! Extracts one file from the archive of a package, a tar compressed with gzip. Nothing else of the
//! archive is written to disk.

use std::{
    io::{self, Read},
    path::{Component, Path},
};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, FailureKind};

/// The maximum size of an unpacked archive, in bytes: a larger one is a decompression bomb.
const MAX_UNPACKED: u64 = 2 << 30;

/// The file `wanted` of an archive. Packages have all their files in one directory with any name,
/// usually `package`.
pub(crate) fn file_of(archive: &[u8], wanted: &str, max: u64) -> Result<Vec<u8>, Error> {
    let broken = |error: io::Error| {
        Error::new(FailureKind::Damaged, "the package cannot be unpacked").caused_by(error)
    };
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
            return Err(Error::new(
                FailureKind::TooLarge,
                format!("{wanted} has {} bytes, more than {max}", entry.size()),
            ));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        return Ok(bytes);
    }
    Err(Error::new(
        FailureKind::NotFound,
        format!("the package has no file {wanted}"),
    ))
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

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..proptest::test_runner::Config::with_cases(if cfg!(miri) { 4 } else { 300 })
        })]
        #[test]
        fn the_first_regular_file_of_the_name_is_taken(
            files in proptest::collection::vec((0usize..6, 0usize..3, 0usize..4), 0..6),
            wanted in 0usize..3,
            cut in proptest::option::of(0usize..200),
        ) {
            const NAMES: [&str; 6] = ["p/a", "q/a", "p/s/a", "a", "p/b", "p/./a"];
            const KINDS: [EntryType; 3] =
                [EntryType::Regular, EntryType::Symlink, EntryType::Directory];
            const CONTENTS: [&[u8]; 4] = [b"", b"one", b"two", b"four"];
            let wanted = ["a", "s/a", "b"][wanted];
            let files = files.into_iter().map(|(name, kind, content)| {
                let content = if kind == 0 { CONTENTS[content] } else { b"" };
                (NAMES[name], KINDS[kind], content)
            });
            let files: Vec<_> = files.collect();
            let expected = files.iter().find(|(name, kind, _)| {
                let below = name.split_once('/').map(|(_, below)| below.trim_start_matches("./"));
                *kind == EntryType::Regular && below == Some(wanted)
            });
            let expected = expected.map(|(_, _, content)| content.to_vec());
            let mut packed = archive(&files);
            assert_eq!(file_of(&packed, wanted, 3).ok(), expected.filter(|found| found.len() <= 3));
            if let Some(cut) = cut {
                packed.truncate(cut);
                let _ = file_of(&packed, wanted, 3);
            }
        }

        #[test]
        fn rejects_any_bytes(
            bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..600),
        ) {
            assert!(file_of(&bytes, "a", 100).is_err());
            let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut zipped, &bytes).unwrap();
            assert!(file_of(&zipped.finish().unwrap(), "a", 100).is_err());
        }
    }

    #[test]
    fn reports_a_broken_archive() {
        let whole = archive(&[("package/a", EntryType::Regular, &[1; 100_000])]);
        for broken in [&b"no gzip"[..], &whole[..whole.len() / 2]] {
            let error = file_of(broken, "a", 1 << 20).unwrap_err().to_string();
            assert!(error.contains("cannot be unpacked"), "{error}");
        }
    }
}
