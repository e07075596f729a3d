//! Layers of an image over one another: whatever the names, links and whiteouts of their archives,
//! nothing outside of the directory changes, and no more than the limits is unpacked.
#![no_main]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tar::{EntryType, Header};

use unpack::{UnpackLimits, Unpacker};

// Of the crate without what talks to registries.
#[allow(dead_code)]
#[path = "../../crates/image/src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../crates/image/src/layer.rs"]
mod layer;
#[allow(dead_code)]
#[path = "../../crates/image/src/unpack.rs"]
mod unpack;
#[allow(dead_code)]
#[path = "../../crates/image/src/walk.rs"]
mod walk;

const LIMITS: UnpackLimits = UnpackLimits {
    bytes: 64 << 10,
    entries: 40,
};

/// What names are made of.
const PIECES: [&str; 14] = [
    "a",
    "b",
    "c",
    "/",
    "/",
    "..",
    ".",
    ".wh.",
    ".wh..wh..opq",
    "out",
    "keep",
    "in",
    "",
    "\0",
];

/// What links lead to besides names: a directory beside that of the image, by several ways.
const TARGETS: [&str; 5] = ["../out", "../../out", "/out", "..", "/"];

const TYPES: [EntryType; 9] = [
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Regular,
    EntryType::Fifo,
    EntryType::GNULongName,
    EntryType::GNULongLink,
    EntryType::XHeader,
];

/// `out/keep`, beside which layers are unpacked into `in`.
static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let directory = made.expect("a directory");
    fs::create_dir(directory.path().join("out")).expect("room");
    fs::write(directory.path().join("out/keep"), "kept").expect("room");
    directory
});

fuzz_target!(|bytes: &[u8]| {
    let into = DIRECTORY.path().join("in");
    let _ = fs::remove_dir_all(&into);
    fs::create_dir(&into).expect("room");
    let _ = unpack_layers(&into, &mut Unstructured::new(bytes));

    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).expect("a directory");
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(DIRECTORY.path()), ["in", "out"]);
    assert_eq!(names(&DIRECTORY.path().join("out")), ["keep"]);
    let kept = fs::read(DIRECTORY.path().join("out/keep")).expect("the file");
    assert_eq!(kept, b"kept");
    // One entry may need directories above it.
    let (files, size) = contents(&into);
    assert!(
        size <= LIMITS.bytes && files <= LIMITS.entries * 64,
        "{files} files, {size} bytes"
    );
});

/// How many files there are, and how many bytes they have.
fn contents(directory: &Path) -> (usize, u64) {
    let (mut files, mut size) = (0, 0);
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        files += 1;
        let kind = entry.file_type().expect("a file");
        if kind.is_dir() {
            let (more, bytes) = contents(&entry.path());
            files += more;
            size += bytes;
        } else if kind.is_file() {
            size += entry.metadata().expect("a file").len();
        }
    }
    (files, size)
}

fn unpack_layers(into: &Path, choices: &mut Unstructured<'_>) -> Result<()> {
    let mut unpacker = Unpacker::new(into, LIMITS).expect("a directory");
    for _ in 0..3 {
        let mut layer = Vec::new();
        for _ in 0..choices.int_in_range(1..=8)? {
            entry(&mut layer, choices)?;
        }
        layer.resize(layer.len() + 1024, 0);
        // Some of its bytes changed, mostly none.
        for _ in 0..choices.int_in_range(0..=20_usize)?.saturating_sub(16) {
            let at = choices.choose_index(layer.len())?;
            layer[at] = choices.arbitrary()?;
        }
        let zipped = choices.ratio(1, 8)?;
        if zipped {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
            encoder.write_all(&layer).expect("memory");
            layer = encoder.finish().expect("memory");
        }
        if let Err(error) = unpacker.layer("sha256:0", &layer[..], zipped) {
            assert!(!error.to_string().is_empty());
        }
    }
    Ok(())
}

fn name(choices: &mut Unstructured<'_>) -> Result<String> {
    let pieces = (0..choices.int_in_range(1..=5)?).map(|_| choices.choose(&PIECES));
    pieces.map(|piece| piece.copied()).collect()
}

/// Appends a header with a right checksum, and its content.
fn entry(layer: &mut Vec<u8>, choices: &mut Unstructured<'_>) -> Result<()> {
    let kind = *choices.choose(&TYPES)?;
    let content = match kind {
        EntryType::XHeader => {
            let key = *choices.choose(&["path", "linkpath", "size", "x"])?;
            let record = format!(" {key}={}\n", name(choices)?);
            // The length counts itself.
            format!("{}{record}", record.len() + 2).into_bytes()
        }
        EntryType::GNULongName | EntryType::GNULongLink => name(choices)?.into_bytes(),
        EntryType::Regular => choices.arbitrary::<&[u8]>()?.to_vec(),
        _ => Vec::new(),
    };
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(choices.arbitrary()?);
    let size = match choices.ratio(1, 16)? {
        true => choices.arbitrary()?,
        false => content.len() as u64,
    };
    header.set_size(size);
    let path = name(choices)?;
    let fields = header.as_old_mut();
    fields.name[..path.len()].copy_from_slice(path.as_bytes());
    if matches!(kind, EntryType::Symlink | EntryType::Link) {
        let target = match choices.arbitrary()? {
            true => (*choices.choose(&TARGETS)?).to_owned(),
            false => name(choices)?,
        };
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
    }
    header.set_cksum();
    layer.extend_from_slice(header.as_bytes());
    layer.extend_from_slice(&content);
    layer.resize(layer.len().next_multiple_of(512), 0);
    Ok(())
}
