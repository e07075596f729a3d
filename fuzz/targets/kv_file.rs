//! Files of key/value stores with changed bytes: each is read, or refused.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{arbitrary::Unstructured, fuzz_target};
use wws_kv::{EntryFilter, FileEditor, FileEntries, StoreLimits, StoredEntry};

/// A file with some hundred entries.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kv");
    let mut editor = FileEditor::open(&path, StoreLimits::default()).expect("a file");
    for namespace in ["a", "b", "c"] {
        let entry = |n: usize| {
            let ttl = n
                .is_multiple_of(5)
                .then(|| std::time::Duration::from_secs(1 << 20));
            StoredEntry::new(namespace, &format!("key {n}"), vec![b'x'; n * 7], ttl)
        };
        editor.put((0..100).map(entry).collect()).expect("room");
    }
    drop(editor);
    std::fs::read(path).expect("the file")
});

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = std::path::Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a directory")
});

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Unstructured::new(bytes);
    let mut file = FILE.clone();
    while let Ok((at, byte)) = choices.arbitrary::<(u32, u8)>() {
        let at = at as usize % file.len();
        file[at] = byte;
        if choices.is_empty() {
            break;
        }
    }
    let path = DIRECTORY.path().join("kv");
    for name in ["kv-wal", "kv-shm"] {
        let _ = std::fs::remove_file(DIRECTORY.path().join(name));
    }
    std::fs::write(&path, file).expect("room");
    if let Ok(entries) = FileEntries::open(&path) {
        let mut count = 0_u32;
        let _ = entries.each(EntryFilter::default(), &mut |entry| {
            count += 1;
            // An index with a cycle is refused at some time.
            assert!(count < 1_000_000, "{entry:?}");
            Ok(())
        });
        let _ = entries.namespaces();
        let _ = entries.get("b", "key 50");
    }
    if let Ok(mut editor) = FileEditor::open(&path, StoreLimits::default()) {
        let entry = StoredEntry::new("b", "key 50", vec![b'y'; 5000], None);
        let _ = editor.put(vec![entry]);
        let _ = editor.delete("a", "key 7");
    }
});
