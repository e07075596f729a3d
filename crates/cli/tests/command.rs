//! The command as people and containers run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "{\22data\22:\22hello\22}")
  (func (export "_start")
    SLEEP
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

fn hello(milliseconds: u64) -> Vec<u8> {
    let sleep = format!(
        "(i32.store (i32.const 112) (i32.const 1)) (i64.store (i32.const 120) (i64.const {}))
         (drop (call $poll (i32.const 96) (i32.const 200) (i32.const 1) (i32.const 300)))",
        milliseconds * 1_000_000
    );
    wat::parse_str(HELLO.replace("SLEEP", &sleep)).unwrap()
}

fn project(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn wws(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
    command.args(args).arg(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WWS_")) {
        command.env_remove(name);
    }
    command.env("WWS_STORE", "");
    command
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A server, and the rest of its log.
struct Served {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Served {
    #[allow(clippy::zombie_processes, reason = "`drop` waits")]
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some((_, rest)) = line.split_once("listening on http://") {
                let address = rest.split([' ', '"']).next().unwrap().to_owned();
                return Self {
                    child,
                    address,
                    log,
                };
            }
        }
    }

    fn send(&self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .write_all(b"GET /w HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .unwrap();
        stream
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn check_prints_the_routes() {
    let folder = project(&[("w.wasm", &hello(0)), ("[id].wasm", &hello(0))]);
    let (code, out, err) = text(&wws(&["check"], folder.path()).output().unwrap());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1..],
        [
            vec!["/[id]", "wasm", "[id].wasm", "new"],
            vec!["/w", "wasm", "w.wasm", "new"]
        ]
    );
}

#[test]
fn check_prints_all_problems() {
    let folder = project(&[("a.wasm", b"no"), ("b.wasm", b"no"), ("c.wasm", &hello(0))]);
    let (code, out, err) = text(&wws(&["check"], folder.path()).output().unwrap());
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.contains("a.wasm: not WebAssembly") && err.contains("b.wasm: not WebAssembly"),
        "{err}"
    );
}

#[test]
fn a_project_that_does_not_load_has_its_code_and_its_problems_last() {
    let bad_toml = project(&[
        ("w.wasm", &hello(0)),
        ("w.toml", b"version = \"1\"\nnope = 1\n"),
    ]);
    let bad_wasm = project(&[("w.wasm", b"no")]);
    for (folder, last) in [
        (&bad_toml, "w.toml:2:1"),
        (&bad_wasm, "w.wasm: not WebAssembly"),
    ] {
        for args in [&["serve-container"][..], &["-p", "0"]] {
            let (code, _, err) = text(&wws(args, folder.path()).output().unwrap());
            assert_eq!(code, Some(78), "{err}");
            let lines: Vec<&str> = err.lines().collect();
            assert!(
                lines
                    .iter()
                    .rev()
                    .take(2)
                    .any(|line| line.starts_with(last)),
                "{err}"
            );
        }
    }
}

#[test]
fn what_is_in_flight_ends_after_a_signal() {
    let folder = project(&[("w.wasm", &hello(700))]);
    for signal in [Signal::TERM, Signal::INT] {
        let served = Served::start(wws(&["--port", "0"], folder.path()));
        let stream = served.send();
        std::thread::sleep(Duration::from_millis(200));
        served.signal(signal);
        assert!(answer(stream).ends_with("hello"));
        let (code, log) = served.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopped"), "{log}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = project(&[("w.wasm", &hello(20_000))]);
    let served = Served::start(wws(&["--port", "0"], folder.path()));
    let _stream = served.send();
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    served.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(128 + 15));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_container_takes_its_settings_from_the_environment() {
    let folder = project(&[("w.wasm", &hello(0))]);
    let mut command = wws(&["serve-container"], folder.path());
    command.envs([
        ("WWS_PORT", "0"),
        ("WWS_HOST", "127.0.0.1"),
        ("WWS_LOG_FORMAT", "json"),
    ]);
    let served = Served::start(command);
    assert!(answer(served.send()).ends_with("hello"));
    served.signal(Signal::TERM);
    let (code, log) = served.end();
    assert_eq!(code, Some(0));
    let access = log
        .lines()
        .find(|line| line.contains("\"target\":\"access\""))
        .expect(&log);
    for part in ["\"status\":200", "\"path\":\"/w\"", "\"worker\":\"w.wasm\""] {
        assert!(access.contains(part), "{access}");
    }
}

#[test]
fn a_port_in_use_is_said() {
    let folder = project(&[("w.wasm", &hello(0))]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, err) = text(&wws(&["--port", &port], folder.path()).output().unwrap());
    assert_eq!(code, Some(1));
    assert!(
        err.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{err}"
    );
}

#[test]
fn the_health_of_a_server_is_told_by_the_exit_code() {
    let folder = project(&[("w.wasm", &hello(0))]);
    let served = Served::start(wws(&["--port", "0"], folder.path()));
    let port = served.address.rsplit(':').next().unwrap().to_owned();
    let ask = |args: &[&str], port: &str| {
        let args = [&["health"], args].concat();
        text(
            &wws(&args, folder.path())
                .env("WWS_PORT", port)
                .output()
                .unwrap(),
        )
    };
    // Nothing is there: an answer all the same.
    let (code, said, _) = ask(&[], &port);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("/: 404\n"), "{said}");
    assert_eq!(ask(&["--request=/w"], &port).0, Some(0));
    let (code, _, said) = ask(&["--request=no path"], &port);
    assert!(code == Some(1) && said.contains("must begin"), "{said}");
    served.signal(Signal::STOP);
    let (code, _, said) = ask(&["--timeout=1"], &port);
    assert!(code == Some(1) && said.contains("within 1 s"), "{said}");
    served.signal(Signal::CONT);
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
    let (code, _, said) = ask(&[], &port);
    assert!(code == Some(1) && said.contains("refused"), "{said}");
}
