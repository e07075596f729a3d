//! Containers whose memory is too little to compile their own workers, while the host cannot
//! compile them either: they serve what they have, and are never killed for a lack of memory.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use wws_test::container::{Container, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::wait;

/// The memory of a container, in bytes: enough to serve, and to compile the probe.
const MEMORY: &str = "67108864";

/// Functions of the large worker: some megabytes of code, which take about 200 MiB to be compiled.
const FUNCTIONS: usize = 24_000;

/// A worker of much code, which answers `hello`.
fn large() -> Result<Vec<u8>> {
    let mut functions = String::new();
    for function in 0..FUNCTIONS {
        let mut body = String::from("(local.get 0)");
        for number in 0..16 {
            let factor = function * 31 + number;
            body = format!("(i32.xor (i32.mul {body} (i32.const {factor})) (local.get 0))");
        }
        functions += &format!("(func (param i32) (result i32) {body})");
    }
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 1024) "{{\22data\22:\22hello\22}}")
          (func (export "_start")
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 16))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
          {functions})"#
    );
    Ok(wat::parse_str(text)?)
}

/// The image of the probe worker and of the large one.
fn image(containerd: &Containerd) -> Result<String> {
    let image = Image::probe("both", "")?.file("large.wasm", large()?)?;
    image.import(containerd)
}

/// A container of little memory.
fn start<'c>(containerd: &'c Containerd, image: &str, name: &str) -> Result<Container<'c>> {
    let run = Run::workers(containerd, image, name)?;
    run.options(&["--memory-limit", MEMORY]).start()
}

fn status(container: &Container<'_>, path: &str) -> Result<u16> {
    Ok(container.get(path)?.status)
}

/// All turns of the host's compilers, but for that of small modules; held until dropped.
fn all_turns(containerd: &Containerd) -> Result<Vec<File>> {
    let code = containerd.directory().join("store/code");
    let cpus = std::thread::available_parallelism()?.get();
    let turns = (0..cpus).map(|number| code.join(format!("{number}.cpu")));
    let lock = |path: PathBuf| {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    turns.map(lock).collect()
}

#[test]
fn serves_while_it_waits_for_the_host_to_compile() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    // Makes the code cache.
    let probe = Image::probe("probe", "")?.import(&containerd)?;
    let mut first = Run::workers(&containerd, &probe, "first")?.start()?;
    first.wait_until_up()?;
    first.signal("SIGTERM")?;
    first.remove()?;

    let image = image(&containerd)?;
    let turns = all_turns(&containerd)?;
    let mut container = start(&containerd, &image, "waits")?;
    container.wait_until_up()?;
    let log = container.wait_for_log("/large answers 503 until the host has compiled it")?;
    ensure!(log.contains("MiB of memory"), "{log}");
    let refused = container.get("/large")?;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(status(&container, &format!("{PROBE}?log=asked"))?, 200);
    let reason = "precompile waits: large.wasm: not compiled ahead: all CPUs are compiling other";
    wait::until("the reason in containerd's log", LIMIT, || {
        Ok(containerd.log()?.contains(reason).then_some(()))
    })?;

    // A moment later the host is not busy any more.
    drop(turns);
    wait::until("the compiled worker", 3 * LIMIT, || {
        Ok((status(&container, "/large")? == 200).then_some(()))
    })
    .with_context(|| format!("{:?}\n{:?}", container.log(), containerd.log()))?;
    assert_eq!(container.get("/large")?.text(), "hello");
    assert_eq!(status(&container, &format!("{PROBE}?log=asked"))?, 200);
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    container.remove()?;

    // It was not remembered as a module that cannot be compiled.
    let failed = containerd.directory().join("store/code/failed");
    assert!(!failed.exists() || fs::read_to_string(failed)?.is_empty());
    containerd.expect_nothing_left()
}

#[test]
fn serves_other_workers_if_nobody_compiles() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    // No directory can be made there: there is no code cache.
    fs::write(containerd.directory().join("store"), "")?;
    let mut container = start(&containerd, &image, "alone")?;
    container.wait_until_up()?;
    container.wait_for_log("/large answers 503")?;
    for _ in 0..3 {
        assert_eq!(status(&container, "/large")?, 503);
        assert_eq!(status(&container, &format!("{PROBE}?log=asked"))?, 200);
    }
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    container.remove()?;
    containerd.expect_nothing_left()
}
