//! Clients and guests that try to use up a small container: it is never killed, and goes on
//! answering others.
//!
//! Each attack was seen to kill the server of an earlier version, or to keep everybody else
//! waiting.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Pid;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;
use wws_test::wait::patience;

/// How long an attack goes on.
const ATTACK: Duration = Duration::from_secs(3);

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

fn image(containerd: &Containerd, answers: u16) -> Result<String> {
    let tables = "(table 100000 funcref)".repeat(16);
    let globals = "(global (mut i64) (i64.const 1))".repeat(200_000);
    let fetches = format!(
        "export default {{ async fetch() {{
            const all = Array.from({{ length: 6 }}, () => fetch('http://127.0.0.1:{answers}/').then((r) => r.arrayBuffer()));
            return new Response(String((await Promise.all(all)).length));
        }} }};"
    );
    let http = "version = '1'\n[features.http_requests]\nallowed_hosts = ['127.0.0.1']\nallow_http = true\n";
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
                for (let i = 0; i < 3000; i++) all.push(writeFile('/nowhere/x', big).catch(() => 0));
                await Promise.all(all);
                return new Response('ok');
             } };",
        )?
        .file("big.wasm", module(260, "", BIG)?)?
        .file("headers.wasm", module(200, "", HEADERS)?)?
        .file("grows.wasm", module(1, "", GROWS)?)?
        .file("tables.wasm", module(1, &tables, "(call $sleep)")?)?
        .file("globals.wasm", module(1, &globals, "(call $sleep)")?)?
        .file("deep.wasm", module(1, "", "(call $deep (i32.const 100000000))")?)?
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

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// The status of an answer; none where the connection broke off.
fn ask(port: u16, path: &str, body: &[u8]) -> Option<u16> {
    let mut stream = connect(port).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    // A refused body is answered before all of it was sent.
    let _ = stream.write_all(body);
    let mut start = [0; 12];
    stream.read_exact(&mut start).ok()?;
    std::io::copy(&mut stream, &mut std::io::sink()).ok();
    std::str::from_utf8(&start[9..]).ok()?.parse().ok()
}

/// Asks for `path` with so many connections at once until the attack ends.
fn flood(port: u16, connections: usize, path: &str, body: &[u8]) {
    let end = Instant::now() + ATTACK;
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(move || {
                while Instant::now() < end {
                    if ask(port, path, body).is_none() {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
    });
}

/// Heads of 63 KiB that do not end.
fn unfinished_heads(port: u16) {
    let head = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(63 << 10));
    let mut open = Vec::new();
    let end = Instant::now() + ATTACK;
    while open.len() < 5000 && Instant::now() < end {
        let Ok(mut stream) = connect(port) else { break };
        if stream.set_nonblocking(true).is_ok() {
            let _ = stream.write(head.as_bytes());
            open.push(stream);
        }
    }
    thread::sleep(end.saturating_duration_since(Instant::now()));
}

/// Clients that take one byte now and then of an answer of 16 MB.
fn slow_readers(port: u16) {
    let mut open: Vec<_> = (0..60)
        .filter_map(|_| {
            let mut stream = connect(port).ok()?;
            write!(stream, "GET /big HTTP/1.1\r\nhost: x\r\n\r\n").ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(stream)
        })
        .collect();
    let end = Instant::now() + ATTACK;
    while Instant::now() < end {
        for stream in &mut open {
            let _ = stream.read(&mut [0]);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// A server whose answers have 9 MiB.
fn big_answers(stop: &AtomicBool, listener: &TcpListener) {
    let body = vec![b'a'; 9 << 20];
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            let body = &body;
            scope.spawn(move || {
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 2048]);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(body);
            });
        }
    });
}

/// Times of a good worker's answers, in milliseconds, and how many were not 200.
#[derive(Default)]
struct Good {
    times: Vec<f64>,
    refused: usize,
    /// The most memory that the server held, in MiB.
    held: u64,
}

impl Good {
    fn p99(&mut self) -> f64 {
        self.times.sort_by(f64::total_cmp);
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * 99 / 100).copied().unwrap_or(f64::NAN)
    }
}

/// Anonymous and shared memory of a process in MiB: what cannot be taken from it.
fn held(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let status = status.unwrap_or_default();
    let kib = field(&status, "RssAnon:").unwrap_or(0) + field(&status, "RssShmem:").unwrap_or(0);
    kib >> 10
}

/// Asks the good worker every 10 ms.
fn watch(pid: Pid, port: u16, stop: &AtomicBool) -> Good {
    let mut good = Good::default();
    while !stop.load(Ordering::Relaxed) {
        good.held = good.held.max(held(pid));
        let start = Instant::now();
        match ask(port, "/hello", b"") {
            Some(200) => good.times.push(start.elapsed().as_secs_f64() * 1000.0),
            _ => good.refused += 1,
        }
        thread::sleep(Duration::from_millis(10));
    }
    good
}

type Attack = fn(u16);

const ATTACKS: [(&str, Attack); 12] = [
    ("10 MiB of control characters, 12 at once", |port| {
        flood(port, 12, "/hello", &vec![1; 10 << 20]);
    }),
    ("5,000 unfinished heads of 63 KiB", unfinished_heads),
    ("60 slow readers of 16 MB", slow_readers),
    ("a namespace of 15 MB, 64 at once", |port| {
        ask(port, "/fills-kv", b"");
        flood(port, 64, "/reads-kv", b"");
    }),
    ("3,000 writes of 8 MiB without a folder", |port| {
        flood(port, 4, "/writes", b"");
    }),
    ("16 tables of 100,000 elements, 60 at once", |port| {
        flood(port, 60, "/tables", b"");
    }),
    ("200,000 globals, 60 at once", |port| {
        flood(port, 60, "/globals", b"")
    }),
    ("six answers of 9 MiB, 10 at once", |port| {
        flood(port, 10, "/fetches", b"")
    }),
    ("1,024 headers of 10 MiB, 4 at once", |port| {
        flood(port, 4, "/headers", b"")
    }),
    ("memory to the limit, 32 at once", |port| {
        flood(port, 32, "/grows", b"")
    }),
    ("calls without end, 32 at once", |port| {
        flood(port, 32, "/deep", b"")
    }),
    ("random bytes without end, 6 at once", |port| {
        flood(port, 6, "/random", b"")
    }),
];

#[test]
fn small_containers_survive_every_attack_and_go_on_answering() -> Result<()> {
    let containerd = Containerd::start_sharing_code(Version::MAIN)?;
    let answers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    answers.set_nonblocking(true)?;
    let image = image(&containerd, answers.local_addr()?.port())?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| big_answers(&stop, &answers));
        let result = [64u64, 128, 256]
            .into_iter()
            .try_for_each(|mebibytes| attack_all(&containerd, &image, mebibytes));
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn attack_all(containerd: &Containerd, image: &str, mebibytes: u64) -> Result<()> {
    let limit = (mebibytes << 20).to_string();
    let mut container = Run::workers(containerd, image, &format!("bounds-{mebibytes}"))?
        .options(&["--memory-limit", &limit])
        .env("WWS_ACCESS_LOG", "false")
        .start()?;
    container.wait_until_up()?;
    let (pid, port) = (container.pid()?, container.port());
    let watched = |attack: &dyn Fn()| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let good = scope.spawn(|| watch(pid, port, &stop));
            attack();
            stop.store(true, Ordering::Relaxed);
            good.join().unwrap_or_default()
        })
    };
    let mut alone = watched(&|| thread::sleep(Duration::from_secs(2)));
    let alone = alone.p99();
    for (name, attack) in ATTACKS {
        let before = held(pid);
        let mut good = watched(&|| attack(port));
        let (p99, answered) = (good.p99(), good.times.len());
        println!(
            "{mebibytes:>4} MiB  {name:<42} p99 {alone:>6.1} -> {p99:>7.1} ms, {answered:>3} answered, {:>3} refused, {before:>3} -> {:>3} MiB",
            good.refused, good.held
        );
        ensure!(
            container.pid().ok() == Some(pid),
            "{name}: the server of a container of {mebibytes} MiB was killed\n{}",
            container.log()?
        );
        // What the attack held is free again.
        let deadline = Instant::now() + patience(Duration::from_secs(20));
        while ask(port, "/hello", b"") != Some(200) {
            ensure!(
                Instant::now() < deadline,
                "{name}: no answer 20 s after the attack on {mebibytes} MiB"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
    container.signal("SIGKILL")?;
    container.wait()?;
    container.remove()
}
