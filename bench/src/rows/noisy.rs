//! A good worker while four others loop, flood and eat memory: its p99 beside what it is alone.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use wws_test::workspace;

use super::throughput::wws;
use crate::{
    load,
    report::{Measured, Report, Target, median},
};

const CONNECTIONS: u32 = 10;
const SECONDS: u32 = 8;
const ROUNDS: usize = 3;

/// Name and text of each bad worker.
const BAD: [(&str, &str); 4] = [
    (
        "loops",
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop br 0)))",
    ),
    (
        "floods-output",
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (func (export "_start")
                (i32.store (i32.const 4) (i32.const 65536))
                (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) br 0)))"#,
    ),
    (
        "floods-log",
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (func (export "_start")
                (i32.store (i32.const 4) (i32.const 65536))
                (loop (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) br 0)))"#,
    ),
    (
        "eats-memory",
        r#"(module (memory (export "memory") 1)
            (func (export "_start") (local i32)
                (loop
                    (drop (memory.grow (i32.const 16)))
                    (memory.fill (i32.const 0) (i32.const 7) (i32.mul (memory.size) (i32.const 65536)))
                    br 0)))"#,
    ),
];

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    write_project(directory.path())?;
    let server = wws(directory.path())?;
    let url = server.url("/hello");
    load::run(&url, CONNECTIONS, 1)?;
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    let calls = AtomicU64::new(0);
    for _ in 0..ROUNDS {
        alone.push(load::run(&url, CONNECTIONS, SECONDS)?.p99);
        among.push(
            with_noise(server.port(), &calls, || {
                load::run(&url, CONNECTIONS, SECONDS)
            })??
            .p99,
        );
    }
    ensure!(
        calls.load(Ordering::Relaxed) > 0,
        "no bad worker was called to its end"
    );
    report.add(&Measured {
        name: "a good worker's p99 while four others loop, flood and eat memory : alone",
        value: median(&mut among),
        unit: "ms",
        peer: "the same worker alone",
        peer_value: median(&mut alone),
        target: Target::AtMost(2.0),
        how: "wrk, 1 thread, 10 connections, 8 s on the good worker, one connection always calling \
            each bad one; median of 3 rounds in turns",
    });
    Ok(())
}

fn write_project(directory: &Path) -> Result<()> {
    fs::copy(workspace::guest("hello")?, directory.join("hello.wasm"))?;
    for (name, text) in BAD {
        fs::write(
            directory.join(format!("{name}.wasm")),
            wat::parse_str(text)?,
        )?;
    }
    Ok(())
}

/// Runs `work` while every bad worker is called again and again.
fn with_noise<T>(port: u16, calls: &AtomicU64, work: impl FnOnce() -> T) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (name, _) in BAD {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if call(port, name, stop).is_ok() {
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // Until they are under way.
        thread::sleep(Duration::from_millis(500));
        let result = work();
        stop.store(true, Ordering::Relaxed);
        Ok(result)
    })
}

/// Waits for an answer of whatever status, or for the end of the noise.
fn call(port: u16, name: &str, stop: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    write!(
        stream,
        "GET /{name} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
