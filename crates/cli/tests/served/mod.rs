//! A `wws` that serves.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A server, and the rest of its log.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) address: String,
    /// Its log until it listened, and what was read of it since.
    pub(crate) before: String,
    log: Box<dyn BufRead + Send + Sync>,
}

impl Served {
    #[allow(clippy::zombie_processes, reason = "`drop` waits")]
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut before = String::new();
        loop {
            let from = before.len();
            assert!(
                log.read_line(&mut before).unwrap() > 0,
                "it ended: {before}"
            );
            if let Some((_, rest)) = before[from..].split_once("listening on http://") {
                let address = rest.split([' ', '"']).next().unwrap().to_owned();
                return Self {
                    child,
                    address,
                    before,
                    log: Box::new(log),
                };
            }
        }
    }

    /// Reads the rest of the log and forgets it: its pipe must not fill.
    pub(crate) fn discard_log(mut self) -> Self {
        let mut log = std::mem::replace(&mut self.log, Box::new(io::empty()));
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        self
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
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).unwrap();
            self.before += &line;
            assert!(read > 0, "it ended without {text}: {}", self.before);
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for its end. Returns its exit code and its log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut log = std::mem::take(&mut self.before);
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
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
