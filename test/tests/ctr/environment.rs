//! A container of workers is what containerd was asked for: environment, user, capabilities,
//! read-only root.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use rustix::process::Pid;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};

fn status(pid: Pid, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(line
        .with_context(|| format!("no {field}"))?
        .trim()
        .to_owned())
}

#[test]
fn workers_see_only_the_variables_of_their_toml() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let toml = "[vars]\nTOKEN = \"$TOKEN\"\nFIXED = \"as written\"\n";
    let image = Image::probe("vars", toml)?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "vars")?
        .env("TOKEN", "from the container")
        .env("SECRET", "of the container")
        .start()?;
    container.wait_until_up()?;
    let var = |name: &str| container.get(&format!("{PROBE}?var={name}"));
    assert_eq!(var("TOKEN")?.text(), "from the container");
    assert_eq!(var("FIXED")?.text(), "as written");
    let secret = var("SECRET")?;
    assert_eq!(secret.status, 500, "a guest sees only its own variables");
    assert!(secret.text().contains("not found"), "{}", secret.text());
    Ok(())
}

#[test]
fn respects_user_read_only_root_and_dropped_capabilities() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe(
        "bounded",
        "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n",
    )?
    .file("data/file", "in the image")?
    .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "bounded")?
        .options(&["--read-only", "--user", "1000:1000"])
        .start()?;
    container.wait_until_up()?;
    let pid = container.pid()?;
    assert_eq!(status(pid, "Uid:")?, "1000\t1000\t1000\t1000");
    assert_eq!(status(pid, "Gid:")?, "1000\t1000\t1000\t1000");
    assert_eq!(status(pid, "CapEff:")?, "0000000000000000");
    assert_eq!(status(pid, "NoNewPrivs:")?, "1");
    let read = container.get(&format!("{PROBE}?read=/data/file"))?;
    assert_eq!((read.status, read.text().as_str()), (200, "in the image"));
    let write = container.get(&format!("{PROBE}?write=/data/file"))?;
    assert_eq!(write.status, 500, "{}", write.text());
    Ok(())
}

#[test]
fn has_the_capabilities_of_any_container() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("caps", "")?.import(&containerd)?;
    let of = |name: &str, options: &[&str]| -> Result<String> {
        let mut container = Run::workers(&containerd, &image, name)?
            .options(options)
            .start()?;
        container.wait_until_up()?;
        let all = status(container.pid()?, "CapBnd:")?;
        container.signal("SIGTERM")?;
        container.remove()?;
        Ok(all)
    };
    let usual = of("usual", &[])?;
    let less = of(
        "less",
        &["--cap-drop", "CAP_CHOWN", "--cap-drop", "CAP_KILL"],
    )?;
    let bits = |mask: &str| u64::from_str_radix(mask, 16);
    // CAP_CHOWN is 0, CAP_KILL is 5.
    assert_eq!(bits(&usual)? & 0b10_0001, 0b10_0001, "{usual}");
    assert_eq!(bits(&less)?, bits(&usual)? & !0b10_0001, "{less}");
    Ok(())
}

/// A field of the status of each thread of a process.
fn of_all_threads(pid: Pid, field: &str) -> Result<BTreeSet<String>> {
    let mut values = BTreeSet::new();
    for thread in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
            // It has ended meanwhile.
            continue;
        };
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        values.insert(line.context("no such field")?.trim().to_owned());
    }
    Ok(values)
}

#[test]
fn the_server_drops_capabilities_privileges_and_system_calls() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("gives-up", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "gives-up")?.start()?;
    container.wait_until_up()?;
    assert_eq!(container.get(&format!("{PROBE}?log=x"))?.status, 200);
    let pid = container.pid()?;
    for (field, value) in [
        ("CapEff:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("CapInh:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        let all = of_all_threads(pid, field)?;
        assert_eq!(all, [value.to_owned()].into(), "{field}");
    }
    let log = container.log()?;
    assert!(!log.contains("WARN server"), "{log}");
    assert!(!log.contains("rights that the server"), "{log}");
    assert!(!log.contains("made executable"), "{log}");
    // What `exec` starts is a process of the container like any other.
    for command in ["health", "check"] {
        containerd.ctr(&[
            "task",
            "exec",
            "--exec-id",
            command,
            "gives-up",
            "wws",
            command,
        ])?;
    }
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn root_server_writes_a_volume_of_another_user() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let toml = "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n";
    let image = Image::probe("others", toml)?
        .directory("data")?
        .import(&containerd)?;
    let volume = containerd.directory().join("volume");
    fs::create_dir(&volume)?;
    std::os::unix::fs::chown(&volume, Some(1000), Some(1000))?;
    let mut container = Run::workers(&containerd, &image, "others")?
        .mount(&volume, "/data")
        .start()?;
    container.wait_until_up()?;
    let write = container.get(&format!("{PROBE}?write=/data/file"))?;
    assert_eq!(write.status, 200, "{}", write.text());
    // CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER, and no others.
    let kept = of_all_threads(container.pid()?, "CapEff:")?;
    let kept = kept.iter().map(|mask| u64::from_str_radix(mask, 16));
    for mask in kept {
        assert_eq!(mask? & !0b1110, 0);
    }
    Ok(())
}

#[test]
fn the_server_runs_in_the_namespaces_and_cgroup_of_the_container() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("inside", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "inside")?
        .options(&["--memory-limit", "268435456"])
        .start()?;
    container.wait_until_up()?;
    let pid = container.pid()?.as_raw_nonzero();
    for namespace in ["mnt", "pid", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        assert_ne!(of(&pid.to_string())?, of("self")?, "{namespace}");
    }
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = format!("{}/inside", containerd.namespace());
    assert!(groups.contains(&path), "{groups}");
    let limit = ["memory/", ""].iter().find_map(|kind| {
        let file = if kind.is_empty() {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        fs::read_to_string(format!("/sys/fs/cgroup/{kind}{path}/{file}")).ok()
    });
    assert_eq!(limit.context("no memory limit")?.trim(), "268435456");
    Ok(())
}

#[test]
fn respects_a_user_namespace_with_cached_code() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("mapped", "")?.import(&containerd)?;
    let map = "0:100000:65536";
    let mut container = Run::workers(&containerd, &image, "mapped")?
        .own_network()
        .options(&["--uidmap", map, "--gidmap", map])
        .start()?;
    container.wait_until_listening()?;
    let pid = container.pid()?;
    let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
    let fields: Vec<_> = of("uid_map")?
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(fields, ["0", "100000", "65536"]);
    assert_eq!(status(pid, "Uid:")?, "100000\t100000\t100000\t100000");
    assert!(of("maps")?.contains("/dev/wws-code/"), "{}", of("maps")?);
    let port = container.port();
    container.curl_inside(&format!("http://127.0.0.1:{port}{PROBE}?log=x"))?;
    Ok(())
}
