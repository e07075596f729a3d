//! `wws dev` as a developer sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

/// Answers `hello`.
const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{\22data\22:\22hello\22}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

const LIMIT: Duration = Duration::from_secs(120);

/// A server of a developer, and all that it has written.
struct Dev {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Dev {
    /// Starts it; on a terminal, or with pipes.
    fn start(project: &TempDir, terminal: bool, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
        command
            .args(["dev", "--port", "0"])
            .current_dir(project.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if name.starts_with("WWS_") || name == "NO_COLOR" {
                command.env_remove(name);
            }
        }
        command
            .env("WWS_CODE_CACHE", "")
            .env("TERM", "xterm")
            .envs(variables.iter().copied());
        let output = Arc::new(Mutex::new(Vec::new()));
        if terminal {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let name = ptsname(&master, Vec::new()).unwrap();
            let name = name.into_string().unwrap();
            let slave = || File::options().read(true).write(true).open(&name).unwrap();
            command.stdout(slave()).stderr(slave());
            collect(File::from(master), &output);
            let child = command.spawn().unwrap();
            return Self { child, output };
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        Self { child, output }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until it has written a text, and returns all that it has written.
    fn wait_for(&self, wanted: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let text = self.text();
            if text.contains(wanted) {
                return text;
            }
            assert!(Instant::now() < end, "no `{wanted}` in: {text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn get(&self, path: &str) -> String {
        let text = self.wait_for("listening on http://");
        let (_, rest) = text.split_once("listening on http://").unwrap();
        let mut stream = TcpStream::connect(rest.split(' ').next().unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<u8>>>) {
    let to = Arc::clone(to);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        // A terminal without programs is an error.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            to.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
}

fn project() -> TempDir {
    let project = tempfile::tempdir().unwrap();
    fs::write(
        project.path().join("w.wasm"),
        wat::parse_str(HELLO).unwrap(),
    )
    .unwrap();
    project
}

#[test]
fn a_developer_sees_urls_requests_and_changes() {
    let project = project();
    let at = |name: &str| project.path().join(name);
    let dev = Dev::start(&project, false, &[]);
    assert!(dev.get("/w").ends_with("hello"));
    dev.wait_for("GET     200 /w");
    assert!(dev.get("/_panel/").contains("<html"));
    fs::write(at("new.wasm"), wat::parse_str(HELLO).unwrap()).unwrap();
    let text = dev.wait_for("/new  new.wasm");
    assert!(text.contains("reloaded: new.wasm"), "{text}");
    assert!(dev.get("/new").ends_with("hello"));
    fs::write(at("w.toml"), "version = \"1\"\n[limits]\nmemory = \"x\"\n").unwrap();
    let text = dev.wait_for("not reloaded: 1 problem");
    assert!(text.contains("error: w.toml:3:"), "{text}");
    assert!(dev.get("/w").ends_with("hello"));
    fs::remove_file(at("w.toml")).unwrap();
    dev.wait_for("no worker has changed");
    fs::remove_file(at("new.wasm")).unwrap();
    let text = dev.wait_for("removed  http://");
    let line = text
        .lines()
        .find(|line| line.ends_with("wasm  w.wasm"))
        .unwrap();
    assert!(line.starts_with("  http://127.0.0.1:"), "{line}");
    assert!(text.contains("  panel  http://127.0.0.1:"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert_eq!(dev.stop(), Some(0));
}

#[test]
fn dev_waits_until_the_project_loads() {
    let project = tempfile::tempdir().unwrap();
    let at = |name: &str| project.path().join(name);
    fs::write(at("w.toml"), "nope = [").unwrap();
    fs::write(at("w.wasm"), wat::parse_str(HELLO).unwrap()).unwrap();
    let dev = Dev::start(&project, false, &[]);
    let text = dev.wait_for("nothing is served yet");
    assert!(text.contains("error: w.toml:1:"), "{text}");
    fs::remove_file(at("w.toml")).unwrap();
    assert!(dev.get("/w").ends_with("hello"));
    assert_eq!(dev.stop(), Some(0));
    fs::write(at("w.toml"), "nope = [").unwrap();
    let never = Dev::start(&project, false, &[]);
    never.wait_for("nothing is served yet");
    assert_eq!(never.stop(), Some(0));
}

#[test]
fn terminals_have_colours_unless_the_user_wants_none() {
    let project = project();
    for (variables, is_coloured) in [
        (&[][..], true),
        (&[("NO_COLOR", "1")], false),
        (&[("TERM", "dumb")], false),
    ] {
        let dev = Dev::start(&project, true, variables);
        assert!(dev.get("/w").ends_with("hello"));
        let text = dev.wait_for(" /w ");
        assert_eq!(
            text.contains("\u{1b}[32m200\u{1b}[0m"),
            is_coloured,
            "{text}"
        );
        assert_eq!(text.contains('\u{1b}'), is_coloured, "{text}");
        assert_eq!(dev.stop(), Some(0));
    }
}
