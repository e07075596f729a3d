//! Attacks by modules of the old protocol, by interpreted workers, and by clients of any worker.

use anyhow::Result;
use wws_test::containerd::Containerd;
use wws_test::image::Image;

use super::{Attack, ask, flood, slow_readers, unfinished_heads};

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

pub(super) fn image(containerd: &Containerd, answers: u16) -> Result<String> {
    let tables = "(table 100000 funcref)".repeat(16);
    let globals = "(global (mut i64) (i64.const 1))".repeat(200_000);
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
    Image::workers("bounds")
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

pub(super) const ATTACKS: [(&str, Attack); 12] = [
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
    ("calls without end, 32 at once", |target| {
        flood(target, 32, "/deep", b"")
    }),
    ("random bytes without end, 6 at once", |target| {
        flood(target, 6, "/random", b"")
    }),
];
