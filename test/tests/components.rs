//! The components of `test/guests/components` and `images/components`, called by a real server:
//! what they do, what they do wrong, and that the server goes on.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use ureq::http::Request;
use wws_test::server::Server;
use wws_test::wait::{patience, until};
use wws_test::{http, workspace};

/// The longest wait for bytes of an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// What the tests' components are given.
const SETTINGS: &str = r#"version = "1"

[vars]
MESSAGE = "from the TOML"

[[folders]]
from = "./_data"
to = "/data"

[features.http_requests]
allowed_hosts = ["allowed.test"]
allow_http = true
"#;

/// One component at the root of a project, which answers every path.
struct Served {
    project: TempDir,
    server: Server,
}

fn serve(guest: &str) -> Result<Served> {
    serve_with(guest, "")
}

/// [`serve`] with more settings.
fn serve_with(guest: &str, settings: &str) -> Result<Served> {
    let project = tempfile::tempdir()?;
    fs::create_dir(project.path().join("_data"))?;
    fs::copy(
        workspace::guest(guest)?,
        project.path().join("[...path].wasm"),
    )?;
    fs::write(
        project.path().join("[...path].toml"),
        format!("{SETTINGS}{settings}"),
    )?;
    let resolve = format!("allowed.test={}", outside()?);
    let server = start(project.path(), &[("WWS_RESOLVE", &resolve)])?;
    Ok(Served { project, server })
}

fn start(project: &Path, variables: &[(&str, &str)]) -> Result<Server> {
    let mut variables = variables.to_vec();
    variables.push(("WWS_LIMITS_CPU_TIME", "2s"));
    Server::start(project, project.join("_log"), &variables)
}

impl Served {
    fn get(&self, path: &str) -> Result<http::Answer> {
        http::get(self.server.port(), path)
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<http::Answer> {
        let url = format!("http://127.0.0.1:{}{path}", self.server.port());
        http::send(Request::builder().method(method).uri(url).body(body)?)
    }

    /// The status and the text of an answer.
    fn text(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.get(path)?;
        Ok((answer.status, answer.text()))
    }

    fn connect(&self) -> Result<TcpStream> {
        connect(self.server.port())
    }

    /// What the server sends on a connection of its own until it closes it.
    fn raw(&self, request: &str) -> Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        // A connection that is reset may have been answered before.
        let read = stream.read_to_end(&mut answer);
        ensure!(read.is_ok() || !answer.is_empty(), "no answer: {read:?}");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The path fails: with an error, or so that the client sees that the body is not complete.
    fn fails(&self, path: &str) -> Result<()> {
        let answer = self.raw(&get_request(path))?;
        ensure!(!is_complete(&answer), "{path} looks complete: {answer}");
        ensure!(!answer.contains("wasm"), "{path} tells the cause: {answer}");
        Ok(())
    }
}

/// Whether a client takes an answer for a success and its body for a whole one.
fn is_complete(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let length: Option<usize> = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok());
    let whole = match length {
        Some(length) => body.len() == length,
        None => body.ends_with("0\r\n\r\n"),
    };
    whole && !head.starts_with("HTTP/1.1 5")
}

fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(patience(ANSWER)))?;
    Ok(stream)
}

/// The allowed host: `/slow` never answers, anything else is answered with method, path and length
/// of the body.
fn outside() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off sees it itself.
            thread::spawn(move || drop(answer_outside(&stream)));
        }
    });
    Ok(address)
}

fn answer_outside(stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        chunked |= line == "transfer-encoding: chunked";
    }
    if first.contains("/slow") {
        thread::sleep(Duration::from_secs(60));
    }
    if chunked {
        length = chunked_length(&mut reader)?;
    } else {
        reader.read_exact(&mut vec![0; length])?;
    }
    let request = first.rsplit_once(' ').context("a request line")?.0;
    let body = format!("{request} with {length} bytes\n");
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nx-outside: yes\r\nconnection: close\r\ncontent-length: {}\r\n\r\n\
         {body}",
        body.len()
    )?;
    Ok(())
}

/// Reads chunks and trailers.
fn chunked_length(reader: &mut impl BufRead) -> Result<usize> {
    let mut sum = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim_end(), 16)?;
        sum += length;
        if length > 0 {
            reader.read_exact(&mut vec![0; length + 2])?;
            continue;
        }
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        return Ok(sum);
    }
}

/// A stream's bytes until they contain `text`.
fn read_until(stream: &mut TcpStream, text: &str) -> Result<String> {
    let mut read = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = stream.read(&mut part)?;
        ensure!(
            length > 0,
            "closed before {text:?}: {:?}",
            String::from_utf8_lossy(&read)
        );
        read.extend_from_slice(&part[..length]);
        let so_far = String::from_utf8_lossy(&read);
        if so_far.contains(text) {
            return Ok(so_far.into_owned());
        }
    }
}

/// What both versions of the interface have in common.
fn common_features(served: &Served) -> Result<()> {
    common_features_of(served, true)
}

/// [`common_features`]. `fresh`: of instances that answer one request, so that a short response has
/// a length.
fn common_features_of(served: &Served, fresh: bool) -> Result<()> {
    ensure!(served.text("/env")? == (200, "MESSAGE=from the TOML\n".into()));
    let shown = served.get("/request?a=b")?.text();
    for line in [
        "method Method::Get\n",
        "path Some(\"/request?a=b\")\n",
        "x-wws-params: path=request\n",
    ] {
        ensure!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let forged = served.raw(
        "GET /request HTTP/1.1\r\nhost: a\r\nx-wws-params: path=forged\r\n\
        connection: close\r\n\r\n",
    )?;
    ensure!(!forged.contains("forged"), "{forged}");

    let written = served.send("PUT", "/write/data/new.txt", b"some text")?;
    ensure!((written.status, written.text()) == (201, "9 bytes\n".into()));
    ensure!(fs::read_to_string(served.project.path().join("_data/new.txt"))? == "some text");
    ensure!(served.text("/read/data/new.txt")? == (200, "some text".into()));
    ensure!(served.get("/read/etc/passwd")?.status == 404);
    ensure!(served.get("/read/data/../../etc/passwd")?.status == 404);

    let chunks = served.get("/chunks?count=100")?;
    ensure!(chunks.text().lines().count() == 100, "{}", chunks.text());
    ensure!(served.get("/chunks?count=64&bytes=65536")?.body.len() == 4 << 20);
    ensure!(served.send("POST", "/length", &vec![7; 1 << 20])?.text() == "1048576\n");

    let empty = served.get("/empty")?;
    ensure!(empty.status == 204 && empty.body.is_empty());
    for path in ["/env", "/empty", "/status/418", "/chunks?count=100"] {
        let (get, head) = (served.get(path)?, served.send("HEAD", path, b"")?);
        let headers = |answer: &http::Answer| {
            let mut headers = answer.headers.clone();
            for name in ["date", "x-request-id", "transfer-encoding"] {
                headers.remove(name);
            }
            // That of no body is not known: there may be none because of the method.
            let is_empty = answer.header("content-length") == Some("0");
            if is_empty || !fresh {
                headers.remove("content-length");
            }
            headers
        };
        ensure!(headers(&get) == headers(&head), "{path}: {get:?} {head:?}");
        ensure!(head.body.is_empty(), "{path}: {head:?}");
    }
    let length = served.send("HEAD", "/env", b"")?;
    let length = length.header("content-length");
    ensure!(length == Some("22") || !fresh && length.is_none());
    let (first, second) = (served.get("/random")?.text(), served.get("/random")?.text());
    ensure!(first.len() == 64 && first != second, "{first} {second}");

    let skip = served.server.log_length()?;
    ensure!(served.text("/print")? == (200, "printed\n".into()));
    served.server.logged(skip, "a line on stdout")?;
    served.server.logged(skip, "a line on stderr")?;

    trailers(served)?;
    streams(served)?;
    outgoing(served)?;

    for path in ["/error-code", "/trap", "/trap-after-head", "/trap-half-way"] {
        served.fails(path)?;
    }
    ensure!(served.text("/sleep?ms=1")? == (200, "slept\n".into()));
    Ok(())
}

fn trailers(served: &Served) -> Result<()> {
    let answer = served
        .raw("GET /trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n")?;
    ensure!(
        answer.contains("\r\n0\r\nx-checksum: f00d\r\n\r\n"),
        "{answer}"
    );
    let answer = served.raw(
        "POST /trailers-back HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\ntrailer: x-sent\r\n\r\n\
         5\r\nhello\r\n0\r\nx-sent: 1\r\n\r\n",
    )?;
    ensure!(answer.contains("x-sent: 1\n"), "{answer}");
    ensure!(served.send("POST", "/trailers-back", b"none")?.text() == "no trailers\n");
    Ok(())
}

/// Bytes flow as they come, in both directions.
fn streams(served: &Served) -> Result<()> {
    let mut stream = served.connect()?;
    let started = Instant::now();
    stream.write_all(get_request("/sse?count=3&ms=1500").as_bytes())?;
    let first = read_until(&mut stream, "tick 0")?;
    ensure!(!first.contains("tick 1"), "{first}");
    ensure!(first.contains("content-type: text/event-stream"), "{first}");
    read_until(&mut stream, "tick 2")?;
    ensure!(started.elapsed() >= Duration::from_millis(3000));

    let mut stream = served.connect()?;
    stream.write_all(
        b"POST /early HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\n",
    )?;
    read_until(&mut stream, "before the body\n")?;
    stream.write_all(b"hello")?;
    read_until(&mut stream, "and 5 bytes of it\n")?;
    Ok(())
}

fn outgoing(served: &Served) -> Result<()> {
    let answer = served.send(
        "POST",
        "/outgoing?url=http://allowed.test/path?a=b",
        b"hello",
    )?;
    ensure!(
        (answer.status, answer.text()) == (200, "POST /path?a=b with 5 bytes\n".into()),
        "{} {}",
        answer.status,
        answer.text()
    );
    let (status, text) = served.text("/outgoing?url=http://forbidden.test/")?;
    ensure!(
        status == 502 && text.contains("HttpRequestDenied"),
        "{status} {text}"
    );
    Ok(())
}

#[test]
fn components_of_wasi_0_2_have_every_feature() -> Result<()> {
    let served = serve("component-features")?;
    common_features(&served)?;
    ensure!(served.text("/list/data")? == (200, "new.txt".into()));
    ensure!(served.text("/status/418")? == (418, "a status\n".into()));
    ensure!(served.text("/memory?mib=16")? == (200, "16777216 bytes\n".into()));
    for path in [
        "/no-answer",
        "/exit",
        "/exit-after-head",
        "/spin",
        "/memory?mib=4000",
    ] {
        served.fails(path)?;
    }
    ensure!(served.text("/sleep?ms=1")? == (200, "slept\n".into()));
    Ok(())
}

#[test]
fn components_of_wasi_0_3_have_every_feature() -> Result<()> {
    let served = serve("component-features-p3")?;
    common_features(&served)?;
    let sent = vec![b'e'; 1 << 20];
    ensure!(served.send("POST", "/echo", &sent)?.body == sent);
    let two = served.text("/outgoing-two?url=http://allowed.test/")?;
    ensure!(two == (200, "200 19\n200 19\n".into()), "{two:?}");
    ensure!(served.text("/forgotten-trailers")? == (200, "hello".into()));
    for path in ["/half-a-body", "/length-short"] {
        served.fails(path)?;
    }
    let forbidden = served.get("/forbidden-headers")?.text();
    ensure!(forbidden.matches("Forbidden").count() == 5, "{forbidden}");
    for status in [200, 204, 304, 418, 599] {
        let answer = served.get(&format!("/status/{status}"))?;
        ensure!(
            answer.status == status && answer.body.is_empty(),
            "{status}"
        );
    }
    // What only announces an answer is none.
    for status in [100, 101, 103] {
        served.fails(&format!("/status/{status}"))?;
    }
    ensure!(served.get("/status/99")?.status == 400);
    let skip = served.server.log_length()?;
    ensure!(served.text("/after")? == (200, "answered\n".into()));
    served.server.logged(skip, "after the answer")
}

#[test]
fn corner_cases_of_the_interface_are_kept() -> Result<()> {
    let served = serve("component-corners")?;
    let forbidden = served.get("/forbidden-headers")?.text();
    for name in [
        "connection",
        "host",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    ] {
        let line = format!(
            "{name}: set Err(HeaderError::Forbidden), append Err(HeaderError::Forbidden), \
             from-list Err(HeaderError::Forbidden)"
        );
        ensure!(forbidden.contains(&line), "{name}: {forbidden}");
    }
    let bad = served.get("/bad-headers")?.text();
    ensure!(bad.matches("InvalidSyntax").count() == 7, "{bad}");
    let immutable = served.get("/immutable-headers")?.text();
    ensure!(
        immutable.contains("request: append Err(HeaderError::Immutable)"),
        "{immutable}"
    );
    let repeated = served.get("/repeated-headers")?;
    ensure!(repeated.headers.get_all("set-cookie").iter().count() == 2);
    ensure!(repeated.headers.get("x-bytes").context("x-bytes")? == &b"\xe9t\xe9"[..]);

    let statuses = served.get("/statuses")?.text();
    let taken: Vec<_> = statuses
        .lines()
        .filter_map(|line| line.strip_suffix(" true"))
        .collect();
    ensure!(
        taken
            == [
                "100", "101", "103", "199", "200", "299", "599", "600", "999"
            ],
        "{statuses}"
    );
    ensure!(served.get("/status-only?status=304")?.status == 304);
    // An answer that only announces one is none.
    for status in [100, 101, 103] {
        served.fails(&format!("/status-only?status={status}"))?;
    }
    let many = served.get("/many-headers?count=100&bytes=10")?;
    ensure!(many.status == 200 && many.header("x-99") == Some("vvvvvvvvvv"));
    let only = served.raw(
        "GET /trailers-only HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n",
    )?;
    ensure!(only.ends_with("\r\n0\r\nx-only: 1\r\n\r\n"), "{only}");
    for path in ["/no-body", "/trailers-only"] {
        let skip = served.server.log_length()?;
        let answer = served.get(path)?;
        ensure!(answer.status == 200 && answer.body.is_empty(), "{path}");
        served.server.logged(skip, &format!("path=\"{path}\""))?;
        let log = fs::read_to_string(served.project.path().join("_log"))?;
        let line = log.lines().find(|line| line.contains(path));
        let line = line.context("a line of the access log")?;
        ensure!(!line.contains("aborted_by"), "{line}");
    }
    let head = served.raw("HEAD /body-of-head HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    ensure!(
        head.contains("content-length: 5\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let trailers = served
        .raw("GET /trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n")?;
    ensure!(trailers.contains("\r\n0\r\nx-a: 1\r\n"), "{trailers}");

    // No trailer may be a field that is about the message itself.
    let bad_trailers = served.raw(
        "GET /bad-trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n",
    )?;
    let (_, end) = bad_trailers.split_once("\r\n0\r\n").context("an end")?;
    ensure!(end == "\r\n", "{bad_trailers}");

    ensure!(served.send("POST", "/ignore", &vec![0; 1 << 20])?.text() == "not read\n");
    let skip = served.server.log_length()?;
    ensure!(served.send("POST", "/early", b"hello")?.text() == "answered first\n");
    served
        .server
        .logged(skip, "read 5 bytes after the answer")?;
    let dropped = served.send("POST", "/drop-stream", b"hello")?.text();
    ensure!(
        dropped == "read Ok(1), a second stream false\n",
        "{dropped}"
    );
    ensure!(served.send("POST", "/late?ms=10", b"hello")?.text() == "Ok(5)\n");
    ensure!(served.send("POST", "/drop-request-body", b"hello")?.text() == "dropped\n");
    ensure!(
        served
            .send("POST", "/read-for-ever", &vec![0; 1 << 20])?
            .text()
            == "1048576\n"
    );
    ensure!(served.text("/stdin")? == (200, "Ok(0)\n".into()));

    let two = served.text("/outgoing-two?url=http://allowed.test/")?;
    ensure!(two == (200, "200 Ok(22)\n200 Ok(22)\n".into()), "{two:?}");
    let plain = served.text("/outgoing?url=http://allowed.test/")?;
    ensure!(plain == (200, "200 Ok(19)\n".into()), "{plain:?}");
    let trailers = served.text("/outgoing-trailers?url=http://allowed.test/")?;
    ensure!(
        trailers == (200, "Ok(21) Ok(None)\n".into()),
        "{trailers:?}"
    );
    for path in ["/outgoing-unsent", "/outgoing-length"] {
        let failed = served.text(&format!("{path}?url=http://allowed.test/"))?;
        ensure!(
            failed.0 == 200 && !failed.1.contains("200 Ok"),
            "{failed:?}"
        );
    }
    for path in ["/outgoing-unread", "/outgoing-dropped", "/outgoing-bad"] {
        ensure!(
            served
                .get(&format!("{path}?url=http://allowed.test/"))?
                .status
                == 200,
            "{path}"
        );
    }
    let late = served
        .get("/outgoing-time?ms=200&url=http://allowed.test/slow")?
        .text();
    ensure!(late.contains("Timeout"), "{late}");
    let skip = served.server.log_length()?;
    ensure!(served.text("/outgoing-after?url=http://allowed.test/")? == (200, "answered\n".into()));
    served.server.logged(skip, "after the answer: 200 Ok(19)")?;

    let sockets = served.get("/sockets")?.text();
    ensure!(sockets.matches("access-denied").count() == 4, "{sockets}");
    Ok(())
}

#[test]
fn components_that_misbehave_fail_alone() -> Result<()> {
    let served = serve("component-corners")?;
    for path in [
        "/unfinished-body",
        "/half-a-body",
        "/length-short",
        "/length-long",
        "/length-bad",
        "/many-headers?count=1000",
        "/drop-outparam",
        "/forget-outparam",
        "/trap-after?bytes=100000",
        "/finish-early",
        "/write-too-much",
        "/write-unasked",
        "/empty-poll",
        "/no-resource",
        "/leak?what=fields",
        "/leak?what=pollables",
        "/leak?what=requests",
        "/leak?what=options",
        "/leak?what=headers",
        "/leak?what=streams",
        "/spin-after-head",
        "/stack",
    ] {
        served.fails(path)?;
        ensure!(
            served.text("/ignore")? == (200, "not read\n".into()),
            "after {path}"
        );
    }
    let many = served.get("/outgoing-many?count=1000&url=http://allowed.test/")?;
    // More than `limits.http_calls` are refused.
    ensure!(
        many.text()
            .contains("failed ErrorCode::ConnectionLimitReached"),
        "{}",
        many.text()
    );

    slow_clients(&served, "/flood", "/read-for-ever", "/ignore")
}

#[test]
fn components_of_wasi_0_3_that_misbehave_fail_alone() -> Result<()> {
    let limits = "[limits]\nwall_time = \"3s\"\nstream_idle = \"3s\"\n";
    let served = serve_with("component-features-p3", limits)?;
    for path in [
        "/half-a-body",
        "/length-short",
        "/length-long",
        "/trap-after?bytes=100000",
        "/hang",
        "/spin",
        "/stack",
        "/leak?what=fields",
        "/leak?what=requests",
        "/leak?what=options",
        "/leak?what=streams",
        "/leak?what=futures",
    ] {
        served.fails(path)?;
        ensure!(
            served.text("/sleep?ms=1")? == (200, "slept\n".into()),
            "after {path}"
        );
    }
    drop(served);
    let served = serve("component-features-p3")?;
    let many = served.get("/outgoing-many?count=1000&url=http://allowed.test/")?;
    ensure!(
        many.text().starts_with("answered 50, failed"),
        "{}",
        many.text()
    );
    slow_clients(&served, "/flood", "/length", "/sleep?ms=1")
}

/// A client that takes little of a flood, and one that does not end its body, keep nobody waiting,
/// and leave.
fn slow_clients(served: &Served, flood: &str, reads: &str, other: &str) -> Result<()> {
    let mut flooded = served.connect()?;
    flooded.write_all(get_request(flood).as_bytes())?;
    flooded.read_exact(&mut vec![0; 1 << 20])?;
    let mut slow = served.connect()?;
    let half = format!("POST {reads} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhello");
    slow.write_all(half.as_bytes())?;
    ensure!(served.get(other)?.status == 200);
    flooded.shutdown(Shutdown::Both)?;
    slow.shutdown(Shutdown::Both)?;
    drop((flooded, slow));
    ensure!(served.get(other)?.status == 200);
    Ok(())
}

#[test]
fn instances_of_wasi_0_3_are_reused_if_that_is_asked_for() -> Result<()> {
    let fresh = serve("component-features-p3")?;
    for _ in 0..3 {
        ensure!(fresh.get("/count")?.text() == "1\n");
    }
    drop(fresh);
    let served = serve_with("component-features-p3", "[instances]\nreuse = 3\n")?;
    // Whether an instance has ended its call when the next comes is the server's affair: there may
    // be several, each of which counts to three.
    let count = || -> Result<usize> { Ok(served.get("/count")?.text().trim().parse()?) };
    let mut seen = [0; 4];
    let started = Instant::now();
    while seen[3] == 0 {
        let next = count()?;
        ensure!((1..=3).contains(&next), "the request {next} of an instance");
        seen[next] += 1;
        ensure!(next == 1 || seen[next] <= seen[next - 1], "{seen:?}");
        ensure!(
            started.elapsed() < patience(ANSWER),
            "no instance is reused: {seen:?}"
        );
    }
    for path in ["/trap", "/trap-half-way", "/stack"] {
        served.fails(path)?;
        ensure!(count()? <= 3, "after {path}");
    }
    Ok(())
}

/// What a thread has returned.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Instances that answer up to eight requests at once.
const AT_ONCE: &str = "[instances]\nreuse = 1000\nconcurrent = 8\n";

#[test]
fn instances_that_answer_several_requests_at_once_have_every_feature() -> Result<()> {
    let served = serve_with("component-features-p3", AT_ONCE)?;
    common_features_of(&served, false)?;
    let sent = vec![b'e'; 1 << 20];
    ensure!(served.send("POST", "/echo", &sent)?.body == sent);
    for path in ["/half-a-body", "/length-short", "/length-long"] {
        served.fails(path)?;
    }
    let skip = served.server.log_length()?;
    ensure!(served.text("/after")? == (200, "answered\n".into()));
    served.server.logged(skip, "after the answer")?;
    let many = served.get("/outgoing-many?count=1000&url=http://allowed.test/")?;
    let many = many.text();
    let answered = many
        .strip_prefix("answered ")
        .and_then(|rest| rest.split_once(','));
    let (answered, _) = answered.with_context(|| many.clone())?;
    ensure!(answered.parse::<u32>()? <= 50, "{many}");
    slow_clients(&served, "/flood", "/length", "/sleep?ms=1")
}

#[test]
fn requests_of_one_instance_run_at_once() -> Result<()> {
    let served = serve_with("component-features-p3", AT_ONCE)?;
    let open = || -> Result<TcpStream> {
        let mut events = served.connect()?;
        events.write_all(get_request("/sse?count=1000&ms=100").as_bytes())?;
        read_until(&mut events, "tick 0")?;
        Ok(events)
    };
    let mut all_events = vec![open()?];
    thread::scope(|scope| {
        let all: Vec<_> = (0..7)
            .map(|_| scope.spawn(|| served.text("/together?count=7")))
            .collect();
        for one in all {
            let text = joined(one)?;
            ensure!(text == (200, "7 at once\n".into()), "{text:?}");
        }
        Ok(())
    })?;
    ensure!(served.get("/count")?.text() == "1\n");
    // The instance is full, and the next request has another one.
    for _ in 0..7 {
        all_events.push(open()?);
    }
    ensure!(served.get("/count")?.text() == "1\n");
    for mut events in all_events {
        read_until(&mut events, "tick")?;
    }
    drop(served);
    // No more than `reuse` in the life of an instance.
    let few = "[instances]\nreuse = 3\nconcurrent = 3\n";
    let served = serve_with("component-features-p3", few)?;
    let mut open = Vec::new();
    for _ in 0..7 {
        let mut stream = served.connect()?;
        stream.write_all(get_request("/watch").as_bytes())?;
        read_until(&mut stream, "data: open")?;
        open.push(stream);
    }
    // The third instance has one of them.
    ensure!(served.get("/count")?.text() == "1\n");
    ensure!(served.get("/count")?.text() == "2\n");
    ensure!(served.get("/count")?.text() == "1\n");
    Ok(())
}

#[test]
fn requests_of_one_instance_fail_together() -> Result<()> {
    let limits = "[limits]\ncpu_time = \"1s\"\n";
    let served = serve_with("component-features-p3", &format!("{limits}{AT_ONCE}"))?;
    for path in [
        "/trap",
        "/trap-half-way",
        "/spin",
        "/stack",
        "/leak?what=streams",
    ] {
        ensure!(served.get("/count")?.text() == "1\n", "before {path}");
        let mut events = served.connect()?;
        events.write_all(get_request("/sse?count=1000&ms=50").as_bytes())?;
        read_until(&mut events, "tick 1")?;
        thread::scope(|scope| {
            let sleeps = scope.spawn(|| served.raw(&get_request("/sleep?ms=60000")));
            let uploads = scope.spawn(|| {
                served.raw("POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf")
            });
            thread::sleep(Duration::from_millis(200));
            served.fails(path)?;
            for other in [sleeps, uploads] {
                let answer = joined(other)?;
                ensure!(answer.starts_with("HTTP/1.1 5"), "{path}: {answer}");
            }
            Ok(())
        })?;
        let mut rest = Vec::new();
        // Reset, or closed without an end.
        let _ = events.read_to_end(&mut rest);
        ensure!(
            !rest.ends_with(b"0\r\n\r\n"),
            "{path}: the events have ended"
        );
    }
    Ok(())
}

#[test]
fn a_client_that_leaves_a_shared_instance_ends_its_own_request() -> Result<()> {
    let limits = "[limits]\nwall_time = \"1s\"\n";
    let served = serve_with("component-features-p3", &format!("{limits}{AT_ONCE}"))?;
    let mut events = served.connect()?;
    events.write_all(get_request("/sse?count=60&ms=100").as_bytes())?;
    read_until(&mut events, "tick 1")?;
    ensure!(served.get("/count")?.text() == "1\n");
    // With a stream, an upload, and before an answer.
    for request in [
        get_request("/sse?count=1000&ms=50"),
        get_request("/flood"),
        "POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhello".into(),
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhello".into(),
        get_request("/sleep?ms=300"),
    ] {
        let mut leaves = served.connect()?;
        leaves.write_all(request.as_bytes())?;
        thread::sleep(Duration::from_millis(100));
        leaves.shutdown(Shutdown::Both)?;
    }
    thread::sleep(Duration::from_millis(500));
    ensure!(served.get("/count")?.text() == "2\n", "it goes on");
    // One that does not end: no request joins the instance any more, and the others end well.
    let late = served.get("/hang")?;
    ensure!(late.status == 504, "{late:?}");
    until("a new instance", ANSWER, || {
        Ok((served.get("/count")?.text() == "1\n").then_some(()))
    })?;
    let rest = read_until(&mut events, "0\r\n\r\n")?;
    ensure!(rest.contains("tick 59"), "{rest}");
    Ok(())
}

#[test]
fn shared_instances_may_end_within_the_grace_period() -> Result<()> {
    let served = serve_with("component-features-p3", AT_ONCE)?;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = served.connect()?;
        stream.write_all(get_request("/sse?count=20&ms=100").as_bytes())?;
        read_until(&mut stream, "tick 0")?;
        streams.push(stream);
    }
    kill_process(served.server.pid(), Signal::TERM)?;
    for mut stream in streams {
        let rest = read_until(&mut stream, "0\r\n\r\n")?;
        ensure!(rest.contains("tick 19"), "{rest}");
    }
    Ok(())
}

#[test]
fn an_echo_is_what_was_sent() -> Result<()> {
    let served = serve("component-echo")?;
    let sent: Vec<u8> = (0..250_000_u32).flat_map(u32::to_le_bytes).collect();
    for path in ["/", "/?by=splice"] {
        let back = served.send("POST", path, &sent)?;
        let (status, length) = (back.status, back.body.len());
        ensure!(back.body == sent, "{path}: {status} with {length} bytes");
        ensure!(served.send("POST", path, b"")?.body.is_empty(), "{path}");
    }
    Ok(())
}

#[test]
fn a_command_component_speaks_the_json_protocol() -> Result<()> {
    let served = serve("component-command")?;
    let answer = served.send("POST", "/some/path?a=b", b"hello")?;
    let text = answer.text();
    ensure!(
        answer.status == 200 && answer.header("x-component") == Some("command"),
        "{text}"
    );
    ensure!(
        text.starts_with("POST http://") && text.contains("/some/path?a=b body=hello"),
        "{text}"
    );
    ensure!(text.contains("message=from the TOML"), "{text}");
    Ok(())
}

/// Of `images/components`, as its image has them.
#[test]
fn the_examples_in_rust_work() -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::create_dir(project.path().join("uploads"))?;
    for name in ["clock", "upload"] {
        let guest = workspace::guest(&format!("component-{name}"))?;
        fs::copy(guest, project.path().join(format!("{name}.wasm")))?;
    }
    let settings = workspace::root().join("images/components/root/upload.toml");
    fs::copy(settings, project.path().join("upload.toml"))?;
    let server = start(project.path(), &[])?;
    let (project, port) = (project.path(), server.port());

    let clock = http::get(port, "/clock?count=2")?;
    ensure!(
        clock.text().matches("data: ").count() == 2,
        "{}",
        clock.text()
    );
    ensure!(clock.header("content-type") == Some("text/event-stream"));

    let url = format!("http://127.0.0.1:{port}/upload?name=photo.jpg");
    let photo = vec![9; 2 << 20];
    ensure!(http::send(Request::put(&url).body(&photo[..])?)?.text() == "2097152 bytes\n");
    ensure!(fs::read(project.join("uploads/photo.jpg"))? == photo);
    ensure!(http::get(port, "/upload")?.text() == "photo.jpg\n");
    ensure!(http::get(port, "/upload?name=photo.jpg")?.body == photo);
    ensure!(http::get(port, "/upload?name=../clock.wasm")?.status == 400);

    // Half an upload leaves nothing behind that is listed.
    let mut broken = connect(port)?;
    broken.write_all(
        b"PUT /upload?name=half HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhello",
    )?;
    drop(broken);
    thread::sleep(Duration::from_millis(300));
    ensure!(http::get(port, "/upload")?.text() == "photo.jpg\n");
    Ok(())
}

/// Of `images/components`, as `make components` leaves them.
#[test]
#[ignore = "make components"]
fn components_of_other_toolchains_work() -> Result<()> {
    for name in ["javascript", "python", "c", "go"] {
        let served = serve(&format!("component-{name}"))?;
        let hello = served.get("/any/hello")?.text();
        ensure!(hello.starts_with("Hello from a "), "{name}: {hello}");
        let sent = vec![b'e'; 1 << 20];
        let back = served.send("POST", "/any/echo", &sent)?;
        ensure!(back.body == sent, "{name}: {} bytes", back.body.len());
        if matches!(name, "javascript" | "python") {
            let mut stream = served.connect()?;
            stream.write_all(get_request("/any/clock?count=3&ms=300").as_bytes())?;
            let first = read_until(&mut stream, "id: 0")?;
            ensure!(!first.contains("id: 1"), "{name}: {first}");
            read_until(&mut stream, "id: 2")?;
        }
    }
    Ok(())
}
