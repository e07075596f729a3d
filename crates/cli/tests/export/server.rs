//! A server as a process, and its workers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::SOON;
use super::receiver::{PATIENCE, Receiver, exchange};

/// The trace of clients.
pub const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A worker that answers after `before`. It can print at 64 KiB.
fn worker(data: &str, imports: &str, before: &str) -> Vec<u8> {
    let escaped: String = data.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          {imports}
          (memory (export "memory") 4)
          (global $free (mut i32) (i32.const 131072))
          (data (i32.const 1024) "{{\22data\22:\22ok\22}}")
          (data (i32.const 65536) "{escaped}")
          (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
            (global.get $free)
            (global.set $free (i32.add (global.get $free) (local.get 3))))
          (func $put (param $fd i32) (param $at i32) (param $length i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
            (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
          (func (export "_start") {before}
            (call $put (i32.const 1) (i32.const 1024) (i32.const 13))))"#
    );
    wat::parse_str(text).unwrap()
}

pub fn answers() -> Vec<u8> {
    worker("", "", "")
}

pub fn traps() -> Vec<u8> {
    worker("", "", "unreachable")
}

/// Writes a line to the log.
pub fn logs(line: &str) -> Vec<u8> {
    let write = format!(
        "(call $put (i32.const 2) (i32.const 65536) (i32.const {}))",
        line.len()
    );
    worker(line, "", &write)
}

/// Sends a request, and traps if it is not answered with 200.
pub fn fetches(url: &str) -> Vec<u8> {
    let import = r#"(import "http" "send-http-request"
        (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;
    let zeros = "(i32.const 0) ".repeat(8);
    let call = format!(
        "(call $send {zeros} (i32.const 65536) (i32.const {}) (i32.const 512))
         (if (i32.ne (i32.load16_u (i32.const 536)) (i32.const 200)) (then unreachable))",
        url.len()
    );
    worker(url, import, &call)
}

/// A project.
pub struct Site(tempfile::TempDir);

impl Site {
    pub fn new(workers: &[(&str, Vec<u8>)]) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(site.0.path().join("project")).unwrap();
        for (name, module) in workers {
            std::fs::write(site.path(name), module).unwrap();
        }
        site
    }

    pub fn path(&self, name: &str) -> String {
        let path = self.0.path().join("project").join(name);
        path.to_str().unwrap().to_owned()
    }

    pub fn file(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// A server of this project that exports to a collector.
    pub fn export_to(&self, collector: &Receiver) -> Starting {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
        command.args(["--port", "0"]).arg(self.path("."));
        let foreign = |name: &String| name.starts_with("WWS_") || name.starts_with("OTEL_");
        for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
            command.env_remove(name);
        }
        command.env("WWS_CODE_CACHE", "").envs(SOON);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
        Starting(command)
    }
}

/// A server that is about to start.
pub struct Starting(Command);

impl Starting {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    #[allow(clippy::zombie_processes, reason = "`drop` waits")]
    pub fn start(mut self) -> Server {
        let command = self.0.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut before, mut address, mut admin) = (String::new(), None, None);
        let is_watched = self.0.get_envs().any(|(name, _)| name == "WWS_ADMIN");
        while address.is_none() || is_watched && admin.is_none() {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {before}");
            let after = |text: &str| {
                let (_, rest) = line.split_once(text)?;
                Some(rest.split([' ', '"', '\n']).next()?.to_owned())
            };
            address = address.or_else(|| after("listening on http://"));
            admin = admin.or_else(|| after("metrics and health checks on "));
            before += &line;
        }
        let lines = Arc::new(Mutex::new(before));
        let reader = std::thread::spawn({
            let lines = lines.clone();
            move || {
                let mut line = String::new();
                while log.read_line(&mut line).unwrap() > 0 {
                    *lines.lock().unwrap() += &std::mem::take(&mut line);
                }
            }
        });
        Server {
            child,
            address: address.unwrap(),
            admin,
            lines,
            reader: Some(reader),
        }
    }
}

/// A server that runs.
pub struct Server {
    child: Child,
    pub address: String,
    /// The admin address.
    pub admin: Option<String>,
    lines: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// A GET on a connection of its own; `headers` are whole lines.
    pub fn get(&self, path: &str, headers: &str) -> String {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: a.example:81\r\n{headers}connection: close\r\n\r\n"
        );
        exchange(&self.address, &request)
    }

    /// Many requests on one connection.
    pub fn get_many(&self, path: &str, count: usize) {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut read = BufReader::new(stream.try_clone().unwrap());
        for _ in 0..count {
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            (&stream).write_all(request.as_bytes()).unwrap();
            let mut length = 0;
            loop {
                let mut line = String::new();
                assert!(read.read_line(&mut line).unwrap() > 0, "it closed");
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            std::io::copy(&mut read.by_ref().take(length), &mut std::io::sink()).unwrap();
        }
    }

    /// Waits for a line of its log.
    pub fn wait_for_line(&self, text: &str) {
        let start = Instant::now();
        while !self.lines.lock().unwrap().contains(text) {
            let lines = self.lines.lock().unwrap();
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {lines}");
            drop(lines);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often its threads have waited for something.
    pub fn wakeups(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = Path::new(&tasks).read_dir().unwrap();
        let of = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        tasks.filter_map(|task| of(task.unwrap())).sum()
    }

    /// Stops it as a container is stopped. Returns its log.
    pub fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.reader.take().unwrap().join().unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended, unless the test does not stop it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
