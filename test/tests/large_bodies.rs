//! Bodies that are much larger than a worker's memory pass through it in constant memory of the
//! server. `WWS_TEST_MEBIBYTES` makes them larger than the tests' usual size.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Pid;
use wws_test::server::Server;
use wws_test::wait::patience;
use wws_test::{usage, workspace};

/// Size of a body in MiB, unless `WWS_TEST_MEBIBYTES` has another one.
const MEBIBYTES: u64 = 32;

/// The most that the server may hold beyond what it holds for a small body.
const GROWTH: u64 = 16 << 20;

/// The longest wait for the next bytes.
const ANSWER: Duration = Duration::from_secs(60);

const SETTINGS: &str = r#"version = "1"
[limits]
cpu_time = "10m"
wall_time = "10m"
"#;

const JAVASCRIPT: &str = r#"
export default {
  async fetch(request) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/echo") return new Response(request.body);
    if (pathname === "/upload") {
      let count = 0;
      for await (const part of request.body) count += part.length;
      return new Response(`${count}\n`);
    }
    const part = new Uint8Array(65536).fill(120);
    let left = Number(searchParams.get("count"));
    return new Response(new ReadableStream({
      pull(controller) {
        if (left-- > 0) controller.enqueue(part); else controller.close();
      },
    }));
  },
};
"#;

/// Sends a request with a body of so many bytes, and reads the response meanwhile. Returns its
/// body's size, and the body itself if it is short.
fn transfer(port: u16, path: &str, sent: u64) -> Result<(u64, String)> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(patience(ANSWER)))?;
    stream.set_write_timeout(Some(patience(ANSWER)))?;
    let mut upload = stream.try_clone()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {sent}\r\n\r\n"
    );
    upload.write_all(head.as_bytes())?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            let part = vec![b'x'; 64 << 10];
            let mut left = sent;
            while left > 0 {
                let len = left.min(part.len() as u64);
                upload.write_all(&part[..usize::try_from(len)?])?;
                left -= len;
            }
            Ok(())
        });
        let received = receive(BufReader::with_capacity(256 << 10, stream));
        let sending = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = received.with_context(|| format!("{path}: {sending:?}"))?;
        sending?;
        Ok(received)
    })
}

/// Reads a response.
fn receive(mut reader: BufReader<TcpStream>) -> Result<(u64, String)> {
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "no head: {head}");
        head += &line;
    }
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    if !head.contains("transfer-encoding: chunked") {
        let mut body = String::new();
        reader.read_to_string(&mut body)?;
        return Ok((body.len() as u64, body));
    }
    let (mut received, mut chunk) = (0, Vec::new());
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let len = u64::from_str_radix(line.trim_end(), 16)
            .with_context(|| format!("a chunk after {received} bytes: {line:?}"))?;
        let last = String::from_utf8_lossy(&chunk).into_owned();
        chunk.clear();
        reader.by_ref().take(len + 2).read_to_end(&mut chunk)?;
        ensure!(chunk.len() as u64 == len + 2, "the response is cut off");
        if len == 0 {
            return Ok((received, last));
        }
        received += len;
    }
}

/// The most memory that a process has while `work` is done.
fn highest<T>(pid: Pid, work: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| -> Result<u64> {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(usage::resident(pid)?);
                thread::sleep(Duration::from_millis(5));
            }
            Ok(most)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let most = watching.join().map_err(|_| anyhow!("the watch panicked"))?;
        Ok((most?, worked?))
    })
}

/// One body after another, each of which leaves the server's memory as it was: of a worker that
/// answers `upload` with the size of the body, `/echo` with the body, and `download` with a body.
fn in_constant_memory(
    project: &Path,
    upload: &str,
    download: impl Fn(u64) -> String,
) -> Result<()> {
    let mebibytes = env::var("WWS_TEST_MEBIBYTES").ok();
    let mebibytes = mebibytes.and_then(|number| number.parse().ok());
    let size = mebibytes.unwrap_or(MEBIBYTES) << 20;
    fs::write(project.join(".wws.toml"), SETTINGS)?;
    let server = Server::start(project, project.join("_log"), &[])?;
    let (port, pid) = (server.port(), server.pid());
    let small = 1 << 20;
    let (download, small_download) = (download(size), download(small));
    for (path, small_path, sent, received) in [
        (upload, upload, size, None),
        (&*download, &*small_download, 0, Some(size)),
        ("/echo", "/echo", size, Some(size)),
    ] {
        // What each call needs, and pages of the program that are read for the first time.
        for _ in 0..3 {
            transfer(port, small_path, small.min(sent))?;
        }
        let before = usage::resident(pid)?;
        let start = Instant::now();
        let (most, (came, text)) = highest(pid, || transfer(port, path, sent))?;
        let time = start.elapsed();
        let more = most.saturating_sub(before);
        println!(
            "{path}: {sent} bytes up, {came} down in {time:?}; {before} bytes resident, then \
             {more} more at most"
        );
        match received {
            Some(received) => ensure!(came == received, "{path}: {came} bytes"),
            None => ensure!(text.trim_end() == sent.to_string(), "{path}: {text}"),
        }
        ensure!(more <= GROWTH, "{path}: {more} bytes more");
    }
    Ok(())
}

#[test]
fn pass_through_a_component() -> Result<()> {
    let project = tempfile::tempdir()?;
    for (route, guest) in [
        ("echo", "component-echo"),
        ("[...path]", "component-corners"),
    ] {
        let file = project.path().join(format!("{route}.wasm"));
        fs::copy(workspace::guest(guest)?, file)?;
    }
    in_constant_memory(project.path(), "/read-for-ever", |size| {
        format!("/flood?mib={}", size >> 20)
    })
}

#[test]
fn pass_through_a_component_of_wasi_0_3() -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::copy(
        workspace::guest("component-features-p3")?,
        project.path().join("[...path].wasm"),
    )?;
    in_constant_memory(project.path(), "/length", |size| {
        format!("/chunks?count={}&bytes=65536", size >> 16)
    })
}

#[test]
fn pass_through_a_javascript_worker() -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::write(project.path().join("[...path].js"), JAVASCRIPT)?;
    in_constant_memory(project.path(), "/upload", |size| {
        format!("/download?count={}", size >> 16)
    })
}
