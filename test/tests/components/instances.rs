//! Instances that answer several requests, one after the other and at once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Signal, kill_process};
use wws_test::wait::{patience, until};

use crate::failures::slow_clients;
use crate::features::common_features_of;
use crate::served::{ANSWER, get_request, read_until, serve, serve_with};

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
