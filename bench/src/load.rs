//! Load: requests, made by wrk, and large bodies.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use wws_test::{command, workspace};

/// What a load met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met {
    /// Requests per second.
    pub(crate) rate: f64,
    /// 99th percentile of the time to an answer, in milliseconds.
    pub(crate) p99: f64,
}

/// Asks `url` over `connections` for `seconds`, by one thread.
///
/// # Errors
/// An answer that is no 2xx or 3xx, a connection that breaks; wrk cannot be run.
pub(crate) fn run(url: &str, connections: u32, seconds: u32) -> Result<Met> {
    let tools = workspace::tools("wrk")?;
    let mut wrk = Command::new(tools.join("usr/bin/wrk"));
    wrk.env("LD_LIBRARY_PATH", tools.join("usr/lib/x86_64-linux-gnu"))
        .args(["--latency", "-t1"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .arg(url);
    let limit = Duration::from_secs(u64::from(seconds) + 30);
    let text = command::run(&mut wrk, limit)?.success()?;
    ensure!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{url} answered with errors, or not:\n{text}"
    );
    parse(&text).with_context(|| format!("wrk wrote what is not understood:\n{text}"))
}

/// Sends `count` bodies of `len` bytes at once, each on a connection of its own, and reads them
/// back. Returns the bytes of all bodies per second.
///
/// # Errors
/// An answer that is no 200 or too short, a connection that breaks or makes no progress.
pub(crate) fn echo(port: u16, path: &str, count: usize, len: u64) -> Result<f64> {
    let began = Instant::now();
    thread::scope(|scope| {
        let echoes: Vec<_> = (0..count)
            .map(|_| scope.spawn(move || echo_one(port, path, len)))
            .collect();
        echoes.into_iter().try_for_each(|echo| {
            let ended = echo.join();
            ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the client panicked")))
        })
    })?;
    Ok(count as f64 * len as f64 / began.elapsed().as_secs_f64())
}

fn echo_one(port: u16, path: &str, len: u64) -> Result<()> {
    let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    to.set_read_timeout(Some(Duration::from_secs(60)))?;
    to.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut from = to.try_clone()?;
    write!(
        to,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\
         Connection: close\r\n\r\n"
    )?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            let piece = vec![b'x'; 64 << 10];
            let mut left = len;
            while left > 0 {
                let next = left.min(piece.len() as u64);
                to.write_all(&piece[..next as usize])?;
                left -= next;
            }
            Ok(())
        });
        let mut buffer = vec![0; 64 << 10];
        let first = from.read(&mut buffer)?;
        ensure!(
            buffer[..first].starts_with(b"HTTP/1.1 200 "),
            "not answered: {}",
            String::from_utf8_lossy(&buffer[..first.min(200)])
        );
        // The body may come in chunks, whose sizes are not worth parsing here.
        let mut read = first as u64;
        loop {
            match from.read(&mut buffer)? {
                0 => break,
                more => read += more as u64,
            }
        }
        ensure!(read > len, "{read} bytes of an answer whose body has {len}");
        let sent = sending.join();
        sent.unwrap_or_else(|_| Err(anyhow::anyhow!("the client panicked")))
    })
}

fn parse(text: &str) -> Option<Met> {
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    Some(Met {
        rate: value("Requests/sec:")?.parse().ok()?,
        p99: millis(&value("99%")?)?,
    })
}

fn millis(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1000.0)
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, missing_docs)]
    use super::*;

    #[test]
    fn what_wrk_writes_is_understood() {
        let text = "  Latency Distribution\n     50%  600.00us\n     99%    1.25ms\n  1000 \
            requests in 1.0s\nRequests/sec:  82105.30\n";
        let met = parse(text).unwrap();
        assert!((met.rate - 82105.3).abs() < 0.001 && (met.p99 - 1.25).abs() < 0.001);
        assert!(parse("unable to connect").is_none());
    }
}
