//! A `wws` that serves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a line of the log, or the end, is waited for. A test that waits in vain fails, and does
/// not hold up all others.
const LIMIT: Duration = Duration::from_secs(120);

/// A server, and the rest of its log.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) address: String,
    /// What was read of its log.
    pub(crate) before: String,
    /// The lines that follow. They are read as they come: its pipe must not fill.
    lines: Mutex<Receiver<String>>,
}

impl Served {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(command: Command) -> Self {
        let mut served = Self::spawn(command);
        served.listens();
        served
    }

    #[allow(clippy::zombie_processes, reason = "`drop` waits")]
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|read| read > 0) {
                if send.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            address: String::new(),
            before: String::new(),
            lines: Mutex::new(lines),
        }
    }

    pub(crate) fn listens(&mut self) {
        let line = self.logs("listening on http://");
        let (_, rest) = line.split_once("listening on http://").unwrap();
        self.address = rest.split([' ', '"']).next().unwrap().to_owned();
    }

    /// Sends a request, and returns the connection.
    pub(crate) fn send(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// The response to a request, with its head.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut text = String::new();
        self.send(path).read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for a line of its log with a text.
    pub(crate) fn logs(&mut self, text: &str) -> String {
        let start = Instant::now();
        while let Some(line) = self.next_line(start) {
            if line.contains(text) {
                return line;
            }
        }
        panic!("it ended without {text}: {}", self.before);
    }

    /// Waits for the next line of its log. `None` at its end.
    fn next_line(&mut self, start: Instant) -> Option<String> {
        let left = LIMIT.saturating_sub(start.elapsed());
        match self.lines.get_mut().unwrap().recv_timeout(left) {
            Ok(line) => {
                self.before += &line;
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("waited for {LIMIT:?}; its log: {}", self.before)
            }
        }
    }

    /// Waits for its end. Returns its exit code and its log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        while self.next_line(start).is_some() {}
        // It has closed its log.
        while start.elapsed() < LIMIT {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), std::mem::take(&mut self.before));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it did not exit; its log: {}", self.before);
    }

    /// Stops it as an operator does.
    pub(crate) fn stop(self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        self.end()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
