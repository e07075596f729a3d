//! How a container of workers ends.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::http;
use wws_test::image::{Image, PROBE};
use wws_test::wait::patience;

#[test]
fn answers_requests_in_flight_before_it_exits() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("drain", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "drain")?.start()?;
    container.wait_until_up()?;
    let port = container.port();
    let slow = thread::spawn(move || http::get(port, &format!("{PROBE}?sleep=1500")));
    container.wait_for_log("asleep")?;
    let from = Instant::now();
    container.signal("SIGTERM")?;
    let answer = slow.join().ok().context("the client panicked")??;
    assert_eq!((answer.status, answer.text().as_str()), (200, "awake"));
    assert_eq!(container.wait()?, 0);
    assert!(
        from.elapsed() < patience(Duration::from_secs(7)),
        "{:?}",
        from.elapsed()
    );
    assert!(http::get(port, PROBE).is_err(), "nobody listens any more");
    Ok(())
}

#[test]
fn signals_stop_the_server_with_the_right_exit_codes() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("signals", "")?.import(&containerd)?;
    let cases = [
        ("SIGTERM", 0),
        ("SIGINT", 0),
        ("SIGQUIT", 0),
        ("SIGRTMIN+3", 0),
        ("SIGKILL", 137),
    ];
    for (signal, code) in cases {
        let name = signal.to_lowercase().replace('+', "-");
        let mut container = Run::workers(&containerd, &image, &name)?.start()?;
        container.wait_until_up()?;
        let from = Instant::now();
        container.signal(signal)?;
        assert_eq!(container.wait()?, code, "{signal}: {}", container.log()?);
        assert!(
            from.elapsed() < patience(Duration::from_secs(5)),
            "{signal}: an idle server ends at once, not after {:?}",
            from.elapsed()
        );
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn other_signals_do_not_stop_the_server() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("others", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "others")?.start()?;
    container.wait_until_up()?;
    for signal in ["SIGHUP", "SIGUSR1", "SIGUSR2"] {
        container.signal(signal)?;
        thread::sleep(Duration::from_millis(100));
        let answer = container.get(&format!("{PROBE}?log=still"))?;
        assert_eq!(answer.status, 200, "{signal}: {}", container.log()?);
    }
    container.wait_for_log("reloaded: generation 2")?;
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn exits_after_the_grace_period() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("grace", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "grace")?
        .env("WWS_GRACE_PERIOD", "1s")
        .start()?;
    container.wait_until_up()?;
    let port = container.port();
    let slow = thread::spawn(move || http::get(port, &format!("{PROBE}?sleep=9000")));
    container.wait_for_log("asleep")?;
    let from = Instant::now();
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0, "{}", container.log()?);
    assert!(
        from.elapsed() < patience(Duration::from_secs(7)),
        "{:?}",
        from.elapsed()
    );
    drop(slow.join());
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn a_second_signal_stops_the_server_at_once() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("twice", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "twice")?.start()?;
    container.wait_until_up()?;
    let port = container.port();
    let slow = thread::spawn(move || http::get(port, &format!("{PROBE}?sleep=7000")));
    container.wait_for_log("asleep")?;
    container.signal("SIGTERM")?;
    container.wait_for_log("finishing what is in flight")?;
    let from = Instant::now();
    container.signal("SIGTERM")?;
    container.wait()?;
    assert!(
        from.elapsed() < patience(Duration::from_secs(5)),
        "{:?}",
        from.elapsed()
    );
    drop(slow.join());
    Ok(())
}
