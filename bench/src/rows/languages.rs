//! Workers of interpreted languages, and of Go: the engine's time for a request, and requests per
//! second beside what people serve the same answer with.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use wws_test::{http, workspace};

use super::throughput::{in_turns, wws};
use crate::{
    load,
    process::Server,
    report::{Alone, Measured, Report, Target, median},
};

const ANSWER: &str = "Hello from a worker\n";

/// A language whose workers are sources.
struct Language {
    name: &'static str,
    file: &'static str,
    source: &'static str,
    /// What its project brings along: kit, version, extension and file of the interpreter.
    runtime: Option<(&'static str, &'static str, &'static str, &'static str)>,
    /// Milliseconds.
    time: f64,
    ratio: f64,
    peer: &'static str,
    serve: fn(u16) -> Result<Command>,
}

pub(crate) fn javascript(report: &mut Report) -> Result<()> {
    measure(
        report,
        &Language {
            name: "JavaScript",
            file: "hello.js",
            source: "export default { fetch() { return new Response('Hello from a worker\\n', { \
                headers: { 'content-type': 'text/plain' } }) } }\n",
            runtime: None,
            time: 0.15,
            ratio: 0.25,
            peer: "Fastify 5.12 on the system's node, one process",
            serve: fastify,
        },
    )
}

pub(crate) fn python(report: &mut Report) -> Result<()> {
    measure(
        report,
        &Language {
            name: "Python",
            file: "hello.py",
            source: "def worker(request):\n    return Response('Hello from a worker\\n', \
                headers={'content-type': 'text/plain'})\n",
            runtime: Some(("python", "3.12.0", "py", "python.wasm")),
            time: 0.6,
            ratio: 0.4,
            peer: "gunicorn 27 with 2 sync workers on the system's Python",
            serve: gunicorn,
        },
    )
}

pub(crate) fn ruby(report: &mut Report) -> Result<()> {
    measure(
        report,
        &Language {
            name: "Ruby",
            file: "hello.rb",
            source: "def worker(request)\n  Response.new(\"Hello from a worker\\n\", 200, { \
                \"content-type\" => \"text/plain\" })\nend\n",
            runtime: Some(("ruby", "3.4.1", "rb", "ruby+stdlib.wasm")),
            time: 1.0,
            ratio: 0.3,
            peer: "Puma 5.6 with 2 workers on Ruby 3.1",
            serve: puma,
        },
    )
}

pub(crate) fn go(report: &mut Report) -> Result<()> {
    let guest = workspace::root().join("target/guests/go-hello.wasm");
    ensure!(
        guest.exists(),
        "{}: scripts/build-kit-guests.sh",
        guest.display()
    );
    let directory = tempfile::tempdir()?;
    fs::copy(guest, directory.path().join("hello.wasm"))?;
    add_time(report, "Go", directory.path(), 1.0)
}

fn measure(report: &mut Report, language: &Language) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join(language.file), language.source)?;
    if let Some(runtime) = language.runtime {
        install(directory.path(), runtime)?;
    }
    add_time(report, language.name, directory.path(), language.time)?;
    let ours = wws(directory.path())?;
    let peer = Server::start_on(language.serve)?;
    for server in [&ours, &peer] {
        let answer = http::get(server.port(), "/hello")?;
        ensure!(
            answer.status == 200 && answer.text() == ANSWER,
            "an answer is {answer:?}"
        );
    }
    let (value, peer_value) = in_turns(&ours.url("/hello"), &peer.url("/hello"))?;
    report.add(&Measured {
        name: &format!("{} hello (fresh) : {}", language.name, language.peer),
        value,
        unit: "requests/s",
        peer: language.peer,
        peer_value,
        target: Target::AtLeast(language.ratio),
        how: "wrk, 1 thread, 50 connections, 8 s, median of 3 rounds in turns, access log off",
    });
    Ok(())
}

/// The server's own time for a request is in its access log.
fn add_time(report: &mut Report, name: &str, project: &Path, target: f64) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    {
        let mut command = Command::new(workspace::programs()?.join("wws"));
        command
            .arg(project)
            .stdout(File::create(&path)?)
            .stderr(File::options().append(true).open(&path)?);
        let server =
            Server::start_with_output(command, |port| vec!["--port".into(), port.to_string()])?;
        load::run(&server.url("/hello"), 1, 5)?;
    }
    let log = fs::read_to_string(&path)?;
    let mut times: Vec<f64> = log
        .lines()
        .filter(|line| line.contains("status=200"))
        .filter_map(|line| line.split(" ms=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    // The first ones find nothing in the CPU's caches.
    let mut times = times.split_off(times.len() / 10);
    ensure!(
        times.len() > 100,
        "only {} requests were logged",
        times.len()
    );
    report.add_alone(&Alone {
        name: &format!("{name} hello (fresh): time of a request in the server, median"),
        value: median(&mut times),
        unit: "ms",
        target: Target::AtMost(target),
        how: "wrk, 1 connection, 5 s; `ms` of the access log, which is from the request's head to \
            the answer, the guest's call and all",
    });
    Ok(())
}

/// Lays an interpreter of `scripts/interpreters.sh all` into a project.
fn install(
    project: &Path,
    (kit, version, extension, file): (&str, &str, &str, &str),
) -> Result<()> {
    let from = workspace::root()
        .join("target/interpreters")
        .join(kit)
        .join(file);
    let wasm = fs::read(&from)
        .with_context(|| format!("{}: scripts/interpreters.sh all", from.display()))?;
    let directory = project.join(".wws/runtimes/wws").join(kit).join(version);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(file), &wasm)?;
    let mut sum = String::new();
    for byte in Sha256::digest(&wasm) {
        write!(sum, "{byte:02x}")?;
    }
    let settings = format!(
        "version = 1\n[[repositories]]\nname = \"wws\"\n\
         [[repositories.runtimes]]\nname = \"{kit}\"\nversion = \"{version}\"\n\
         extensions = [\"{extension}\"]\nkit = \"{kit}\"\n\
         [repositories.runtimes.binary]\nfilename = \"{file}\"\n\
         [repositories.runtimes.binary.checksum]\ntype = \"sha256\"\nvalue = \"{sum}\"\n"
    );
    Ok(fs::write(project.join(".wws.toml"), settings)?)
}

/// A directory that `scripts/bench-peers.sh` makes.
fn peers(name: &str) -> Result<PathBuf> {
    workspace::tools(name).context("scripts/bench-peers.sh makes it")
}

fn fastify(port: u16) -> Result<Command> {
    let mut command = Command::new("node");
    command
        .args(["fastify.js", &port.to_string()])
        .current_dir(peers("peers/fastify")?);
    Ok(command)
}

fn gunicorn(port: u16) -> Result<Command> {
    let mut command = Command::new("python3");
    command
        .args(["-m", "gunicorn", "--workers", "2", "--no-control-socket"])
        .args(["--bind", &format!("127.0.0.1:{port}"), "hello_wsgi:app"])
        .env("PYTHONPATH", ".")
        .current_dir(peers("peers/gunicorn")?);
    Ok(command)
}

fn puma(port: u16) -> Result<Command> {
    let root = peers("puma")?;
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let gems = libraries.join("rubygems-integration/3.1.0");
    let native = gems.join("extensions/x86_64-linux/3.1.0");
    let path = [
        gems.join("gems/puma-5.6.5/lib"),
        native.join("puma-5.6.5"),
        gems.join("gems/nio4r-2.5.8/lib"),
        native.join("nio4r-2.5.8"),
        root.join("usr/share/rubygems-integration/all/gems/rack-2.2.22/lib"),
        root.join("usr/lib/ruby/3.1.0"),
        libraries.join("ruby/3.1.0"),
    ];
    let mut command = Command::new(root.join("usr/bin/ruby3.1"));
    command
        .env("LD_LIBRARY_PATH", &libraries)
        .env("RUBYLIB", std::env::join_paths(path)?)
        .args(["-e", "require 'puma/cli'; Puma::CLI.new(ARGV).run", "--"])
        .args(["--workers", "2", "--threads", "1:5", "--preload", "--quiet"])
        .args(["--environment", "production"])
        .args(["--bind", &format!("tcp://127.0.0.1:{port}")])
        .arg(workspace::root().join("bench/peers/hello.ru"));
    Ok(command)
}
