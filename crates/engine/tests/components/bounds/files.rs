//! Directories and open files of components.

use super::*;

/// `wasi:filesystem`, as far as the tests use it.
fn filesystem() -> String {
    let codes = [
        "access",
        "would-block",
        "already",
        "bad-descriptor",
        "busy",
        "deadlock",
        "quota",
        "exist",
        "file-too-large",
        "illegal-byte-sequence",
        "in-progress",
        "interrupted",
        "invalid",
        "io",
        "is-directory",
        "loop",
        "too-many-links",
        "message-size",
        "name-too-long",
        "no-device",
        "no-entry",
        "no-lock",
        "insufficient-memory",
        "insufficient-space",
        "not-directory",
        "not-empty",
        "not-recoverable",
        "unsupported",
        "no-tty",
        "no-such-device",
        "overflow",
        "not-permitted",
        "pipe",
        "read-only",
        "invalid-seek",
        "text-file-busy",
        "cross-device",
    ]
    .map(|code| format!("\"{code}\""))
    .join(" ");
    format!(
        r#"(import "wasi:filesystem/types@0.2.0" (instance $files
          (alias outer 1 $input-stream (type $outer-input))
          (export "input-stream" (type $input-stream (eq $outer-input)))
          (type $codes (enum {codes})) (export "error-code" (type $code (eq $codes)))
          (type $path-bits (flags "symlink-follow")) (export "path-flags" (type $path-flags (eq $path-bits)))
          (type $open-bits (flags "create" "directory" "exclusive" "truncate"))
          (export "open-flags" (type $open-flags (eq $open-bits)))
          (type $descriptor-bits (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
            "requested-write-sync" "mutate-directory"))
          (export "descriptor-flags" (type $descriptor-flags (eq $descriptor-bits)))
          (type $kinds (enum "unknown" "block-device" "character-device" "directory" "fifo"
            "symbolic-link" "regular-file" "socket"))
          (export "descriptor-type" (type $descriptor-type (eq $kinds)))
          (type $entries (record (field "type" $descriptor-type) (field "name" string)))
          (export "directory-entry" (type $directory-entry (eq $entries)))
          (export "descriptor" (type $descriptor (sub resource)))
          (export "directory-entry-stream" (type $directory-entry-stream (sub resource)))
          (export "[method]descriptor.open-at" (func (param "self" (borrow $descriptor))
            (param "path-flags" $path-flags) (param "path" string) (param "open-flags" $open-flags)
            (param "flags" $descriptor-flags) (result (result (own $descriptor) (error $code)))))
          (export "[method]descriptor.create-directory-at" (func (param "self" (borrow $descriptor))
            (param "path" string) (result (result (error $code)))))
          (export "[method]descriptor.write" (func (param "self" (borrow $descriptor))
            (param "buffer" (list u8)) (param "offset" u64) (result (result u64 (error $code)))))
          (export "[method]descriptor.read-via-stream" (func (param "self" (borrow $descriptor))
            (param "offset" u64) (result (result (own $input-stream) (error $code)))))
          (export "[method]descriptor.read-directory" (func (param "self" (borrow $descriptor))
            (result (result (own $directory-entry-stream) (error $code)))))
          (export "[method]directory-entry-stream.read-directory-entry" (func
            (param "self" (borrow $directory-entry-stream))
            (result (result (option $directory-entry) (error $code)))))))
        (alias export $files "descriptor" (type $descriptor))
        (alias export $files "directory-entry-stream" (type $directory-entry-stream))
        (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
          (alias outer 1 $descriptor (type $outer-descriptor))
          (export "descriptor" (type $descriptor (eq $outer-descriptor)))
          (export "get-directories" (func (result (list (tuple (own $descriptor) string)))))))"#
    )
}

/// A program with the directory `$h`; "file" lies at 1024.
pub(super) fn in_directory(body: &str) -> String {
    let functions = [
        READ,
        HostFunction {
            name: "directories",
            path: ("preopens", "get-directories"),
            signature: "(param i32)",
        },
        HostFunction {
            name: "open-at",
            path: ("files", "[method]descriptor.open-at"),
            signature: "(param i32 i32 i32 i32 i32 i32 i32)",
        },
        HostFunction {
            name: "create-directory",
            path: ("files", "[method]descriptor.create-directory-at"),
            signature: "(param i32 i32 i32 i32)",
        },
        HostFunction {
            name: "write-at",
            path: ("files", "[method]descriptor.write"),
            signature: "(param i32 i32 i32 i64 i32)",
        },
        HostFunction {
            name: "read-stream",
            path: ("files", "[method]descriptor.read-via-stream"),
            signature: "(param i32 i64 i32)",
        },
        HostFunction {
            name: "read-directory",
            path: ("files", "[method]descriptor.read-directory"),
            signature: "(param i32 i32)",
        },
        HostFunction {
            name: "next-entry",
            path: (
                "files",
                "[method]directory-entry-stream.read-directory-entry",
            ),
            signature: "(param i32 i32)",
        },
    ];
    let drops = ["descriptor", "directory-entry-stream", "input-stream"];
    let body = format!(
        r"(call $directories (i32.const 0))
        (local.set $h (i32.load (i32.load (i32.const 0))))
        {body}"
    );
    let imports = format!("{IO}{}", filesystem());
    program(&imports, &functions, &drops, 64, "file", &body)
}

/// Opens "file" for reading and writing, and creates it; the result is placed at 0.
const OPEN: &str = "(call $open-at (local.get $h) (i32.const 0) (i32.const 1024) (i32.const 4) \
    (i32.const 1) (i32.const 3) (i32.const 0))";

pub(super) fn spec_in(directory: &std::path::Path) -> GuestSpec {
    GuestSpec {
        directories: vec![PreopenedDirectory {
            dir: std::fs::File::open(directory).unwrap(),
            to: "/".into(),
        }],
        ..spec()
    }
}

#[tokio::test]
async fn open_files_are_bounded_and_released() {
    const QUOTA: u32 = 6;
    let opens = |then: &str, most: u32| {
        in_directory(&format!(
            r"(loop $ever
              {OPEN}
              (if (i32.eqz (i32.load8_u (i32.const 0)))
                (then
                  (local.set $j (i32.load (i32.const 4)))
                  {then}
                  (local.set $i (i32.add (local.get $i) (i32.const 1)))
                  (call $check (i32.le_u (local.get $i) (i32.const 200)))
                  (br $ever))))
            (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const {QUOTA})))
            (call $check (i32.eq (local.get $i) (i32.const {most})))
            (i32.const 0)"
        ))
    };
    // A stream keeps the file open when its descriptor is dropped.
    let streams = "
        (call $read-stream (local.get $j) (i64.const 0) (i32.const 8))
        (call $check (i32.eqz (i32.load8_u (i32.const 8))))
        (call $drop-descriptor (local.get $j))";
    let directory = tempfile::tempdir().unwrap();
    let engine = engine();
    let free = engine.free_memory();
    let with = |text: &str, limit: u32| {
        let mut spec = spec_in(directory.path());
        spec.limits.open_files = limit;
        guest(&engine, text, spec)
    };
    for _ in 0..3 {
        run(&with(&opens("", 8), 8)).await.unwrap();
        run(&with(&opens(streams, 8), 8)).await.unwrap();
        // All calls together may open 100.
        run(&with(&opens("", 100), 1000)).await.unwrap();
    }
    let closes = in_directory(&format!(
        r"(loop $many
          {OPEN}
          (call $check (i32.eqz (i32.load8_u (i32.const 0))))
          (local.set $j (i32.load (i32.const 4)))
          (call $read-stream (local.get $j) (i64.const 0) (i32.const 8))
          (call $check (i32.eqz (i32.load8_u (i32.const 8))))
          (call $drop-input-stream (i32.load (i32.const 12)))
          (call $drop-descriptor (local.get $j))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $many (i32.lt_u (local.get $i) (i32.const 300))))
        (i32.const 0)"
    ));
    run(&with(&closes, 1)).await.unwrap();
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn open_streams_of_files_are_charged() {
    const INSUFFICIENT_MEMORY: u32 = 22;
    const QUOTA: u32 = 6;
    // Streams of one file, until there is no memory for another, or 64.
    let opens = |most: u32, error: u32| {
        in_directory(&format!(
            r"{OPEN}
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (local.set $j (i32.load (i32.const 4)))
        (loop $ever
          (call $read-stream (local.get $j) (i64.const 0) (i32.const 0))
          (if (i32.eqz (i32.load8_u (i32.const 0)))
            (then
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $ever))))
        (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const {error})))
        (call $check (i32.eq (local.get $i) (i32.const {most})))
        (i32.const 0)"
        ))
    };
    let directory = tempfile::tempdir().unwrap();
    let engine = engine();
    let free = engine.free_memory();
    let mut small = spec_in(directory.path());
    small.limits.buffers = MIB;
    let text = opens(16, INSUFFICIENT_MEMORY);
    run(&guest(&engine, &text, small)).await.unwrap();
    let text = opens(64, QUOTA);
    let large = guest(&engine, &text, spec_in(directory.path()));
    run(&large).await.unwrap();
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn long_writes_are_short_and_long_paths_are_refused() {
    const NAME_TOO_LONG: u32 = 18;
    let text = in_directory(&format!(
        r"{OPEN}
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (local.set $j (i32.load (i32.const 4)))
        ;; 3 MiB, of which 1 MiB is taken.
        (call $write-at (local.get $j) (i32.const 65536) (i32.const 3145728) (i64.const 0) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (call $check (i64.eq (i64.load (i32.const 8)) (i64.const 1048576)))
        (memory.fill (i32.const 65536) (i32.const 97) (i32.const 5000))
        (call $create-directory (local.get $h) (i32.const 65536) (i32.const 5000) (i32.const 0))
        (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
        (call $check (i32.eq (i32.load8_u (i32.const 1)) (i32.const {NAME_TOO_LONG})))
        (i32.const 0)"
    ));
    let directory = tempfile::tempdir().unwrap();
    run(&guest(&engine(), &text, spec_in(directory.path())))
        .await
        .unwrap();
    let written = std::fs::metadata(directory.path().join("file")).unwrap();
    assert_eq!(written.len(), MIB);
}

#[tokio::test]
async fn large_directory_is_listed_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..3000 {
        let name = format!("a file with a long name {number:0>100}");
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    let text = in_directory(
        r"(call $read-directory (local.get $h) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (local.set $j (i32.load (i32.const 4)))
        (loop $all
          (call $next-entry (local.get $j) (i32.const 0))
          (call $check (i32.eqz (i32.load8_u (i32.const 0))))
          (if (i32.load8_u (i32.const 4))
            (then
              ;; A regular file, whose name has 124 bytes.
              (call $check (i32.eq (i32.load8_u (i32.const 8)) (i32.const 6)))
              (call $check (i32.eq (i32.load (i32.const 16)) (i32.const 124)))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br $all))))
        (call $check (i32.eq (local.get $n) (i32.const 3000)))
        (call $drop-directory-entry-stream (local.get $j))
        (i32.const 0)",
    );
    let engine = engine();
    let mut spec = spec_in(directory.path());
    // Less than the names of all.
    spec.limits.buffers = 64 << 10;
    run(&guest(&engine, &text, spec)).await.unwrap();
}
