//! Backups of key/value stores: what is read from any bytes is within the limits, and is read again
//! from what is written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wws_kv::{BackupReader, BackupWriter, StoreLimits, StoredEntry};

const LIMITS: StoreLimits = StoreLimits {
    key: 16,
    value: 64,
    keys: 0,
    namespace: 0,
    namespaces: 0,
    size: 0,
};

fn read(bytes: &[u8]) -> (Vec<StoredEntry>, bool) {
    let mut reader = BackupReader::new(bytes, LIMITS);
    let mut entries = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => return (entries, true),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return (entries, false);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (entries, _) = read(bytes);
    let mut writer = BackupWriter::begin(Vec::new()).expect("memory");
    for entry in &entries {
        assert!(entry.key.len() <= LIMITS.key && entry.value.len() <= LIMITS.value);
        assert!(!entry.namespace.is_empty());
        writer.entry(entry).expect("memory");
    }
    let (written, count) = writer.end().expect("memory");
    assert_eq!(count, entries.len() as u64);
    assert_eq!(read(&written), (entries, true));
    // Without its last line it is incomplete.
    let lines = written.trim_ascii_end();
    let cut = lines.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    assert!(!read(&written[..=cut]).1);
});
