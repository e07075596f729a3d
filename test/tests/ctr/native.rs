//! A container with a native program runs under our runtime as it does under containerd's own.

use anyhow::Result;
use wws_test::container::{RUNC, RUNTIME, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;

const PROGRAM: &str = env!("CARGO_BIN_EXE_native-hello");

/// What is asked of our runtime, and first of the other, so that the expectation itself is tried.
fn behaves_alike(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = Image::native("native", PROGRAM)?.import(&containerd)?;
    for (name, runtime) in [("theirs", RUNC), ("ours", RUNTIME)] {
        let mut container = Run::native(&containerd, &image, name)?
            .runtime(runtime)
            .start()?;
        container.wait_until_up()?;
        assert_eq!(container.get("/")?.text(), "native\n", "{name}");
        assert_eq!(container.get("/exit/7")?.status, 200, "{name}");
        assert_eq!(container.wait()?, 7, "{name}: the program's own exit code");
        let log = container.log()?;
        assert!(
            log.contains("native hello on port"),
            "{name}: standard output in {log}"
        );
        assert!(
            log.contains("second stream"),
            "{name}: standard error in {log}"
        );
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

on_containerd![a_native_program_runs_as_under_runc = behaves_alike: V1_6 V1_7 V2_1 V2_3 V2_4];

#[test]
fn a_killed_native_program_exits_with_137() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::native("native", PROGRAM)?.import(&containerd)?;
    let mut container = Run::native(&containerd, &image, "killed")?.start()?;
    container.wait_until_up()?;
    container.signal("SIGKILL")?;
    assert_eq!(container.wait()?, 137);
    Ok(())
}
