//! Key/value operations of workers in Redis, beside those of Redis' own load generator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wws_test::{command, http, workspace};

use super::throughput::{self, CONNECTIONS, SECONDS};
use crate::load;
use crate::process::Server;
use crate::report::{Measured, Report, Target, median};

const ROUNDS: usize = 3;

/// Commands of each kind that the peer sends in a round.
const COMMANDS: u32 = 400_000;

/// Round trips of a request: one that reads, one that writes.
const TRIPS: f64 = 2.0;

const JAVASCRIPT: &str = r#"export default {
  async fetch() {
    const count = Number(await Cache.get("count") ?? 0) + 1;
    await Cache.set("count", `${count}`);
    return new Response(`${count}`);
  },
};
"#;

/// Round trips per second of a worker that gets a key and sets it.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let redis = Redis::start()?;
    let project = tempfile::tempdir()?;
    write_project(project.path(), &redis)?;
    let wws = throughput::wws(project.path())?;
    for (name, path) in [("Rust", "/rust/count"), ("JavaScript", "/javascript")] {
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        let url = wws.url(path);
        load::run(&url, CONNECTIONS, 1)?;
        for _ in 0..ROUNDS {
            let before = count(&wws, path)?;
            let rate = load::run(&url, CONNECTIONS, SECONDS)?.rate;
            // Requests at once may read the same number.
            ensure!(count(&wws, path)? > before + 1, "nothing was stored");
            ours.push(rate * TRIPS);
            peers.push(redis.round_trips()?);
        }
        report.add(&Measured {
            name: &format!("K/V get and set of a {name} worker in Redis : redis-benchmark"),
            value: median(&mut ours),
            unit: "round trips/s",
            peer: "redis-benchmark, SET and GET in equal parts, 50 connections, no pipelining",
            peer_value: median(&mut peers),
            target: Target::AtLeast(0.5),
            how: "requests/s of a worker that reads one key and sets it, times the 2 round trips; \
                  wrk, 1 thread, 50 connections, 8 s, median of 3 rounds in turns, access log \
                  off; load generator, server and the same Redis share the CPUs, the peer needs \
                  no server between",
        });
    }
    Ok(())
}

/// The number that a request counts.
fn count(wws: &Server, path: &str) -> Result<u64> {
    let text = http::get(wws.port(), path)?.text();
    text.trim()
        .parse()
        .with_context(|| format!("{path}: {text}"))
}

fn write_project(directory: &Path, redis: &Redis) -> Result<()> {
    let store = format!(
        "version = 1\n[stores.redis]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\n",
        redis.server.port()
    );
    fs::write(directory.join(".wws.toml"), store)?;
    fs::create_dir(directory.join("rust"))?;
    fs::copy(
        workspace::guest("rust-features")?,
        directory.join("rust/[feature].wasm"),
    )?;
    fs::write(directory.join("javascript.js"), JAVASCRIPT)?;
    for name in ["rust/[feature]", "javascript"] {
        let kv = format!("[data.kv]\nnamespace = \"{name}\"\nstore = \"redis\"\n");
        fs::write(directory.join(format!("{name}.toml")), kv)?;
    }
    Ok(())
}

/// Debian's Redis, which scripts/redis.sh unpacks.
struct Redis {
    tools: PathBuf,
    server: Server,
}

impl Redis {
    fn start() -> Result<Self> {
        let tools = workspace::tools("redis")?.join("usr");
        let server = Server::start_on(|port| {
            let mut command = tool(&tools, "redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--port"]);
            command.arg(port.to_string());
            Ok(command)
        })?;
        Ok(Self { tools, server })
    }

    /// Round trips per second of the peer that gets and sets in turns.
    fn round_trips(&self) -> Result<f64> {
        let mut benchmark = tool(&self.tools, "redis-benchmark");
        benchmark.args(["--csv", "-t", "set,get", "-h", "127.0.0.1", "-p"]);
        benchmark.arg(self.server.port().to_string());
        benchmark.args(["-c", &CONNECTIONS.to_string(), "-n", &COMMANDS.to_string()]);
        let text = command::run(&mut benchmark, Duration::from_secs(300))?.success()?;
        let time = seconds(&text, "SET").zip(seconds(&text, "GET"));
        let (set, get) = time.with_context(|| format!("no rates in:\n{text}"))?;
        Ok(TRIPS / (set + get))
    }
}

fn tool(tools: &Path, name: &str) -> Command {
    let mut command = Command::new(tools.join("bin").join(name));
    command.env("LD_LIBRARY_PATH", tools.join("lib/x86_64-linux-gnu"));
    command
}

/// Seconds of a command, on the average.
fn seconds(csv: &str, name: &str) -> Option<f64> {
    let prefix = format!("\"{name}\",\"");
    let rest = csv.lines().find_map(|line| line.strip_prefix(&prefix))?;
    let rate: f64 = rest.split('"').next()?.parse().ok()?;
    Some(1.0 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_prints_is_understood() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"50000.00\",\"0.8\"\n\
                   \"GET\",\"40000.00\",\"0.9\"\n";
        assert_eq!(seconds(csv, "SET"), Some(1.0 / 50_000.0));
        assert_eq!(seconds(csv, "GET"), Some(1.0 / 40_000.0));
        assert_eq!(seconds(csv, "PING"), None);
    }
}
