//! Runs other programs, for a bounded time.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes of output that are read.
const MAX: u64 = 1 << 20;

/// What a program prints to standard output; `None` if it fails, or does not end in time.
pub(crate) fn output(
    program: impl AsRef<OsStr>,
    args: &[&str],
    input: &str,
    limit: Duration,
) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Shorter than a pipe, so that this never blocks; the exit status shows whether it was
        // read.
        let _ = stdin.write_all(input.as_bytes());
    }
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if started.elapsed() < limit => thread::sleep(Duration::from_millis(5)),
            _ => break None,
        }
    };
    if status.is_none() {
        // It may have exited by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = status?;
    let mut text = String::new();
    child.stdout?.take(MAX).read_to_string(&mut text).ok()?;
    status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_programs_within_a_time_limit() {
        let shell = |script: &str, input: &str| {
            output("/bin/sh", &["-c", script], input, Duration::from_secs(60))
        };
        assert_eq!(shell("echo 1.2", "").as_deref(), Some("1.2\n"));
        assert_eq!(shell("cat", "in").as_deref(), Some("in"));
        assert_eq!(shell("echo 1.2; exit 1", ""), None);
        assert_eq!(
            output("/no/such/program", &[], "", Duration::from_secs(1)),
            None
        );
        let slow = output(
            "/bin/sh",
            &["-c", "exec sleep 600"],
            "",
            Duration::from_millis(20),
        );
        assert_eq!(slow, None);
    }
}
