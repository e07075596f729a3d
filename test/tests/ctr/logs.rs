//! What workers and server write is in the container's log.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::http;
use wws_test::image::{Image, PROBE};
use wws_test::wait::patience;

#[test]
fn log_lines_have_worker_and_request_id() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("lines", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "lines")?.start()?;
    let log = container.wait_until_listening()?;
    assert!(log.contains(&format!("]:{}", container.port())), "{log}");
    let answer = container.get(&format!("{PROBE}?log=a-line-of-the-worker"))?;
    let id = answer.header("x-request-id").context("no x-request-id")?;
    let log = container
        .wait_for_log("a-line-of-the-worker\n")
        .or_else(|_| container.log())?;
    let line = log
        .lines()
        .find(|line| line.contains("a-line-of-the-worker") && line.contains("guest"));
    let line = line.with_context(|| format!("no line of the guest in\n{log}"))?;
    assert!(line.contains("probe"), "the worker's name: {line}");
    assert!(line.contains(id), "the request's id {id}: {line}");
    let log = container.wait_for_log("access")?;
    let access = log
        .lines()
        .find(|line| line.contains("access") && line.contains(id));
    let access = access.with_context(|| format!("no access line of {id} in\n{log}"))?;
    assert!(access.contains("200"), "{access}");
    Ok(())
}

#[test]
fn writes_json_log_lines() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("json", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "json")?
        .env("WWS_LOG_FORMAT", "json")
        .start()?;
    container.wait_until_up()?;
    container.get(&format!("{PROBE}?log=a-%22quoted%22-line"))?;
    container.signal("SIGTERM")?;
    container.wait()?;
    let log = container.log()?;
    let mut from_guest = 0;
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
        if line["target"] == "guest" {
            from_guest += 1;
            assert_eq!(line["worker"], "probe", "{line}");
        }
    }
    assert_eq!(from_guest, 1, "{log}");
    Ok(())
}

#[test]
fn a_stalled_log_reader_does_not_stop_workers() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("stalled", "")?.import(&containerd)?;
    let run = Run::workers(&containerd, &image, "stalled")?;
    let port = run.port();
    // A `ctr` whose own output nobody reads: its pipe fills, then the container's.
    let mut ctr = run
        .command_to_start()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    wws_test::wait::until("an answer", wws_test::container::LIMIT, || {
        Ok(http::get(port, PROBE).ok())
    })?;
    let text = "x".repeat(1000);
    let from = Instant::now();
    for count in 0..2000 {
        let answer = http::get(port, &format!("{PROBE}?log={text}"))?;
        assert_eq!(answer.status, 200, "request {count}");
    }
    assert!(
        from.elapsed() < patience(Duration::from_secs(60)),
        "{:?}",
        from.elapsed()
    );
    // Nor does it stop the end.
    let from = Instant::now();
    containerd.ctr(&["task", "kill", "--signal", "SIGTERM", "stalled"])?;
    wws_test::wait::until("the task stopped", wws_test::container::LIMIT, || {
        let status = wws_test::container::status(&containerd, "stalled")?;
        Ok(status
            .is_none_or(|status| status == "STOPPED")
            .then_some(()))
    })?;
    assert!(
        from.elapsed() < patience(Duration::from_secs(5)),
        "{:?}",
        from.elapsed()
    );
    ctr.kill()?;
    ctr.wait()?;
    Ok(())
}
