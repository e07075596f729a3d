//! What operating a server costs: telemetry, and reloads under load.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use wws_test::{collector, command, workspace};

use super::throughput::{self, CONNECTIONS, SECONDS};
use crate::load;
use crate::process::{Server, free_port};
use crate::report::{Alone, Measured, Report, Target, median};

/// Workers of the project that is loaded again.
const WORKERS: usize = 100;

const ROUNDS: usize = 3;

/// Reloads of one changed worker.
const RELOADS: usize = 15;

/// A small worker of the old protocol.
const WORKER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\10\00\00\00")
    (data (i32.const 16) "{\22data\22:\22hello\22}")
    (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;

/// Throughput with metrics, sampled traces and logs exported, and with the access log.
pub(crate) fn telemetry(report: &mut Report) -> Result<()> {
    let (directory, off) = throughput::hello()?;
    // What is exported is forgotten.
    let collector = format!("http://{}", collector::start(|_| Ok(()))?);
    for (name, access_log) in [
        ("metrics and 1 % of traces exported : off", "false"),
        (
            "metrics and 1 % of traces exported, and the access log : off",
            "true",
        ),
    ] {
        let log = tempfile::NamedTempFile::new()?;
        let mut wws = server(directory.path())?;
        wws.env("WWS_ACCESS_LOG", access_log)
            .env("WWS_ADMIN", format!("127.0.0.1:{}", free_port()?))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector)
            .env("OTEL_TRACES_SAMPLER", "traceidratio")
            .env("OTEL_TRACES_SAMPLER_ARG", "0.01")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "5000")
            .stdout(File::create("/dev/null")?)
            .stderr(log.reopen()?);
        let port = |port: u16| vec!["--port".into(), port.to_string()];
        let on = Server::start_with_output(wws, port)?;
        let (value, peer_value) = throughput::in_turns(&on.url("/hello"), &off.url("/hello"))?;
        report.add(&Measured {
            name,
            value,
            unit: "requests/s",
            peer: "no telemetry",
            peer_value,
            target: Target::AtLeast(0.95),
            how: "Rust worker; wrk, 1 thread, 50 connections, 8 s, median of 3 rounds in turns; \
                the collector is a thread of the measuring program, metrics are exported every 5 \
                s, the log is a file",
        });
    }
    Ok(())
}

fn server(directory: &Path) -> Result<Command> {
    let mut wws = Command::new(workspace::programs()?.join("wws"));
    wws.arg(directory)
        .env("WWS_CODE_CACHE", workspace::root().join("target/code"));
    Ok(wws)
}

/// A project whose workers change.
struct Changing {
    directory: TempDir,
    wasm: Vec<u8>,
    changes: u32,
}

impl Changing {
    fn new() -> Result<Self> {
        let mut project = Self {
            directory: tempfile::tempdir()?,
            wasm: wat::parse_str(WORKER)?,
            changes: 0,
        };
        (0..WORKERS).try_for_each(|worker| project.change(worker))?;
        Ok(project)
    }

    /// Gives a worker content that no worker has had: a custom section with a number.
    fn change(&mut self, worker: usize) -> Result<()> {
        self.changes += 1;
        let mut wasm = self.wasm.clone();
        wasm.extend([0, 6, 1, b'n']);
        wasm.extend(self.changes.to_le_bytes());
        let path = self.directory.path().join(format!("w{worker}.wasm"));
        // In one step: a reload may read it meanwhile.
        let next = self.directory.path().join(".next");
        fs::write(&next, wasm)?;
        Ok(fs::rename(next, path)?)
    }

    /// Loads the project again, and returns how long that takes.
    fn reload(&self, loaded: usize) -> Result<Duration> {
        let mut wws = Command::new(workspace::programs()?.join("wws"));
        wws.arg("reload").arg(self.directory.path());
        let started = Instant::now();
        let text = command::run(&mut wws, Duration::from_secs(60))?.success()?;
        let expected = format!("{loaded} workers loaded, {} unchanged", WORKERS - loaded);
        ensure!(text.contains(&expected), "{text}");
        Ok(started.elapsed())
    }
}

/// Reloads of a project of 100 workers.
pub(crate) fn reload(report: &mut Report) -> Result<()> {
    let mut project = Changing::new()?;
    let mut wws = server(project.directory.path())?;
    // Each change is compiled: the code is not kept.
    wws.env("WWS_ACCESS_LOG", "false").env("WWS_CODE_CACHE", "");
    let server = Server::start(wws, |port| vec!["--port".into(), port.to_string()])?;
    let mut times = Vec::new();
    for _ in 0..RELOADS {
        project.change(50)?;
        times.push(project.reload(1)?.as_secs_f64() * 1000.0);
    }
    report.add_alone(&Alone {
        name: "reload of 100 workers of which one has changed",
        value: median(&mut times),
        unit: "ms",
        target: Target::AtMost(100.0),
        how: "`wws reload`, from its start to its end, the changed module compiled; median of 15",
    });
    let url = server.url("/w7");
    let (mut quiet, mut busy, mut reloads) = (Vec::new(), Vec::new(), 0);
    load::run(&url, CONNECTIONS, 1)?;
    for _ in 0..ROUNDS {
        quiet.push(load::run(&url, CONNECTIONS, SECONDS)?.p99);
        let loading = {
            let url = url.clone();
            thread::spawn(move || load::run(&url, CONNECTIONS, SECONDS))
        };
        while !loading.is_finished() {
            (0..WORKERS).try_for_each(|worker| project.change(worker))?;
            project.reload(WORKERS)?;
            reloads += 1;
        }
        let met = loading.join().ok().context("the load panicked")??;
        busy.push(met.p99);
    }
    eprintln!("{reloads} reloads of all workers under load; no request failed");
    report.add(&Measured {
        name: "99th percentile while 100 changed workers are loaded again and again : without \
            reloads",
        value: median(&mut busy),
        unit: "ms",
        peer: "the same without reloads",
        peer_value: median(&mut quiet),
        target: Target::AtMost(3.0),
        how: "wrk, 1 thread, 50 connections, 8 s, one reload after another, each of 100 new \
            modules; median of 3 rounds in turns; a failed request or a broken connection ends the \
            measurement",
    });
    Ok(())
}
