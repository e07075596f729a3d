//! What ends while a container is made or waits for its code: the container, or the shim.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use wws_test::container::{self, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;
use wws_test::{command, wait};

/// Processes whose command line has all of `words`.
fn processes(words: &[&str]) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // Others come and go.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if words.iter().all(|word| line.contains(word)) {
            found.extend(number.and_then(Pid::from_raw));
        }
    }
    Ok(found)
}

/// A container whose server waits for its code, which is never done: its compiler is stopped.
struct Waiting {
    ctr: Child,
    compiler: Pid,
}

impl Waiting {
    fn start(containerd: &Containerd, image: &str) -> Result<Self> {
        let mut command = Run::workers(containerd, image, "waits")?.command_to_start();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let ctr = command.spawn()?;
        let store = containerd.directory().join("store");
        let store = store.to_str().context("a path that is not UTF-8")?;
        let compiler = wait::until("the compiler runs", LIMIT, || {
            Ok(processes(&["precompile", store])?.first().copied())
        })?;
        kill_process(compiler, Signal::STOP)?;
        // Its start does not wait.
        wait::until("the container runs", LIMIT, || {
            Ok(container::status(containerd, "waits")?.filter(|status| status == "RUNNING"))
        })?;
        Ok(Self { ctr, compiler })
    }

    /// Waits for what must follow when the container or its shim ends, much sooner than the code is
    /// given up.
    fn expect_end(mut self, containerd: &Containerd) -> Result<()> {
        let soon = std::time::Duration::from_secs(20);
        if command::wait(&mut self.ctr, soon)?.is_none() {
            self.ctr.kill()?;
            self.ctr.wait()?;
            bail!("the container waits on");
        }
        containerd.try_ctr(&["task", "delete", "--force", "waits"])?;
        containerd.try_ctr(&["container", "rm", "waits"])?;
        let compiler = format!("/proc/{}/cmdline", self.compiler.as_raw_nonzero());
        wait::until("the compiler gone", soon, || {
            // Nothing, or a zombie of somebody's.
            Ok(fs::read(&compiler)
                .unwrap_or_default()
                .is_empty()
                .then_some(()))
        })?;
        containerd.expect_nothing_left()
    }
}

fn image(containerd: &Containerd) -> Result<String> {
    Image::probe("probe", "")?.import(containerd)
}

#[test]
fn container_that_waits_for_its_code_can_be_stopped() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let waiting = Waiting::start(&containerd, &image(&containerd)?)?;
    // The server may not have come to its handlers yet, before which the kernel ignores the signal.
    let signal = || containerd.try_ctr(&["task", "kill", "--signal", "SIGTERM", "waits"]);
    wait::until("the end", LIMIT, || {
        signal()?;
        let status = container::status(&containerd, "waits")?;
        Ok((status.as_deref() != Some("RUNNING")).then_some(()))
    })?;
    waiting.expect_end(&containerd)
}

#[test]
fn container_that_waits_for_its_code_can_be_killed() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let waiting = Waiting::start(&containerd, &image(&containerd)?)?;
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", "waits"])?;
    waiting.expect_end(&containerd)
}

#[test]
fn killed_shim_of_a_container_that_waits_for_its_code_leaves_nothing() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let waiting = Waiting::start(&containerd, &image(&containerd)?)?;
    for shim in containerd.shims()? {
        kill_process(shim, Signal::KILL)?;
    }
    waiting.expect_end(&containerd)
}

#[test]
fn shim_killed_during_create_leaves_nothing() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = image(&containerd)?;
    // An OCI runtime that makes the container and then does not come to an end.
    let runc = containerd.directory().join("slow-runc");
    let script = "#!/bin/sh\ncase \" $* \" in *' create '*) runc \"$@\"; exec sleep 600;; *) exec \
        runc \"$@\";; esac\n";
    fs::write(&runc, script)?;
    fs::set_permissions(&runc, fs::Permissions::from_mode(0o755))?;
    let options = containerd.directory().join("options.toml");
    fs::write(
        &options,
        format!("BinaryName = {:?}\n", runc.display().to_string()),
    )?;
    let mut command = Run::workers(&containerd, &image, "half")?
        .options(&["--runtime-config-path", &options.display().to_string()])
        .command_to_start();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut ctr = command.spawn()?;
    let pid_file = containerd.bundle("half").join("init.pid");
    let [shim] = wait::until("the container is half made", LIMIT, || {
        let made = fs::read_to_string(&pid_file).is_ok_and(|text| !text.is_empty());
        Ok(made.then(|| containerd.shims()))
    })??[..] else {
        bail!("not one shim");
    };
    kill_process(shim, Signal::KILL)?;
    let ended = command::wait(&mut ctr, LIMIT)?;
    ctr.kill()?;
    ctr.wait()?;
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
    containerd.try_ctr(&["container", "rm", "half"])?;
    containerd.expect_nothing_left()
}
