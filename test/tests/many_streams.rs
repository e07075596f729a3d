//! A thousand event streams, of components and of JavaScript, and a thousand WebSockets that are
//! open at once: all are live, and while nothing happens they cost memory alone.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wws_test::server::Server;
use wws_test::wait::patience;
use wws_test::{http, usage, workspace};

const COUNT: u32 = 1000;

/// The longest wait for bytes of one of them.
const ANSWER: Duration = Duration::from_secs(60);

/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(1);

/// They wait for longer than it takes to open all of them.
const SETTINGS: &str = r#"version = "1"
[server]
concurrency = 1100
max_sockets = 1001
memory = "16GiB"
[limits]
stream_idle = "20m"
socket_idle = "20m"
"#;

/// An event at once, and another one when the body comes or ten minutes have passed.
const WATCH: &str = r#"
const event = (text) => new TextEncoder().encode(`data: ${text}\n\n`);
export default (request) => new Response(new ReadableStream({
  async start(controller) {
    controller.enqueue(event("open"));
    const late = new Promise((resolve) => setTimeout(resolve, 600_000, "late"));
    const changed = request.body.getReader().read().then(() => "changed");
    controller.enqueue(event(await Promise.race([changed, late])));
    controller.close();
  },
}), { headers: { "content-type": "text/event-stream" } });
"#;

const ECHO: &str = r#"
export default () => {
  const [client, server] = Object.values(new WebSocketPair());
  server.accept();
  server.addEventListener("message", ({ data }) => server.send(data));
  return new Response(null, { status: 101, webSocket: client });
};
"#;

/// Bytes of a stream until its end, or until it is as long as `end`, which it must be then.
fn read_to(stream: &mut TcpStream, end: &[u8]) -> Result<Vec<u8>> {
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !all.ends_with(end) {
        let read = stream.read(&mut byte)?;
        ensure!(read > 0, "an end after {:?}", String::from_utf8_lossy(&all));
        all.push(byte[0]);
    }
    Ok(all)
}

/// Opens one, and reads until it is open.
fn open(port: u16, request: &[u8], end: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience(ANSWER)))?;
    stream.write_all(request)?;
    let head = read_to(&mut stream, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&head).into_owned();
    ensure!(
        head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 101"),
        "{head}"
    );
    read_to(&mut stream, end)?;
    Ok(stream)
}

/// Serves `project`, opens a thousand of them and leaves them alone. Then `while_open` looks at the
/// server, and `ends` has each of them show that it lives. `each` is the most memory of one, in
/// bytes.
fn a_thousand(
    name: &str,
    project: &Path,
    (request, opened): (&[u8], &[u8]),
    each: u64,
    while_open: impl Fn(u16) -> Result<()>,
    ends: impl Fn(&mut TcpStream, u32) -> Result<()>,
) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    fs::write(project.join(".wws.toml"), SETTINGS)?;
    fs::create_dir(project.join("public"))?;
    fs::write(project.join("public/alive.txt"), "alive")?;
    let server = Server::start(project, project.join("_log"), &[])?;
    let (port, pid) = (server.port(), server.pid());
    let mut first = open(port, request, opened)?;
    ends(&mut first, 0)?;
    let before = usage::resident(pid)?;
    let mut all = (0..COUNT)
        .map(|_| open(port, request, opened))
        .collect::<Result<Vec<_>>>()?;
    let memory = (usage::resident(pid)? - before) / u64::from(COUNT);
    let start = usage::cpu_time(pid)?;
    thread::sleep(IDLE);
    let idle = usage::cpu_time(pid)? - start;
    println!("{COUNT} {name}: {memory} bytes each, {idle:?} of CPU time in {IDLE:?}");
    ensure!(memory <= each, "{memory} bytes each");
    ensure!(idle < IDLE / 4, "{idle:?} of CPU time in {IDLE:?}");
    while_open(port)?;
    for (stream, number) in all.iter_mut().zip(0..) {
        ends(stream, number)?;
    }
    Ok(())
}

fn streams(name: &str, project: &Path, each: u64) -> Result<()> {
    let request =
        b"POST /watch HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\
          \r\n";
    let opened = b"data: open\n\n";
    let alive = |port| {
        ensure!(http::get(port, "/alive.txt")?.text() == "alive");
        Ok(())
    };
    a_thousand(
        name,
        project,
        (request, opened),
        each,
        alive,
        |stream, _| {
            stream.write_all(b"1\r\nx\r\n0\r\n\r\n")?;
            read_to(stream, b"data: changed\n\n")?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest)?;
            ensure!(rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
            Ok(())
        },
    )
}

fn component(guest: &str) -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::copy(workspace::guest(guest)?, project.path().join("watch.wasm"))?;
    streams(&format!("streams of {guest}"), project.path(), 256 << 10)
}

#[test]
fn event_streams_of_components() -> Result<()> {
    component("component-features")
}

#[test]
fn event_streams_of_components_of_wasi_0_3() -> Result<()> {
    component("component-features-p3")
}

#[test]
fn event_streams_of_javascript() -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::write(project.path().join("watch.js"), WATCH)?;
    streams("streams of JavaScript", project.path(), 2 << 20)
}

#[test]
fn sockets_of_javascript() -> Result<()> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let project = tempfile::tempdir()?;
    fs::write(project.path().join("echo.js"), ECHO)?;
    let request = b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let opened = (&request[..], &b""[..]);
    let full = |port| {
        let refused = open(port, request, b"").err();
        let refused = refused.context("a socket beyond `max_sockets`")?;
        ensure!(refused.to_string().contains(" 503 "), "{refused}");
        Ok(())
    };
    let echoes = |socket: &mut TcpStream, number: u32| {
        let text = number.to_string();
        let len = u8::try_from(text.len())?;
        let masked = text.bytes().zip(MASK.iter().cycle());
        let mut frame = vec![0x81, 0x80 | len];
        frame.extend(MASK);
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        socket.write_all(&frame)?;
        let mut echo = vec![0; text.len() + 2];
        socket.read_exact(&mut echo)?;
        let (head, content) = echo.split_at(2);
        ensure!(
            head == [0x81, len] && content == text.as_bytes(),
            "{echo:?}"
        );
        Ok(())
    };
    a_thousand("sockets", project.path(), opened, 2 << 20, full, echoes)
}
