//! From `ctr run` to the first answer, beside containerd's own runtime with a static server.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use wws_test::{
    container::{RUNC, Run},
    containerd::{Containerd, Version},
    http,
    image::Image,
    workspace,
};

use crate::report::{Measured, Report, Target, median};

const ROUNDS: usize = 11;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let containerd = Containerd::start(Version::V1_7)?;
    let ours = {
        let hello = fs::read(workspace::guest("hello")?)?;
        Image::workers("bench-hello")
            .file("hello.wasm", hello)?
            .import(&containerd)?
    };
    let python = python(&containerd)?;
    // Its interpreter is compiled once, which is not what is measured.
    time(Run::workers(&containerd, &python, "python")?, "/")?;
    let program = std::env::current_exe()?.with_file_name("native-hello");
    let native = Image::native("bench-native", &program.display().to_string())
        .and_then(|image| image.import(&containerd))
        .context(
            "native-hello is a program of wws-test: cargo build --release -p wws-test --bins",
        )?;
    let (mut of_ours, mut of_new, mut of_peer) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_python = Vec::new();
    let kept = entries(&containerd)?;
    for round in 0..ROUNDS {
        of_python.push(time(
            Run::workers(&containerd, &python, &format!("python-{round}"))?,
            "/",
        )?);
        of_ours.push(time(
            Run::workers(&containerd, &ours, &format!("ours-{round}"))?,
            "/hello",
        )?);
        // Each removes what the one before has compiled.
        forget(&containerd, &kept)?;
        of_new.push(time(
            Run::workers(&containerd, &ours, &format!("new-{round}"))?,
            "/hello",
        )?);
        of_peer.push(time(
            Run::native(&containerd, &native, &format!("peer-{round}"))?.runtime(RUNC),
            "/",
        )?);
    }
    eprintln!(
        "ours: {of_ours:.0?}\nours, compiled at the start: {of_new:.0?}\n\
         ours, Python: {of_python:.0?}\npeer: {of_peer:.0?}"
    );
    let peer_value = median(&mut of_peer);
    report.add(&Measured {
        name: "`ctr run` to the first answer, Rust worker : io.containerd.runc.v2 with a static \
            server",
        value: median(&mut of_ours),
        unit: "ms",
        peer: "io.containerd.runc.v2, a static server of the same answer",
        peer_value,
        target: Target::AtMost(1.15),
        how: "containerd 1.7, `ctr run --net-host`, asked every millisecond until it answers 200; \
            median of 11 in turns",
    });
    report.add(&Measured {
        name: "the same, its code not in the store",
        value: median(&mut of_new),
        unit: "ms",
        peer: "io.containerd.runc.v2, a static server of the same answer",
        peer_value,
        target: Target::AtMost(2.0),
        how: "as before, its entry in the code cache removed each time",
    });
    report.add(&Measured {
        name: "the same of a Python worker, its interpreter's code in the store",
        value: median(&mut of_python),
        unit: "ms",
        peer: "io.containerd.runc.v2, a static server of the same answer",
        peer_value,
        target: Target::AtMost(2.0),
        how: "as before",
    });
    Ok(())
}

/// An image of one worker in Python, with its interpreter.
fn python(containerd: &Containerd) -> Result<String> {
    let example = workspace::root().join("target/images/user-generation/root");
    let runtime = ".wws/runtimes/wws/python";
    let worker = "def worker(request):\n    return Response(\"Hello\")\n";
    Image::workers("bench-python")
        .copy(&example.join(runtime), runtime)?
        .file(".wws.toml", fs::read(example.join(".wws.toml"))?)?
        .file("index.py", worker)?
        .import(containerd)
}

/// Names of the compiled code in the store.
fn entries(containerd: &Containerd) -> Result<HashSet<OsString>> {
    fs::read_dir(containerd.directory().join("store/code"))?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

/// Removes all compiled code but `kept`.
fn forget(containerd: &Containerd, kept: &HashSet<OsString>) -> Result<()> {
    for name in entries(containerd)?.difference(kept) {
        fs::remove_file(containerd.directory().join("store/code").join(name))?;
    }
    Ok(())
}

/// Milliseconds from the start of `ctr` to the first 200.
fn time(run: Run<'_>, path: &str) -> Result<f64> {
    let started = Instant::now();
    let mut container = run.start()?;
    loop {
        if http::get(container.port(), path).is_ok_and(|answer| answer.status == 200) {
            break;
        }
        anyhow::ensure!(
            started.elapsed() < Duration::from_secs(120),
            "no answer; the log:\n{}",
            container.log().unwrap_or_default()
        );
        sleep(Duration::from_millis(1));
    }
    let elapsed = started.elapsed();
    container.signal("SIGKILL")?;
    container.remove()?;
    Ok(elapsed.as_secs_f64() * 1000.0)
}
