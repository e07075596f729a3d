//! Requests per second of components, a fresh instance for each request, beside `wasmtime serve`
//! with the same file.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use wws_test::{http, workspace};

use super::throughput::{CONNECTIONS, ROUNDS, SECONDS, in_turns, wasmtime, wws};
use crate::process::Server;
use crate::report::{Measured, Report, Target, median};
use crate::{load, peer};

/// A component, and how `wasmtime serve` runs it.
#[derive(Clone, Copy)]
struct Component {
    title: &'static str,
    guest: &'static str,
    /// The path that both servers are asked for.
    path: &'static str,
    arguments: &'static [&'static str],
    /// Requests that an instance of ours answers.
    reuse: u32,
    peer: &'static str,
    ratio: f64,
}

/// It reuses no instance of WASI 0.2.
const DEFAULT: &str = "wasmtime serve 48.0.8, default settings";

/// The interfaces of WASI 0.3, which wasmtime 48 has off.
const WASI_3: &[&str] = &["-Sp3", "-Wcomponent-model-async"];

const WASI_3_NO_REUSE: &[&str] = &[
    "-Sp3",
    "-Wcomponent-model-async",
    "--max-instance-reuse-count",
    "1",
    "--max-instance-concurrent-reuse-count",
    "1",
];

/// How the rows are measured.
const HOW: &str = "wrk, 1 thread, 50 connections, 8 s, median of 3 rounds in turns, access log off";

pub(crate) fn rust(report: &mut Report) -> Result<()> {
    measure(
        report,
        &Component {
            title: "Rust component, wasi:http 0.2",
            guest: "component-hello",
            path: "/",
            arguments: &[],
            reuse: 1,
            peer: DEFAULT,
            ratio: 5.0,
        },
    )
}

pub(crate) fn rust_wasi_3(report: &mut Report) -> Result<()> {
    let hello = Component {
        title: "Rust component, wasi:http 0.3",
        guest: "component-hello-p3",
        path: "/",
        arguments: WASI_3,
        reuse: 1,
        peer: "wasmtime serve 48.0.8, default settings: 128 requests for each instance",
        ratio: 1.0,
    };
    measure(report, &hello)?;
    measure(
        report,
        &Component {
            title: "Rust component, wasi:http 0.3, `reuse = 128`",
            reuse: 128,
            ..hello
        },
    )?;
    measure(
        report,
        &Component {
            arguments: WASI_3_NO_REUSE,
            peer: "wasmtime serve 48.0.8, an instance for each request",
            ratio: 5.0,
            ..hello
        },
    )
}

pub(crate) fn javascript(report: &mut Report) -> Result<()> {
    measure(
        report,
        &Component {
            title: "JavaScript component (componentize-js)",
            guest: "component-javascript",
            path: "/hello",
            arguments: &[],
            reuse: 1,
            peer: DEFAULT,
            ratio: 3.0,
        },
    )
}

pub(crate) fn python(report: &mut Report) -> Result<()> {
    measure(
        report,
        &Component {
            title: "Python component (componentize-py)",
            guest: "component-python",
            path: "/hello",
            arguments: &[],
            reuse: 1,
            peer: DEFAULT,
            ratio: 3.0,
        },
    )
}

/// Bytes of each body of [`echo`].
const ECHO_LEN: u64 = 64 << 20;

/// Bodies of [`echo`] at once.
const ECHOES: usize = 4;

pub(crate) fn echo(report: &mut Report) -> Result<()> {
    let ours = wws(&workspace::guest("component-echo")?)?;
    let peer = Server::start(Command::new(std::env::current_exe()?), |port| {
        vec![peer::COMMAND.into(), port.to_string()]
    })?;
    for (name, path) in [
        ("Rust component, the guest copies", "/"),
        ("Rust component, the host moves (`splice`)", "/?by=splice"),
    ] {
        let (mut of_ours, mut of_peer) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_ours.push(load::echo(ours.port(), path, ECHOES, ECHO_LEN)?);
            of_peer.push(load::echo(peer.port(), path, ECHOES, ECHO_LEN)?);
        }
        report.add(&Measured {
            name: &format!("echo of large bodies: {name} : hyper"),
            value: median(&mut of_ours) / f64::from(1 << 20),
            unit: "MiB/s",
            peer: "hyper 1 with the body of the request as the answer's",
            peer_value: median(&mut of_peer) / f64::from(1 << 20),
            target: Target::AtLeast(0.5),
            how: "4 bodies of 64 MiB at once, on one connection each, median of 3 rounds in turns",
        });
    }
    Ok(())
}

fn measure(report: &mut Report, component: &Component) -> Result<()> {
    let file = workspace::guest(component.guest)
        .context("`make components` builds those in JavaScript and Python")?;
    let project = tempfile::tempdir()?;
    let worker = project.path().join("[...path].wasm");
    fs::copy(&file, &worker)?;
    if component.reuse > 1 {
        let settings = format!("version = '1'\n[instances]\nreuse = {}\n", component.reuse);
        fs::write(worker.with_extension("toml"), settings)?;
    }
    let ours = wws(project.path())?;
    let mut command = Command::new(wasmtime()?);
    command
        .args(["serve", "-Scli"])
        .args(component.arguments)
        .arg(&file);
    let peer = Server::start(command, |port| {
        vec!["--addr".into(), format!("127.0.0.1:{port}")]
    })?;
    let answer = http::get(ours.port(), component.path)?;
    let expected = http::get(peer.port(), component.path).context("wasmtime serve")?;
    ensure!(
        answer.status == 200 && answer.body == expected.body,
        "the servers answer differently: {answer:?}, {expected:?}"
    );
    let (ours, peer) = (ours.url(component.path), peer.url(component.path));
    let (value, peer_value) = in_turns(&ours, &peer)?;
    report.add(&Measured {
        name: &format!("{} : {}", component.title, component.peer),
        value,
        unit: "requests/s",
        peer: component.peer,
        peer_value,
        target: Target::AtLeast(component.ratio),
        how: HOW,
    });
    let p99 = |url: &str| load::run(url, CONNECTIONS, SECONDS).map(|met| met.p99);
    let (value, peer_value) = (p99(&ours)?, p99(&peer)?);
    report.add(&Measured {
        name: &format!("{} p99 : {}", component.title, component.peer),
        value,
        unit: "ms",
        peer: component.peer,
        peer_value,
        target: Target::AtMost(1.0),
        how: "wrk, 1 thread, 50 connections, 8 s, access log off",
    });
    Ok(())
}
