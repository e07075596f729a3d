//! What components do: what the interface offers, and its corner cases.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wws_test::http;

use crate::served::{Served, get_request, read_until, serve};

/// What both versions of the interface have in common.
fn common_features(served: &Served) -> Result<()> {
    common_features_of(served, true)
}

/// [`common_features`]. `fresh`: of instances that answer one request, so that a short response has
/// a length.
pub(crate) fn common_features_of(served: &Served, fresh: bool) -> Result<()> {
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
