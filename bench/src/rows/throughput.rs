//! Requests per second of a Rust worker, a fresh instance for each, beside peers.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use wws_test::{command, http, workspace};

use crate::{
    load, peer,
    process::Server,
    report::{Measured, Report, Target, median},
};

pub(crate) const CONNECTIONS: u32 = 50;
pub(crate) const SECONDS: u32 = 8;
pub(crate) const ROUNDS: usize = 3;

/// The version of the peer.
const WASMTIME: &str = "48.0.8";

/// A project of the hello worker of `images/hello`, at `/hello`.
pub(crate) fn hello() -> Result<(TempDir, Server)> {
    let directory = tempfile::tempdir()?;
    std::fs::copy(
        workspace::guest("hello")?,
        directory.path().join("hello.wasm"),
    )?;
    let server = wws(directory.path())?;
    Ok((directory, server))
}

/// Our server on a directory.
pub(crate) fn wws(directory: &Path) -> Result<Server> {
    let mut wws = Command::new(workspace::programs()?.join("wws"));
    wws.arg(directory)
        .env("WWS_ACCESS_LOG", "false")
        .env("WWS_CODE_CACHE", workspace::root().join("target/code"));
    Server::start(wws, |port| vec!["--port".into(), port.to_string()])
}

pub(crate) fn beside_hyper(report: &mut Report) -> Result<()> {
    let (_directory, ours) = hello()?;
    let peer = Server::start(Command::new(std::env::current_exe()?), |port| {
        vec![peer::COMMAND.into(), port.to_string()]
    })?;
    let (value, peer_value) = in_turns(&ours.url("/hello"), &peer.url("/"))?;
    report.add(&Measured {
        name: "Rust worker (JSON protocol, kit, fresh) : bare hyper",
        value,
        unit: "requests/s",
        peer: "hyper 1 with a constant answer",
        peer_value,
        target: Target::AtLeast(0.30),
        how: "wrk, 1 thread, 50 connections, 8 s, median of 3 rounds in turns, access log off",
    });
    Ok(())
}

pub(crate) fn beside_wasmtime_serve(report: &mut Report) -> Result<()> {
    let (_directory, ours) = hello()?;
    let component = workspace::guest("component-hello")?;
    let mut wasmtime = Command::new(wasmtime()?);
    wasmtime.arg("serve").arg("-Scli").arg(&component);
    let peer = Server::start(wasmtime, |port| {
        vec!["--addr".into(), format!("127.0.0.1:{port}")]
    })?;
    http::get(peer.port(), "/").context("wasmtime serve answers nothing")?;
    let (value, peer_value) = in_turns(&ours.url("/hello"), &peer.url("/"))?;
    report.add(&Measured {
        name: "Rust worker (JSON protocol, kit, fresh) : wasmtime serve, Rust wasi:http hello",
        value,
        unit: "requests/s",
        peer: "wasmtime serve 48.0.8, default settings",
        peer_value,
        target: Target::AtLeast(4.0),
        how: "wrk, 1 thread, 50 connections, 8 s, median of 3 rounds in turns, access log off",
    });
    Ok(())
}

/// Requests per second of two servers, asked in turns.
pub(crate) fn in_turns(ours: &str, peer: &str) -> Result<(f64, f64)> {
    let (mut of_ours, mut of_peer) = (Vec::new(), Vec::new());
    load::run(ours, CONNECTIONS, 1)?;
    load::run(peer, CONNECTIONS, 1)?;
    for _ in 0..ROUNDS {
        of_ours.push(load::run(ours, CONNECTIONS, SECONDS)?.rate);
        of_peer.push(load::run(peer, CONNECTIONS, SECONDS)?.rate);
    }
    Ok((median(&mut of_ours), median(&mut of_peer)))
}

/// The peer's program, built below `target/tools` the first time.
pub(crate) fn wasmtime() -> Result<std::path::PathBuf> {
    let prefix = workspace::root()
        .join("target/tools")
        .join(format!("wasmtime-{WASMTIME}"));
    let program = prefix.join("bin/wasmtime");
    if !program.exists() {
        eprintln!("building wasmtime {WASMTIME} (minutes, once)");
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "install",
                "wasmtime-cli",
                "--version",
                WASMTIME,
                "--locked",
                "--quiet",
                "--no-default-features",
            ])
            .args([
                "--features",
                "run,serve,cranelift,pooling-allocator,parallel-compilation,wasi-http,\
                 component-model,component-model-async",
            ])
            .arg("--root")
            .arg(&prefix)
            .current_dir(workspace::root());
        command::run(&mut cargo, Duration::from_secs(3600))?.success()?;
    }
    Ok(program)
}
