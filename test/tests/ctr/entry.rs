//! What an entry point may be, and what it may be wrapped in.

use anyhow::Result;
use wws_test::command;
use wws_test::container::{LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};

const TOOL: &str = env!("CARGO_BIN_EXE_native-tool");

#[test]
fn workers_are_served_behind_an_init_program() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("wrapped", "")?.import(&containerd)?;
    // As `docker run --init` does it, and `nerdctl run --init`.
    for (name, init) in [("docker", "/sbin/docker-init"), ("nerdctl", "/sbin/tini")] {
        let mut container = Run::workers(&containerd, &image, name)?
            .mount_read_only(TOOL.as_ref(), init)
            .arguments(&[init, "--", "/"])
            .start()?;
        container.wait_until_up()?;
        assert_eq!(
            container.get(&format!("{PROBE}?log=x"))?.status,
            200,
            "{}",
            container.log()?
        );
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0, "{}", container.log()?);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn a_command_of_the_server_is_an_entry_point() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("command", "")?.import(&containerd)?;
    let mut run = Run::workers(&containerd, &image, "command")?
        .options(&["--rm"])
        .arguments(&["wws", "routes"])
        .command_to_start();
    let routes = command::run(&mut run, LIMIT)?.success()?;
    assert!(routes.contains(PROBE), "{routes}");
    containerd.expect_nothing_left()
}

#[test]
fn a_wasm_file_as_entry_point_answers_every_path() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("single", "")?
        .guest("probe", "other.wasm")?
        .entrypoint(&["/probe.wasm"])
        .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "single")?.start()?;
    container.wait_until_up()?;
    for path in ["/", "/other", "/a/b"] {
        let response = container.get(&format!("{path}?log={path}"))?;
        assert_eq!(response.status, 200, "{path}: {}", container.log()?);
    }
    let routes = containerd.ctr(&["task", "exec", "--exec-id", "r", "single", "wws", "routes"])?;
    assert!(
        routes.contains("/[...path]") && routes.contains("probe.wasm"),
        "{routes}"
    );
    assert!(!routes.contains("other.wasm"), "{routes}");
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0, "{}", container.log()?);
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn a_component_as_entry_point_answers_every_path() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    // Of WASI 0.2 and of 0.3.
    for (name, guest) in [
        ("component", "component-hello"),
        ("component-p3", "component-hello-p3"),
    ] {
        let image = Image::workers(name)
            .guest(guest, "app/server.wasm")?
            .guest("probe", "probe.wasm")?
            .entrypoint(&["/app/server.wasm"])
            .import(&containerd)?;
        let mut container = Run::workers(&containerd, &image, name)?.start()?;
        container.wait_until_up()?;
        for path in ["/", "/other", "/probe", "/a/b"] {
            let response = container.get(path)?;
            assert_eq!(response.status, 200, "{path}: {}", container.log()?);
            assert_eq!(response.text(), "hello", "{path}");
        }
        let routes = containerd.ctr(&["task", "exec", "--exec-id", "r", name, "wws", "routes"])?;
        assert!(
            routes.contains("/[...path]") && routes.contains("server.wasm"),
            "{routes}"
        );
        assert!(!routes.contains("probe.wasm"), "{routes}");
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0, "{}", container.log()?);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn a_health_check_in_its_string_form_is_run_without_a_shell() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("health", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "health")?.start()?;
    container.wait_until_up()?;
    let check = |id: &str, line: &str| {
        let exec = [
            "task",
            "exec",
            "--exec-id",
            id,
            "health",
            "/bin/sh",
            "-c",
            line,
        ];
        containerd.try_ctr(&exec)
    };
    let well = check(
        "well",
        &format!("wws health --request '{PROBE}?log=x' || exit 1"),
    )?;
    assert!(well.status.success(), "{well:?}");
    let ill = check(
        "ill",
        &format!("wws health --request={PROBE}?read=/nothing"),
    )?;
    assert_eq!(ill.status.code(), Some(1), "{ill:?}");
    let other = check("other", "wws health | cat")?;
    assert!(
        other
            .stderr
            .contains("OCI runtime exec failed: exec failed: "),
        "{other:?}"
    );
    assert!(other.stderr.contains("/bin/sh"), "{other:?}");
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}
