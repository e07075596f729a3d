//! Bad workers and bad clients, while good ones are served by the same container.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wws_test::container::{self, Container, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::wait::patience;
use wws_test::{http, wait};

/// So little memory that it is gone within the CPU time also on a virtual machine whose host has to
/// find each page first.
const LIMITS: &str = "[limits]\nmemory = \"32MiB\"\ncpu_time = \"200ms\"\nwall_time = \"8s\"\n";

fn start(containerd: &Containerd) -> Result<Container<'_>> {
    let toml = format!("name = \"bad\"\nversion = \"1\"\n{LIMITS}");
    let image = Image::probe("company", "")?
        .guest("bad", "bad.wasm")?
        .file("bad.toml", toml)?
        .import(containerd)?;
    let mut container = Run::workers(containerd, &image, "company")?
        .env("WWS_HEADER_TIMEOUT", "2s")
        .start()?;
    container.wait_until_up()?;
    Ok(container)
}

/// Asks the good worker again and again until `over`; how long each answer took, all of them good.
fn good_answers(port: u16, over: &AtomicBool) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let from = Instant::now();
        let answer = http::get(port, &format!("{PROBE}?log=good"))?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        times.push(from.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
    times.sort();
    Ok(times)
}

/// Runs `bad` while good requests are answered, and prints how that went.
fn beside_good_ones(port: u16, what: &str, bad: impl FnOnce() -> Result<()>) -> Result<()> {
    // Also when `bad` panics: the scope waits for the good client.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let good = scope.spawn(|| good_answers(port, &over));
        let at_end = Over(&over);
        let result = bad();
        drop(at_end);
        let times = good.join().ok().context("the good client panicked")??;
        let p99 = times[times.len().saturating_sub(1) * 99 / 100];
        println!(
            "{what}: {} good answers meanwhile, p99 {p99:?}",
            times.len()
        );
        assert!(
            p99 < patience(Duration::from_secs(3)),
            "{what}: p99 {p99:?}"
        );
        result
    })
}

#[test]
fn misbehaving_workers_fail_alone() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let container = start(&containerd)?;
    let port = container.port();
    // What it does, and what the log says of it.
    let fatal = [
        ("loop", "limits.cpu_time"),
        ("sleep", "limits.wall_time"),
        ("memory", "limits.memory"),
        // Rust's guests keep a stack of their own in memory, below everything else: that ends
        // first.
        ("stack", "out of bounds memory access"),
        ("stdout", "limits.output"),
        ("nothing", ""),
        ("text", ""),
        ("half", ""),
        ("two", ""),
        ("status=99999", "99999"),
        ("base64", "base64"),
        ("type", ""),
        ("trap", "unreachable"),
        ("panic", "a panic of a worker"),
        ("exit=3", "3"),
    ];
    beside_good_ones(port, "bad workers", || {
        for (deed, cause) in fatal {
            let answer = http::get(port, &format!("/bad?{deed}"))?;
            assert!(
                (500..=504).contains(&answer.status),
                "{deed}: {} {}",
                answer.status,
                answer.text()
            );
            let id = answer.header("x-request-id").context("no id")?;
            let id = format!("request_id=\"{id}\"");
            let cause_told = answer.text().contains("limits.") || answer.text().contains("panic");
            assert!(
                !cause_told,
                "{deed}: causes are the operator's: {}",
                answer.text()
            );
            // The answer may come before the line is written.
            let found = wait::until("the cause in the log", container::LIMIT, || {
                let of_request = |line: &&str| line.contains(&id);
                let log = container.log()?;
                let lines = log.lines().filter(of_request).collect::<Vec<_>>();
                Ok(Some(lines.join("\n")).filter(|lines| lines.contains(cause)))
            });
            let log = container.log()?;
            let lines: Vec<_> = log.lines().filter(|line| line.contains(&id)).collect();
            found.with_context(|| format!("{deed}: `{cause}` in {lines:#?}"))?;
        }
        Ok(())
    })?;
    beside_good_ones(port, "4 at once", || {
        let deeds = ["loop", "memory", "stdout", "stderr"];
        thread::scope(|scope| {
            for deed in deeds {
                scope.spawn(move || http::get(port, &format!("/bad?{deed}")));
            }
        });
        Ok(())
    })?;
    Ok(())
}

#[test]
fn headers_of_workers_cannot_break_an_answer() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let container = start(&containerd)?;
    for deed in [
        "header-break",
        "header-name",
        "header-zero",
        "framing",
        "headers=5000",
    ] {
        let request = format!("GET /bad?{deed} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = raw(container.port(), request.as_bytes())?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        assert!(head.starts_with("HTTP/1.1 "), "{deed}: {head}");
        assert!(
            !head.to_lowercase().contains("\nx-injected"),
            "{deed}: {head}"
        );
        assert!(
            !head.to_lowercase().contains("upgrade: h2c"),
            "{deed}: {head}"
        );
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
        if let Some(length) = length {
            assert_eq!(
                length.trim().parse::<usize>()?,
                body.len(),
                "{deed}: {head}"
            );
        }
    }
    Ok(())
}

fn raw(port: u16, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn misbehaving_clients_fail_alone() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let container = start(&containerd)?;
    let port = container.port();
    beside_good_ones(port, "bad clients", || {
        let both = b"POST /probe HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\
            transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let answer = raw(port, both)?;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "both lengths: {answer}"
        );

        let answer = raw(
            port,
            b"POST /probe HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n",
        )?;
        assert!(answer.starts_with("HTTP/1.1 413 "), "100 MiB: {answer}");

        // A header a second: cut off by the time limit, not by the client's end.
        let from = Instant::now();
        let mut slow = TcpStream::connect(("127.0.0.1", port))?;
        slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n")?;
        let mut cut = false;
        for count in 0..10 {
            thread::sleep(Duration::from_secs(1));
            if slow
                .write_all(format!("x-{count}: y\r\n").as_bytes())
                .is_err()
            {
                cut = true;
                break;
            }
        }
        assert!(
            cut && from.elapsed() < patience(Duration::from_secs(7)),
            "{:?}",
            from.elapsed()
        );

        // Hangs up in the middle of a body.
        for _ in 0..20 {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(
                b"POST /probe HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nhalf a",
            )?;
        }
        Ok(())
    })
}
