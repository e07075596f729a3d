//! What containerd asks of a running container: exec, statistics, processes, pause, events.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use wws_test::container::{self, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::wait;

fn statistics_and_pause(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = Image::probe("life", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "life")?
        .options(&["--memory-limit", "268435456"])
        .start()?;
    container.wait_until_up()?;

    let metrics = containerd.ctr(&["task", "metrics", "--format", "json", "life"])?;
    let metrics: serde_json::Value = serde_json::from_str(&metrics)?;
    let number = |paths: [&str; 2]| {
        let value = paths.iter().find_map(|path| metrics.pointer(path));
        value.and_then(serde_json::Value::as_u64)
    };
    let limit = number(["/memory/usage/limit", "/memory/usage_limit"]);
    assert_eq!(limit, Some(268_435_456), "{metrics}");
    let used = number(["/memory/usage/usage", "/memory/usage"]);
    assert!(used.is_some_and(|bytes| bytes > 1 << 20), "{metrics}");
    let cpu = number(["/cpu/usage/total", "/cpu/usage_usec"]);
    assert!(cpu.is_some_and(|time| time > 0), "{metrics}");
    let pids = number(["/pids/current", "/pids/current"]);
    assert!(pids.is_some_and(|count| count > 1), "{metrics}");

    let pid = container.pid()?.as_raw_nonzero().to_string();
    let processes = containerd.ctr(&["task", "ps", "life"])?;
    assert!(processes.contains(&pid), "{pid} in {processes}");

    containerd.ctr(&["task", "pause", "life"])?;
    assert_eq!(
        container::status(&containerd, "life")?.as_deref(),
        Some("PAUSED")
    );
    let mut stream = TcpStream::connect(("127.0.0.1", container.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
    assert!(
        stream.read(&mut [0]).is_err(),
        "a paused server does not answer"
    );
    containerd.ctr(&["task", "resume", "life"])?;
    stream.set_read_timeout(Some(LIMIT))?;
    assert_eq!(stream.read(&mut [0])?, 1, "and does afterwards");

    let checkpoint = containerd.try_ctr(&["task", "checkpoint", "life"])?;
    assert!(!checkpoint.status.success());
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    container.remove()?;
    containerd.expect_nothing_left()
}

on_containerd![statistics_and_pause_work = statistics_and_pause: V1_6 V1_7 V2_1 V2_3 V2_4];

fn commands_inside(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = Image::probe("life", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "life")?.start()?;
    container.wait_until_up()?;
    let exec = |id: &str, words: &[&str]| {
        let mut all = vec!["task", "exec", "--exec-id", id, "life"];
        all.extend(words);
        containerd.try_ctr(&all)
    };
    let routes = exec("routes", &["wws", "routes"])?.success()?;
    assert!(routes.contains(PROBE), "{routes}");
    let version = exec("version", &["wws", "--version"])?.success()?;
    assert!(version.starts_with("wws "), "{version}");
    exec("check", &["wws", "check"])?.success()?;
    // The word after an option is not the directory.
    let request = format!("{PROBE}?log=x");
    let health = exec("health", &["wws", "health", "--request", &request])?;
    assert!(health.stdout.contains(PROBE), "{health:?}");
    health.success()?;
    let usage = exec("usage", &["wws", "--no-such-option"])?;
    assert_eq!(
        usage.status.code(),
        Some(2),
        "the process's own code: {usage:?}"
    );
    let shell = exec("shell", &["/bin/sh"])?;
    assert!(
        !shell.status.success() && shell.stderr.contains("/bin/sh"),
        "{shell:?}"
    );
    // The name of a failed one is free again.
    let again = exec("shell", &["wws", "--version"])?;
    assert!(again.status.success(), "{again:?}");
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    container.remove()?;
    containerd.expect_nothing_left()
}

on_containerd![runs_commands_inside = commands_inside: V1_6 V1_7 V2_1 V2_3 V2_4];

#[test]
fn events_arrive_in_order() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::workers("events")
        .file("public/index.html", "a page")?
        .import(&containerd)?;
    let path = containerd.directory().join("events");
    let mut follow = containerd
        .ctr_command()
        .arg("events")
        .stdin(Stdio::null())
        .stdout(File::create(&path)?)
        .stderr(Stdio::null())
        .spawn()?;
    // Events before it listens would be lost.
    wait::until("events followed", LIMIT, || {
        containerd.ctr(&["namespace", "label", &containerd.namespace(), "a=b"])?;
        Ok((fs::metadata(&path)?.len() > 0).then_some(()))
    })?;
    let mut container = Run::workers(&containerd, &image, "events")?.start()?;
    container.wait_until_up()?;
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "one",
        "events",
        "wws",
        "--version",
    ];
    containerd.ctr(&exec)?;
    container.signal("SIGTERM")?;
    container.remove()?;
    let text = wait::until("the last event", LIMIT, || {
        Ok(Some(fs::read_to_string(&path)?).filter(|text| text.contains("/tasks/delete")))
    })?;
    follow.kill()?;
    follow.wait()?;
    let topics: Vec<_> = text
        .split_whitespace()
        .filter(|word| word.starts_with("/tasks/"))
        .collect();
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/exit",
        "/tasks/delete",
    ];
    // How containerd itself orders those of an exec's end and of its client's next call is its
    // matter.
    let without_exec_delete: Vec<_> = {
        let mut seen = topics.clone();
        if seen.len() > expected.len() {
            let extra = seen.iter().position(|topic| *topic == "/tasks/delete");
            seen.remove(extra.context("no delete")?);
        }
        seen
    };
    assert_eq!(without_exec_delete, expected, "{text}");
    Ok(())
}
