//! Attacks by modules of the old protocol, by interpreted workers, and by clients of any worker.

use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use wws_test::containerd::Containerd;
use wws_test::image::Image;

use super::{Attack, Target, ask, flood, slow_readers, unfinished_heads};

/// What a worker's calls have of the memory that earlier calls of it used: `?g` grows to the limit,
/// `?h` holds its memory, and anything else writes up to the limit without growing. The input's
/// URL, which ends with that letter, is looked for in 2,000 bytes.
const SLOTS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 256) "{\22data\22:\22ok\22}")
    (func $answer_after (param $milliseconds i64)
      (i64.store (i32.const 4096) (i64.const 1))
      (i32.store (i32.const 4112) (i32.const 1))
      (i64.store (i32.const 4120) (i64.mul (local.get $milliseconds) (i64.const 1000000)))
      (drop (call $poll (i32.const 4096) (i32.const 4200) (i32.const 1) (i32.const 4300)))
      (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 13))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func $asks_for (param $letter i32) (result i32) (local $at i32)
      (local.set $at (i32.const 8192))
      (loop $all
        (if (i32.eq (i32.load16_u (local.get $at))
              (i32.or (i32.const 63) (i32.shl (local.get $letter) (i32.const 8))))
          (then (return (i32.const 1))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $all (i32.lt_u (local.get $at) (i32.const 10192))))
      (i32.const 0))
    (func (export "_start") (local $at i32)
      (i32.store (i32.const 0) (i32.const 8192)) (i32.store (i32.const 4) (i32.const 4000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (call $asks_for (i32.const 103)) (then
        (drop (memory.grow (i32.const 2046)))
        (call $answer_after (i64.const 400)) (return)))
      (if (call $asks_for (i32.const 104)) (then (call $answer_after (i64.const 800)) (return)))
      (local.set $at (i32.const 131072))
      (loop $pages
        (i32.store8 (local.get $at) (i32.const 1))
        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
        (br_if $pages (i32.lt_u (local.get $at) (i32.const 134000000))))
      (call $answer_after (i64.const 1000))))"#;

/// A worker that prints `{"data":"ok"}` after `before`; `more` are further fields of the module.
fn module(pages: u32, more: &str, before: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "http" "send-http-request" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (memory (export "memory") {pages})
          (data (i32.const 64) "http://example.com/")
          (data (i32.const 128) "x")
          (data (i32.const 256) "{{\"data\":\"ok\"}}")
          (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
          (func $sleep
            (i32.store (i32.const 4112) (i32.const 1)) (i64.store (i32.const 4120) (i64.const 500000000))
            (drop (call $poll (i32.const 4096) (i32.const 4200) (i32.const 1) (i32.const 4300))))
          (func $deep (param i32)
            (if (local.get 0) (then (call $deep (i32.sub (local.get 0) (i32.const 1))))))
          {more}
          (func (export "_start") (local $i i32) {before}
            (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 13))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    );
    Ok(wat::parse_str(text)?)
}

/// 16 MiB of output, as one string.
const BIG: &str = r#"
    (memory.fill (i32.const 65536) (i32.const 97) (i32.const 16000000))
    (i64.store (i32.const 65536) (i64.const 0x2261746164227b0a))
    (i32.store16 (i32.const 65544) (i32.const 0x223a))
    (i32.store16 (i32.const 16065534) (i32.const 0x7d22))
    (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 16000000))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (return)"#;

/// 1,024 headers, each the same 10 MiB.
const HEADERS: &str = r#"
    (memory.fill (i32.const 1048576) (i32.const 97) (i32.const 10485760))
    (loop $l
      (i32.store (i32.add (i32.const 65536) (i32.mul (local.get $i) (i32.const 16))) (i32.const 128))
      (i32.store (i32.add (i32.const 65540) (i32.mul (local.get $i) (i32.const 16))) (i32.const 1))
      (i32.store (i32.add (i32.const 65544) (i32.mul (local.get $i) (i32.const 16))) (i32.const 1048576))
      (i32.store (i32.add (i32.const 65548) (i32.mul (local.get $i) (i32.const 16))) (i32.const 10485760))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1024))))
    (call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 1024)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 19) (i32.const 512))"#;

const GROWS: &str = r#"
    (block $full (loop $l
      (br_if $full (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
      (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 16)) (i32.const 65536)) (i32.const 7) (i32.const 1048576))
      (br $l)))
    (call $sleep)"#;

/// Modules with data at both ends of 20 MiB, which they read as a whole.
const SPARSE: u32 = 16;

fn sparse(number: u32) -> Result<Vec<u8>> {
    let data = format!(
        r#"(data (i32.const 70000) "first") (data (i32.const {}) "last")"#,
        20_000_000 + number
    );
    let sum = r#"
      (loop $l
        (drop (i32.load8_u (local.get $i)))
        (local.set $i (i32.add (local.get $i) (i32.const 4096)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 20000000))))"#;
    module(320, &data, sum)
}

pub(super) fn image(containerd: &Containerd, answers: u16) -> Result<String> {
    image_with_globals(containerd, answers, 200_000)
}

/// The same with as many globals as a module may have, which a server of 64 MiB cannot load.
pub(super) fn image_of_large_modules(containerd: &Containerd) -> Result<String> {
    image_with_globals(containerd, 1, 900_000)
}

fn image_with_globals(containerd: &Containerd, answers: u16, globals: usize) -> Result<String> {
    let tables = "(table 100000 funcref)".repeat(16);
    let globals = "(global (mut i64) (i64.const 1))".repeat(globals);
    let fetches = format!(
        "export default {{ async fetch() {{
            const all = Array.from({{ length: 6 }}, () => \
            fetch('http://127.0.0.1:{answers}/').then((r) => r.arrayBuffer()));
            return new Response(String((await Promise.all(all)).length));
        }} }};"
    );
    let http = "version = '1'\n[features.http_requests]\nallowed_hosts = ['127.0.0.1']\n\
        allow_http = true\n";
    let kv = "version = '1'\n[data.kv]\nnamespace = 'n'\n";
    let mut image = Image::workers("bounds");
    for number in 0..SPARSE {
        image = image.file(&format!("sparse-{number}.wasm"), sparse(number)?)?;
    }
    image
        .guest("hello", "hello.wasm")?
        .guest("hello", "reads-kv.wasm")?
        .file("reads-kv.toml", kv)?
        .file("fills-kv.toml", kv)?
        .file(
            "fills-kv.js",
            "export default { fetch() {
                for (let i = 0; i < 15; i++) Cache.set('k' + i, 'v'.repeat(1000000));
                return new Response('ok');
            } };",
        )?
        .file("fetches.js", fetches)?
        .file("fetches.toml", http)?
        .file(
            "writes.js",
            "import { writeFile } from 'node:fs/promises';
             export default { async fetch() {
                const big = new Uint8Array(8 << 20);
                const all = [];
                for (let i = 0; i < 3000; i++) all.push(writeFile('/nowhere/x', big).catch(() => \
                0));
                await Promise.all(all);
                return new Response('ok');
             } };",
        )?
        .file("big.wasm", module(260, "", BIG)?)?
        .file("headers.wasm", module(200, "", HEADERS)?)?
        .file("grows.wasm", module(1, "", GROWS)?)?
        .file("slots.wasm", wat::parse_str(SLOTS)?)?
        .file("tables.wasm", module(1, &tables, "(call $sleep)")?)?
        .file("globals.wasm", module(1, &globals, "(call $sleep)")?)?
        .file(
            "deep.wasm",
            module(1, "", "(call $deep (i32.const 100000000))")?,
        )?
        .file(
            "random.wasm",
            module(
                200,
                "",
                "(loop $l (drop (call $random (i32.const 65536) (i32.const 12000000))) (br $l))",
            )?,
        )?
        .import(containerd)
}

pub(super) const ATTACKS: [(&str, Attack); 13] = [
    ("10 MiB of control characters, 12 at once", |target| {
        flood(target, 12, "/hello", &vec![1; 10 << 20]);
    }),
    ("5,000 unfinished heads of 63 KiB", unfinished_heads),
    ("60 slow readers of 16 MB", |target| {
        slow_readers(target, 60, "/big");
    }),
    ("a namespace of 15 MB, 64 at once", |target| {
        ask(target.port, "/fills-kv", b"");
        flood(target, 64, "/reads-kv", b"");
    }),
    ("3,000 writes of 8 MiB without a directory", |target| {
        flood(target, 4, "/writes", b"");
    }),
    ("16 tables of 100,000 elements, 60 at once", |target| {
        flood(target, 60, "/tables", b"");
    }),
    ("200,000 globals, 60 at once", |target| {
        flood(target, 60, "/globals", b"")
    }),
    ("six answers of 9 MiB, 10 at once", |target| {
        flood(target, 10, "/fetches", b"")
    }),
    ("1,024 headers of 10 MiB, 4 at once", |target| {
        flood(target, 4, "/headers", b"")
    }),
    ("memory to the limit, 32 at once", |target| {
        flood(target, 32, "/grows", b"")
    }),
    ("16 modules with data 20 MiB apart", |target| {
        let end = Instant::now() + target.time;
        for number in (0..SPARSE).cycle().take_while(|_| Instant::now() < end) {
            ask(target.port, &format!("/sparse-{number}"), b"");
        }
    }),
    ("calls without end, 32 at once", |target| {
        flood(target, 32, "/deep", b"")
    }),
    ("random bytes without end, 6 at once", |target| {
        flood(target, 6, "/random", b"")
    }),
];

/// 24 calls at once use one slot each; of each round three grow to the limit while the others hold
/// theirs, so that all have been as large in the end. Then calls write there without growing: each
/// must trap.
fn used_slots(target: Target) -> Result<()> {
    let all_at_once = |path: fn(usize) -> &'static str| -> Vec<Option<u16>> {
        thread::scope(|scope| {
            let calls =
                (0..24).map(|number| scope.spawn(move || ask(target.port, path(number), b"")));
            let calls: Vec<_> = calls.collect();
            let ended = calls.into_iter().map(|call| call.join().ok().flatten());
            ended.collect()
        })
    };
    for _ in 0..8 {
        let statuses = all_at_once(|number| match number {
            0..3 => "/slots?g",
            _ => "/slots?h",
        });
        ensure!(
            statuses.iter().all(|status| *status == Some(200)),
            "{statuses:?}"
        );
    }
    let statuses = all_at_once(|_| "/slots?w");
    ensure!(
        statuses.iter().all(|status| *status == Some(500)),
        "{statuses:?}"
    );
    Ok(())
}

/// An attack that also sees whether its calls end as they should.
type TryAttack = fn(Target) -> Result<()>;

/// Attacks that took a multiple of the memory that was set, and the memory in MiB.
pub(super) const ON_SET_MEMORY: [(&str, u64, TryAttack); 5] = [
    ("200 slow readers of 16 MB", 128, |target| {
        slow_readers(target, 200, "/big");
        Ok(())
    }),
    ("a namespace of 15 MB, 64 at once", 128, |target| {
        ask(target.port, "/fills-kv", b"");
        flood(target, 64, "/reads-kv", b"");
        Ok(())
    }),
    ("16 tables of 100,000 elements, 60 at once", 512, |target| {
        flood(target, 60, "/tables", b"");
        Ok(())
    }),
    ("900,000 globals, 60 at once", 512, |target| {
        flood(target, 60, "/globals", b"");
        Ok(())
    }),
    ("slots that others had grown, 24 at once", 512, used_slots),
];
