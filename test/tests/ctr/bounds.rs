//! Clients and guests that try to use up a small container: it is never killed, and goes on
//! answering others.
//!
//! Each attack was seen to kill the server of an earlier version, or to keep everybody else
//! waiting.

mod components;
mod modules;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use wws_test::container::{Container, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::wait::patience;

/// What an attack is on.
#[derive(Clone, Copy)]
struct Target {
    /// Of the container's server.
    port: u16,
    /// Of a server whose answers are large.
    answers: u16,
    /// How long the attack goes on.
    time: Duration,
}

type Attack = fn(Target);

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
fn flood(target: Target, connections: usize, path: &str, body: &[u8]) {
    let (port, end) = (target.port, Instant::now() + target.time);
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
fn unfinished_heads(target: Target) {
    let head = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(63 << 10));
    let mut open = Vec::new();
    let end = Instant::now() + target.time;
    while open.len() < 5000 && Instant::now() < end {
        let Ok(mut stream) = connect(target.port) else {
            break;
        };
        if stream.set_nonblocking(true).is_ok() {
            let _ = stream.write(head.as_bytes());
            open.push(stream);
        }
    }
    thread::sleep(end.saturating_duration_since(Instant::now()));
}

/// So many clients that take one byte now and then of an answer.
fn slow_readers(target: Target, count: usize, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let open = (0..count).filter_map(|_| begun(target.port, request.as_bytes()));
    let mut open: Vec<_> = open.collect();
    let end = Instant::now() + target.time;
    while Instant::now() < end {
        for stream in &mut open {
            let _ = stream.read(&mut [0]);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// So many clients that send the same bytes, and then nothing.
fn silent_senders(target: Target, count: usize, bytes: &[u8]) {
    let end = Instant::now() + target.time;
    let open: Vec<_> = (0..count)
        .filter_map(|_| begun(target.port, bytes))
        .collect();
    thread::sleep(end.saturating_duration_since(Instant::now()));
    drop(open);
}

/// A connection on which as much was sent as the server takes at once.
fn begun(port: u16, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = connect(port).ok()?;
    stream.set_nonblocking(true).ok()?;
    let _ = stream.write(bytes).ok()?;
    Some(stream)
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

#[test]
fn small_containers_survive_every_attack_and_go_on_answering() -> Result<()> {
    survive("bounds", modules::image, &modules::ATTACKS, 3)
}

#[test]
fn small_containers_survive_attacks_of_components_and_streams() -> Result<()> {
    survive("streams", components::image, &components::ATTACKS, 1)
}

/// What a server holds besides the memory that is set, in MiB: what it held when nothing happened,
/// and the accounting test's constant.
const NOT_COUNTED: u64 = 48;

#[test]
fn memory_that_is_set_holds_in_a_container_that_has_more() -> Result<()> {
    let containerd = Containerd::start_sharing_code(Version::MAIN)?;
    let image = modules::image_of_large_modules(&containerd)?;
    for (index, (name, mebibytes, attack)) in modules::ON_SET_MEMORY.iter().enumerate() {
        let mut container = Run::workers(&containerd, &image, &format!("set-{index}"))?
            .options(&["--memory-limit", &(8u64 << 30).to_string()])
            .env("WWS_MEMORY", &format!("{mebibytes}MiB"))
            .env("WWS_CONCURRENCY", "64")
            .env("WWS_ACCESS_LOG", "false")
            .start()?;
        container.wait_until_up()?;
        let (pid, port) = (container.pid()?, container.port());
        ensure!(
            ask(port, "/hello", b"") == Some(200),
            "{}",
            container.log()?
        );
        let before = held(pid);
        let target = Target {
            port,
            answers: 1,
            time: Duration::from_secs(5),
        };
        let (result, mut good) = watched(pid, port, || attack(target));
        println!(
            "{mebibytes:>4} MiB  {name:<42} p99 {:>7.1} ms, {before:>3} -> {:>3} MiB",
            good.p99(),
            good.held
        );
        result.with_context(|| format!("{name}\n{}", container.log().unwrap_or_default()))?;
        ensure!(
            good.held <= before + mebibytes + NOT_COUNTED,
            "{name}: {before} -> {} MiB",
            good.held
        );
        answers_again(port).context(*name)?;
        container.signal("SIGKILL")?;
        container.wait()?;
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

/// What an attack held is free again.
fn answers_again(port: u16) -> Result<()> {
    let deadline = Instant::now() + patience(Duration::from_secs(20));
    while ask(port, "/hello", b"") != Some(200) {
        ensure!(Instant::now() < deadline, "no answer 20 s after the attack");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Asks the good worker as long as `run` runs.
fn watched<T>(pid: Pid, port: u16, run: impl FnOnce() -> T) -> (T, Good) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let good = scope.spawn(|| watch(pid, port, &stop));
        let result = run();
        stop.store(true, Ordering::Relaxed);
        (result, good.join().unwrap_or_default())
    })
}

/// Containers of an image survive one attack after another, each of so many seconds.
fn survive(
    name: &str,
    image: fn(&Containerd, u16) -> Result<String>,
    attacks: &[(&str, Attack)],
    seconds: u64,
) -> Result<()> {
    let containerd = Containerd::start_sharing_code(Version::MAIN)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let answers = listener.local_addr()?.port();
    let image = image(&containerd, answers)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| big_answers(&stop, &listener));
        let result = [64u64, 128, 256].into_iter().try_for_each(|mebibytes| {
            let limit = (mebibytes << 20).to_string();
            let name = format!("{name}-{mebibytes}");
            let container = Run::workers(&containerd, &image, &name)?
                .options(&["--memory-limit", &limit])
                .env("WWS_ACCESS_LOG", "false")
                .start()?;
            let target = Target {
                port: container.port(),
                answers,
                time: Duration::from_secs(seconds),
            };
            attack_all(container, target, attacks, mebibytes)
        });
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn attack_all(
    mut container: Container<'_>,
    target: Target,
    attacks: &[(&str, Attack)],
    mebibytes: u64,
) -> Result<()> {
    container.wait_until_up()?;
    let (pid, port) = (container.pid()?, target.port);
    let ((), mut alone) = watched(pid, port, || thread::sleep(Duration::from_secs(2)));
    let alone = alone.p99();
    for (name, attack) in attacks {
        let before = held(pid);
        let ((), mut good) = watched(pid, port, || attack(target));
        let (p99, answered) = (good.p99(), good.times.len());
        println!(
            "{mebibytes:>4} MiB  {name:<42} p99 {alone:>6.1} -> {p99:>7.1} ms, {answered:>3} \
             answered, {:>3} refused, {before:>3} -> {:>3} MiB",
            good.refused, good.held
        );
        ensure!(
            container.pid().ok() == Some(pid),
            "{name}: the server of a container of {mebibytes} MiB was killed\n{}",
            container.log()?
        );
        answers_again(port).with_context(|| format!("{name}, {mebibytes} MiB"))?;
    }
    container.signal("SIGKILL")?;
    container.wait()?;
    container.remove()
}
