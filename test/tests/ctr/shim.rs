//! What operators and containerd's tools do to a shim, and the order of what it tells.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use wws_test::command;
use wws_test::container::{self, LIMIT, RUNC, RUNTIME, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;
use wws_test::wait;

const TOOL: &str = env!("CARGO_BIN_EXE_native-tool");

fn sleeping<'c>(containerd: &'c Containerd, image: &str, name: &str) -> Result<Run<'c>> {
    Ok(Run::native(containerd, image, name)?.arguments(&["/program", "sleep", "1000"]))
}

#[test]
fn ignores_the_signals_that_the_shim_of_runc_ignores() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::native("tool", TOOL)?.import(&containerd)?;
    sleeping(&containerd, &image, "signalled")?.start_detached()?;
    let shims = containerd.shims()?;
    let [shim] = shims[..] else {
        anyhow::bail!("{shims:?}");
    };
    for signal in [
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
    ] {
        kill_process(shim, signal)?;
    }
    let real_time = ["--signal", "RTMIN+3", &shim.as_raw_nonzero().to_string()];
    command::run(std::process::Command::new("kill").args(real_time), LIMIT)?.success()?;
    // The first of them has it tell how it is.
    let told = "container signalled: runs, process ";
    wait::until(told, LIMIT, || {
        Ok(containerd.log()?.contains(told).then_some(()))
    })?;
    assert_eq!(
        container::status(&containerd, "signalled")?.as_deref(),
        Some("RUNNING")
    );
    assert_eq!(containerd.shims()?, [shim]);
    // Programs that it starts do not inherit that.
    sleeping(&containerd, &image, "other")?
        .runtime(RUNC)
        .start_detached()?;
    let signals = |name| -> Result<Vec<String>> {
        let words = ["task", "exec", "--exec-id", "e", name, "/program", "cat"];
        let status = containerd.ctr(&[&words[..], &["/proc/self/status"]].concat())?;
        let lines = status.lines().filter(|line| line.starts_with("Sig"));
        Ok(lines
            .filter(|line| !line.starts_with("SigQ"))
            .map(str::to_owned)
            .collect())
    };
    assert_eq!(signals("signalled")?, signals("other")?);
    container::end(&containerd, "other")?;
    container::end(&containerd, "signalled")?;
    containerd.expect_nothing_left()
}

#[test]
fn tools_of_containerd_find_the_shim() -> Result<()> {
    for version in Version::PACKAGED {
        let containerd = Containerd::start(version)?;
        let image = Image::native("tool", TOOL)?.import(&containerd)?;
        sleeping(&containerd, &image, "found")?.start_detached()?;
        let state = containerd.ctr(&["shim", "--id", "found", "state"])?;
        let pid = container::pid(&containerd, "found")?.as_raw_nonzero();
        assert!(state.contains(&pid.to_string()), "{pid}: {state}");
        container::end(&containerd, "found")?;
        // Not the link to its socket either.
        containerd.expect_nothing_left()?;
    }
    Ok(())
}

fn sockets_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

/// `socket_dir` of containerd's configuration, which is in the start parameters.
fn is_where_containerd_says(version: Version) -> Result<()> {
    let mut containerd = Containerd::start_configured(version, |directory| {
        let sockets = directory.join("s");
        let plugin = "[plugins.\"io.containerd.shim.v1.manager\"]";
        Ok(format!("{plugin}\nsocket_dir = {sockets:?}\n"))
    })?;
    let sockets = containerd.directory().join("s");
    let image = Image::native("tool", TOOL)?.import(&containerd)?;
    sleeping(&containerd, &image, "moved")?.start_detached()?;
    let found = sockets_of(&sockets)?;
    assert_eq!(found.len(), 1, "{found:?}");
    let address = fs::read_to_string(containerd.bundle("moved").join("address"))?;
    assert_eq!(address, format!("unix://{}", found[0].display()));
    // containerd's own tools know their default alone: there is a link.
    let state = containerd.ctr(&["shim", "--id", "moved", "state"])?;
    let pid = container::pid(&containerd, "moved")?.as_raw_nonzero();
    assert!(state.contains(&pid.to_string()), "{pid}: {state}");
    // Nor does another start of containerd look anywhere else.
    containerd.restart()?;
    assert_eq!(
        container::status(&containerd, "moved")?.as_deref(),
        Some("RUNNING")
    );
    container::end(&containerd, "moved")?;
    wait::until("no socket left", LIMIT, || {
        Ok(sockets_of(&sockets)?.is_empty().then_some(()))
    })?;
    // Nor does that of a shim that is killed stay.
    sleeping(&containerd, &image, "killed")?.start_detached()?;
    for shim in containerd.shims()? {
        kill_process(shim, Signal::KILL)?;
    }
    wait::until("no socket left", LIMIT, || {
        Ok(sockets_of(&sockets)?.is_empty().then_some(()))
    })?;
    // Whether containerd has forgotten the task already or not.
    containerd.try_ctr(&["task", "delete", "--force", "killed"])?;
    containerd.ctr(&["container", "rm", "killed"])?;
    containerd.expect_nothing_left()
}

on_containerd![the_socket_is_where_containerd_says = is_where_containerd_says: V2_3 V2_4];

#[test]
fn kill_all_succeeds_for_a_stopped_task() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::native("tool", TOOL)?.import(&containerd)?;
    for (name, runtime) in [("theirs", RUNC), ("ours", RUNTIME)] {
        Run::native(&containerd, &image, name)?
            .runtime(runtime)
            .arguments(&["/program", "sleep", "0"])
            .start_detached()?;
        wait::until("the end", LIMIT, || {
            Ok(container::status(&containerd, name)?.filter(|status| status == "STOPPED"))
        })?;
        let killed = containerd.try_ctr(&["task", "kill", "--all", "--signal", "SIGKILL", name])?;
        assert!(killed.status.success(), "{name}: {killed:?}");
        let killed = containerd.try_ctr(&["task", "kill", "--signal", "SIGKILL", name])?;
        assert!(!killed.status.success(), "{name}: {killed:?}");
        containerd.ctr(&["task", "delete", name])?;
        containerd.ctr(&["container", "rm", name])?;
    }
    containerd.expect_nothing_left()
}

/// A specification of a container that sees the host's processes: no kernel ends its others with
/// its first one.
fn without_pid_namespace(containerd: &Containerd) -> Result<PathBuf> {
    let root = containerd.directory().join("rootfs");
    fs::create_dir(&root)?;
    fs::copy(TOOL, root.join("program"))?;
    let mut spec: Value = serde_json::from_str(&containerd.ctr(&["oci", "spec"])?)?;
    spec["root"] = json!({ "path": root });
    spec["process"]["args"] = json!(["/program", "sleep", "1000"]);
    let namespaces = spec["linux"]["namespaces"].as_array_mut();
    namespaces
        .context("no namespaces")?
        .retain(|one| one["type"] != "pid");
    let mounts = spec["mounts"].as_array_mut();
    // A new one takes a namespace of its own.
    let proc =
        json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
    for mount in mounts
        .into_iter()
        .flatten()
        .filter(|one| one["destination"] == "/proc")
    {
        *mount = proc.clone();
    }
    let file = containerd.directory().join("spec.json");
    fs::write(&file, spec.to_string())?;
    Ok(file)
}

#[test]
fn the_exit_of_the_container_is_the_last_event() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let config = without_pid_namespace(&containerd)?;
    let file = containerd.directory().join("events");
    let mut events = containerd
        .ctr_command()
        .arg("events")
        .stdin(Stdio::null())
        .stdout(File::create(&file)?)
        .spawn()?;
    let exits = || -> Result<Vec<String>> {
        let text = fs::read_to_string(&file)?;
        let exits = text.lines().filter(|line| line.contains("/tasks/exit"));
        Ok(exits.map(str::to_owned).collect())
    };
    for round in 0..10 {
        let name = format!("order-{round}");
        command::run(
            containerd
                .ctr_command()
                .args(["run", "--detach", "--runtime", RUNTIME])
                .args(["--config", &config.to_string_lossy(), &name]),
            LIMIT,
        )?
        .success()?;
        for exec in 0..3 {
            let id = format!("exec-{exec}");
            let words = ["task", "exec", "--detach", "--exec-id", &id, &name];
            containerd.ctr(&[&words[..], &["/program", "sleep", "1000"]].concat())?;
        }
        kill_process(container::pid(&containerd, &name)?, Signal::KILL)?;
        let told = wait::until("four exits", LIMIT, || {
            let mut exits = exits()?;
            exits.retain(|exit| exit.contains(&format!("{name:?}")));
            Ok(Some(exits).filter(|exits| exits.len() == 4))
        })
        .with_context(|| fs::read_to_string(&file).unwrap_or_default())?;
        let of_container = format!("\"id\":{name:?}");
        assert!(told[3].contains(&of_container), "{told:#?}");
        containerd.ctr(&["task", "delete", &name])?;
        containerd.ctr(&["container", "rm", &name])?;
    }
    events.kill()?;
    events.wait()?;
    containerd.expect_nothing_left()
}
