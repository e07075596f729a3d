//! Options of the runtime, as configurations of containerd pass them: a text in TOML.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use wws_test::command::{self, Finished};
use wws_test::container::{LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;
use wws_test::{groups, workspace};

const TOOL: &str = env!("CARGO_BIN_EXE_native-tool");

/// A containerd, and the image of the tool in it.
struct Host {
    containerd: Containerd,
    image: String,
}

impl Host {
    fn start() -> Result<Self> {
        let containerd = Containerd::start(Version::MAIN)?;
        let image = Image::native("tool", TOOL)?.import(&containerd)?;
        Ok(Self { containerd, image })
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.containerd.directory().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// `ctr run --rm` of a program that prints its streams, with these options of the runtime and
    /// of `ctr`.
    fn run(&self, name: &str, toml: &str, options: &[&str]) -> Result<Finished> {
        let config = self.file(&format!("{name}.toml"), toml)?;
        let config = config.to_string_lossy();
        let mut run = Run::native(&self.containerd, &self.image, name)?
            .options(&["--rm", "--runtime-config-path", &config])
            .options(options)
            .arguments(&["/program", "streams"])
            .command_to_start();
        command::run(&mut run, LIMIT)
    }

    fn runs(&self, name: &str, toml: &str, options: &[&str]) -> Result<()> {
        let finished = self.run(name, toml, options)?;
        let log = self.containerd.log()?;
        assert!(finished.status.success(), "{finished:?}\n{log}");
        assert_eq!(finished.stdout.lines().count(), 3, "{finished:?}\n{log}");
        Ok(())
    }
}

#[test]
fn the_path_of_the_shim_as_oci_runtime_selects_runc() -> Result<()> {
    let host = Host::start()?;
    let shim = workspace::programs()?.join("containerd-shim-wws-v1");
    // What K3s writes where it finds the shim.
    host.runs(
        "k3s",
        &format!("BinaryName = {:?}\n", shim.display().to_string()),
        &[],
    )?;
    host.containerd.expect_nothing_left()
}

#[test]
fn logs_an_unknown_setting_and_starts() -> Result<()> {
    let host = Host::start()?;
    host.runs("unknown", "BinaryNane = \"crun\"\nOther = 1\n", &[])?;
    let log = host.containerd.log()?;
    assert!(log.contains("there is no setting BinaryNane"), "{log}");
    host.containerd.expect_nothing_left()
}

#[test]
fn the_oci_runtime_is_called_in_the_bundle() -> Result<()> {
    let host = Host::start()?;
    let directory = host.containerd.directory();
    let calls = directory.join("calls");
    let script = format!(
        "#!/bin/sh\necho \"$PWD $(ls config.json)\" >> {}\nexec runc \"$@\"\n",
        calls.display()
    );
    let wrapper = host.file("wrapper", &script)?;
    fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    host.runs(
        "wrapped",
        &format!("BinaryName = {:?}\n", wrapper.display().to_string()),
        &[],
    )?;
    let calls = fs::read_to_string(calls)?;
    let bundle = format!(
        "{} config.json",
        host.containerd.bundle("wrapped").display()
    );
    // create, start and delete at least.
    assert!(calls.lines().count() >= 3, "{calls}");
    assert!(calls.lines().all(|call| call == bundle), "{calls}");
    host.containerd.expect_nothing_left()
}

#[test]
fn reports_a_missing_oci_runtime_at_once() -> Result<()> {
    let host = Host::start()?;
    let mut times = Vec::new();
    for count in 0..5 {
        let from = Instant::now();
        let name = format!("missing-{count}");
        let finished = host.run(&name, "BinaryName = \"no-runc\"\n", &[])?;
        times.push(from.elapsed());
        assert!(!finished.status.success(), "{finished:?}");
        assert!(
            finished.stderr.contains("\"no-runc\" is not installed"),
            "{finished:?}"
        );
    }
    // Undoing what was never made took 2 s each time; so may a busy machine once.
    let quickest = times.iter().min();
    assert!(
        quickest < Some(&wws_test::wait::patience(Duration::from_millis(1500))),
        "{times:?}"
    );
    host.containerd.expect_nothing_left()
}

#[test]
fn a_systemd_path_is_a_directory_where_systemd_does_not_run() -> Result<()> {
    let host = Host::start()?;
    let path = format!("{}.slice:tests:c", host.containerd.mark());
    if !groups::by_systemd() {
        host.runs("guessed", "", &["--cgroup", &path])?;
    }
    host.runs("told", "SystemdCgroup = false\n", &["--cgroup", &path])?;
    host.containerd.expect_nothing_left()
}
