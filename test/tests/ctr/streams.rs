//! Standard streams of native programs are what they are under containerd's own runtime.

use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wws_test::command::{self, Finished};
use wws_test::container::{self, LIMIT, RUNC, RUNTIME, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;

const TOOL: &str = env!("CARGO_BIN_EXE_native-tool");

const RUNTIMES: [(&str, &str); 2] = [("theirs", RUNC), ("ours", RUNTIME)];

fn image(containerd: &Containerd) -> Result<String> {
    Image::native("tool", TOOL)?.import(containerd)
}

/// A shell that writes what `script` does.
fn writer(script: &str) -> Result<(Child, ChildStdout)> {
    let mut shell = Command::new("sh");
    let mut writer = shell.args(["-c", script]).stdout(Stdio::piped()).spawn()?;
    let output = writer.stdout.take().context("no pipe")?;
    Ok((writer, output))
}

/// Runs the tool in a container of its own whose input is what `script` writes.
fn run(run: Run<'_>, script: &str, words: &[&str]) -> Result<Finished> {
    let mut command = run
        .options(&["--rm"])
        .arguments(&[&["/program"], words].concat())
        .command_to_start();
    let (mut writer, input) = writer(script)?;
    let finished = command::run_with(&mut command, input.into(), LIMIT);
    // It may still wait for a reader.
    let _ = writer.kill();
    writer.wait()?;
    finished
}

fn a_program_opens_its_input_by_name(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = image(&containerd)?;
    let cases = [
        // Over while the program starts, and after it.
        ("echo hello; sleep 1", &["cat", "/dev/stdin", "2"][..]),
        ("echo hello; sleep 1", &["cat", "/proc/self/fd/0"]),
        ("sleep 1; echo hello", &["cat", "/dev/stdin"]),
        // Over before: with the other runtime this never ends, with a plain `cat` either.
        ("echo hello", &["cat", "/dev/stdin"]),
    ];
    for ((name, runtime), cases) in RUNTIMES.into_iter().zip([&cases[..3], &cases[..]]) {
        for (count, (script, words)) in cases.iter().enumerate() {
            let container = format!("{name}-{count}");
            let new = Run::native(&containerd, &image, &container)?.runtime(runtime);
            let finished = run(new, script, words)?;
            assert_eq!(
                finished.stdout, "hello\n",
                "{container} {words:?}: {finished:?}"
            );
        }
    }
    containerd.expect_nothing_left()
}

on_containerd![a_program_opens_its_input_by_name = a_program_opens_its_input_by_name: V1_6 V2_1];

#[test]
fn large_inputs_and_outputs_arrive_whole() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    for (name, runtime) in RUNTIMES {
        let new = Run::native(&containerd, &image, name)?.runtime(runtime);
        let finished = run(
            new,
            "yes 0123456789abcde | head -c 4000000",
            &["cat", "/dev/stdin"],
        )?;
        assert_eq!(
            finished.stdout.len(),
            4_000_000,
            "{name}: {}",
            finished.stderr
        );
        assert!(
            finished
                .stdout
                .lines()
                .all(|line| line == "0123456789abcde"),
            "{name}"
        );
    }
    containerd.expect_nothing_left()
}

#[test]
fn an_exec_opens_its_input_by_name() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    for (name, runtime) in RUNTIMES {
        let new = Run::native(&containerd, &image, name)?.runtime(runtime);
        new.arguments(&["/program", "sleep", "1000"])
            .start_detached()?;
        for (count, script) in ["echo hello", "sleep 1; echo hello; sleep 1"]
            .iter()
            .enumerate()
        {
            let mut exec = containerd.ctr_command();
            exec.args(["task", "exec", "--exec-id", &format!("e{count}"), name]);
            exec.args(["/program", "cat", "/dev/stdin"]);
            let (mut writer, input) = writer(script)?;
            let finished = command::run_with(&mut exec, input.into(), LIMIT)?;
            writer.wait()?;
            assert_eq!(finished.stdout, "hello\n", "{name} {script}: {finished:?}");
        }
        container::end(&containerd, name)?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn a_program_sees_pipes_and_no_paths_of_the_host() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    for (name, runtime) in RUNTIMES {
        let new = Run::native(&containerd, &image, name)?.runtime(runtime);
        let finished = run(new, "echo hello", &["streams"])?;
        let streams: Vec<_> = finished.stdout.lines().collect();
        assert_eq!(streams.len(), 3, "{name}: {finished:?}");
        assert!(
            streams.iter().all(|stream| stream.starts_with("pipe:[")),
            "{name}: {streams:?}"
        );
    }
    containerd.expect_nothing_left()
}

#[test]
fn deletes_an_exec_whose_streams_are_held_open() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    Run::native(&containerd, &image, "orphans")?
        .arguments(&["/program", "sleep", "1000"])
        .start_detached()?;
    let mut times = Vec::new();
    for count in 0..5 {
        let from = Instant::now();
        let words = [
            "task",
            "exec",
            "--exec-id",
            &format!("e{count}"),
            "orphans",
            "/program",
        ];
        let finished = containerd.try_ctr(&[&words[..], &["orphan", "500"]].concat())?;
        assert!(finished.status.success(), "{finished:?}");
        assert_eq!(finished.stdout, "started\n", "{finished:?}");
        times.push(from.elapsed());
    }
    // A wait for the streams would be one each time; a busy machine may be slow once.
    let quickest = times.iter().min();
    assert!(quickest < Some(&Duration::from_secs(5)), "{times:?}");
    container::end(&containerd, "orphans")?;
    containerd.expect_nothing_left()
}

#[test]
fn reports_a_failed_start_once_as_runc_does() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    for (name, runtime) in RUNTIMES {
        let new = Run::native(&containerd, &image, name)?.runtime(runtime);
        let finished = run(new, "", &[])?;
        assert!(
            !finished.status.success(),
            "the tool wants a word: {finished:?}"
        );
        let new = Run::native(&containerd, &image, &format!("{name}-missing"))?.runtime(runtime);
        let mut command = new
            .options(&["--rm"])
            .arguments(&["/missing"])
            .command_to_start();
        let finished = command::run(&mut command, LIMIT)?;
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(
            said.contains("OCI runtime create failed: runc create failed: "),
            "{name}: {said}"
        );
        assert_eq!(
            said.matches("no such file or directory").count(),
            1,
            "{name}: {said}"
        );
    }
    Ok(())
}
