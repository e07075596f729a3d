//! Load, made by wrk.

use std::{process::Command, time::Duration};

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
