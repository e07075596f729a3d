//! What an idle container costs, how many fit on one machine, and ten that start at once.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use wws_test::{
    container::{RUNC, Run},
    containerd::{Containerd, Version},
    http,
    image::Image,
    wait, workspace,
};

use crate::report::{Alone, Measured, Report, Target, median};

/// How many run beside each other.
const MANY: usize = 100;

/// How many start at once.
const AT_ONCE: usize = 10;

/// How long nothing is asked of idle containers.
const IDLE: Duration = Duration::from_secs(20);

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let containerd = Containerd::start(Version::V1_7)?;
    let hello = fs::read(workspace::guest("hello")?)?;
    let image = Image::workers("bench-hello")
        .file("hello.wasm", hello)?
        .import(&containerd)?;
    many(report, &containerd, &image)?;
    let program = std::env::current_exe()?.with_file_name("native-hello");
    let native = Image::native("bench-native", &program.display().to_string())?;
    let native = native.import(&containerd)?;
    at_once(report, &containerd, &image, &native)?;
    StartedContainer::Peer(&native).start(&containerd, "peer")?;
    let peer = memory(&containerd)?;
    eprintln!("io.containerd.runc.v2 with a static server: {peer:.2} MiB");
    end(&containerd, "peer")
}

/// What is started.
#[derive(Clone, Copy)]
enum StartedContainer<'i> {
    /// A worker of this image.
    Ours(&'i str),
    /// A static server of this image, by containerd's own runtime.
    Peer(&'i str),
}

impl StartedContainer<'_> {
    /// Milliseconds from the start of `ctr` to the first 200.
    fn start(self, containerd: &Containerd, name: &str) -> Result<f64> {
        let from = Instant::now();
        let (run, path) = match self {
            Self::Ours(image) => (Run::workers(containerd, image, name)?, "/hello"),
            Self::Peer(image) => (Run::native(containerd, image, name)?.runtime(RUNC), "/"),
        };
        let port = run.port();
        run.start_detached()?;
        answered(port, path)?;
        Ok(from.elapsed().as_secs_f64() * 1000.0)
    }
}

fn many(report: &mut Report, containerd: &Containerd, image: &str) -> Result<()> {
    let mut ports = Vec::new();
    let mut first = 0.0;
    for number in 0..MANY {
        let run = Run::workers(containerd, image, &format!("many-{number}"))?;
        ports.push(run.port());
        run.start_detached()?;
        if number == 0 {
            answered(ports[0], "/hello")?;
            // A server gives back what it does not need once it is idle.
            sleep(Duration::from_secs(5));
            first = memory(containerd)?;
        }
    }
    for port in &ports {
        answered(*port, "/hello")?;
    }
    sleep(Duration::from_secs(5));
    let all = memory(containerd)?;
    let (before, from) = (times(containerd)?, Instant::now());
    sleep(IDLE);
    let busy: Duration = times(containerd)?
        .iter()
        .map(|(task, time)| time.saturating_sub(before.get(task).copied().unwrap_or(0)))
        .map(Duration::from_nanos)
        .sum();
    let seconds = from.elapsed().as_secs_f64();
    let mut good = 0.0;
    for port in &ports {
        good += f64::from(u8::from(answered(*port, "/hello").is_ok()));
    }
    report.add_alone(&Alone {
        name: "memory of one idle container with a Rust worker",
        value: first,
        unit: "MiB",
        target: Target::AtMost(10.0),
        how: "PSS of the shim's and the container's processes, 5 s after an answer",
    });
    report.add_alone(&Alone {
        name: "memory of each further container of the same image",
        value: (all - first) / count(MANY - 1),
        unit: "MiB",
        target: Target::AtMost(5.0),
        how: "the same of 100 containers, less the first, for each",
    });
    report.add_alone(&Alone {
        name: "CPU time of 100 idle containers",
        value: busy.as_secs_f64() * 1000.0 / seconds,
        unit: "ms a second",
        target: Target::AtMost(1.0),
        how: "time that all threads of their processes and shims ran in 20 s, as the scheduler \
            counts it",
    });
    report.add_alone(&Alone {
        name: "containers beside each other that answer",
        value: good,
        unit: "of 100",
        target: Target::AtLeast(100.0),
        how: "each asked after 20 s of nothing",
    });
    for number in 0..MANY {
        end(containerd, &format!("many-{number}"))?;
    }
    Ok(())
}

fn at_once(report: &mut Report, containerd: &Containerd, image: &str, native: &str) -> Result<()> {
    let ours = slowest(containerd, StartedContainer::Ours(image), "ours")?;
    // How much of it is the machine's: all of one start but the waits is work for its CPUs.
    let peer = slowest(containerd, StartedContainer::Peer(native), "peer")?;
    report.add(&Measured {
        name: "the slowest of 10 containers that start at once : one alone",
        value: ours.at_once,
        unit: "ms",
        peer: "one alone",
        peer_value: ours.alone,
        target: Target::AtMost(3.0),
        how: "`ctr run --detach` to the first 200; median of 3 rounds of 10, and of 9 alone \
            between them",
    });
    report.add(&Measured {
        name: "the slowest of 10 containers that start at once : the same of io.containerd.runc.v2 \
            with a static server",
        value: ours.at_once,
        unit: "ms",
        peer: "io.containerd.runc.v2 with a static server",
        peer_value: peer.at_once,
        target: Target::AtMost(1.15),
        how: "as before, one after the other",
    });
    eprintln!(
        "io.containerd.runc.v2: {:.0} ms at once, {:.0} ms alone",
        peer.at_once, peer.alone
    );
    Ok(())
}

/// Milliseconds, medians.
struct Times {
    alone: f64,
    at_once: f64,
}

fn slowest(containerd: &Containerd, kind: StartedContainer<'_>, word: &str) -> Result<Times> {
    let (mut alone, mut slowest) = (Vec::new(), Vec::new());
    for round in 0..3 {
        for again in 0..3 {
            let name = format!("{word}-alone-{round}-{again}");
            alone.push(kind.start(containerd, &name)?);
            end(containerd, &name)?;
        }
        let name = |number: usize| format!("{word}-once-{round}-{number}");
        let times = thread::scope(|scope| {
            let started: Vec<_> = (0..AT_ONCE)
                .map(|number| scope.spawn(move || kind.start(containerd, &name(number))))
                .collect();
            let join = |handle: thread::ScopedJoinHandle<'_, Result<f64>>| {
                handle.join().ok().context("a start panicked")?
            };
            started.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        eprintln!("{word}, {AT_ONCE} at once: {times:.0?}");
        slowest.push(times.into_iter().fold(0.0, f64::max));
        for number in 0..AT_ONCE {
            end(containerd, &name(number))?;
        }
    }
    Ok(Times {
        alone: median(&mut alone),
        at_once: median(&mut slowest),
    })
}

fn answered(port: u16, path: &str) -> Result<()> {
    wait::until("an answer", LIMIT, || {
        let good = http::get(port, path).is_ok_and(|answer| answer.status == 200);
        Ok(good.then_some(()))
    })
}

fn end(containerd: &Containerd, name: &str) -> Result<()> {
    containerd.ctr(&["task", "delete", "--force", name])?;
    containerd.ctr(&["container", "rm", name]).map(drop)
}

/// PSS of all containers and their shims, in MiB.
fn memory(containerd: &Containerd) -> Result<f64> {
    let mut kib = 0;
    for pid in containerd.of_containers()? {
        let path = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
        let text = fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        kib += number.context("no Pss")?.parse::<usize>()?;
    }
    ensure!(kib > 0, "no process");
    Ok(count(kib) / 1024.0)
}

/// Nanoseconds that each thread of all containers and their shims has run
/// (`/proc/PID/task/TID/schedstat`).
fn times(containerd: &Containerd) -> Result<BTreeMap<PathBuf, u64>> {
    let mut times = BTreeMap::new();
    for pid in containerd.of_containers()? {
        for task in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
            let file = task?.path().join("schedstat");
            // A thread that is not needed any more may end.
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            let time = text.split_whitespace().next().context("no time")?;
            times.insert(file, time.parse()?);
        }
    }
    Ok(times)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(number: usize) -> f64 {
    number as f64
}
