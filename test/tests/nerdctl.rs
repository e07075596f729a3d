//! What users of nerdctl type, on containerd 1.7 and 2.1. `make test-clients` runs these: `nerdctl`
//! is built from its Go module.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use wws_test::container::LIMIT;
use wws_test::containerd::Version;
use wws_test::http::{self, Answer};
use wws_test::image::{Image, PROBE};
use wws_test::nerdctl::Nerdctl;
use wws_test::port;
use wws_test::{groups, network, wait};

const RUNTIME: &str = "--runtime=io.containerd.wws.v1";
const PLATFORM: &str = "--platform=wasi/wasm";

/// Runs scenarios on each version, and looks that they leave nothing.
macro_rules! on_each_containerd {
    ($($name:ident),* $(,)?) => {
        on_each_containerd![@ nerdctl_1_7 V1_7 $($name)*];
        on_each_containerd![@ nerdctl_2_1 V2_1 $($name)*];
    };
    (@ $module:ident $version:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            #[ignore = "make test-clients"]
            fn $name() -> anyhow::Result<()> {
                super::on(super::Version::$version, super::$name)
            })*
        }
    };
}

on_each_containerd![
    create_start_stop_remove,
    runs_commands_inside,
    a_network_and_a_volume,
    respects_limits_and_privileges,
    reports_a_project_that_does_not_load,
];

fn on(version: Version, scenario: fn(&Nerdctl) -> Result<()>) -> Result<()> {
    let nerdctl = Nerdctl::start(version)?;
    scenario(&nerdctl)?;
    nerdctl.expect_nothing_left()
}

fn probe(nerdctl: &Nerdctl) -> Result<String> {
    Image::probe("probe", "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n")?
        .directory("data")?
        .import(nerdctl.containerd())
}

/// `nerdctl run --detach` of a container of workers in the host's network, on the port that is
/// returned.
fn run(nerdctl: &Nerdctl, name: &str, options: &[&str], image: &str) -> Result<u16> {
    let port = port::free()?;
    let variable = format!("WWS_PORT={port}");
    let mut words = vec!["run", "--detach", "--name", name, RUNTIME, PLATFORM];
    words.extend(["--network", "host", "--env", &variable]);
    words.extend(options);
    words.push(image);
    nerdctl.run(&words)?;
    Ok(port)
}

fn get(nerdctl: &Nerdctl, name: &str, ask: impl Fn() -> Result<Answer>) -> Result<Answer> {
    let answer = wait::until("an answer", LIMIT, || Ok(ask().ok()));
    answer.with_context(|| format!("the log of {name}:\n{:?}", nerdctl.logs(name)))
}

fn is_served(nerdctl: &Nerdctl, name: &str, port: u16) -> Result<()> {
    let answer = get(nerdctl, name, || http::get(port, "/probe?log=served"))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}

fn exit(nerdctl: &Nerdctl, name: &str) -> Result<String> {
    nerdctl.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")
}

fn create_start_stop_remove(nerdctl: &Nerdctl) -> Result<()> {
    let image = probe(nerdctl)?;
    let port = run(nerdctl, "life", &[], &image)?;
    is_served(nerdctl, "life", port)?;
    assert!(nerdctl.run(&["ps"])?.contains("life"));
    let logs = wait::until("the log", LIMIT, || {
        Ok(Some(nerdctl.logs("life")?).filter(|log| log.contains("listening on")))
    })?;
    assert!(logs.contains(&port.to_string()), "{logs}");
    let top = nerdctl.run(&["top", "life"])?;
    assert!(top.contains("serve-container"), "{top}");
    let stats = nerdctl.run(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "life"])?;
    assert!(!stats.is_empty() && !stats.starts_with("0B"), "{stats}");
    nerdctl.run(&["pause", "life"])?;
    assert_eq!(nerdctl.inspect("life", "{{.State.Status}}")?, "paused");
    nerdctl.run(&["unpause", "life"])?;
    is_served(nerdctl, "life", port)?;
    nerdctl.run(&["stop", "--time", "5", "life"])?;
    assert_eq!(exit(nerdctl, "life")?, "exited 0");
    nerdctl.run(&["start", "life"])?;
    is_served(nerdctl, "life", port)?;
    nerdctl.run(&["kill", "life"])?;
    wait::until("the end", LIMIT, || {
        Ok((exit(nerdctl, "life")? == "exited 137").then_some(()))
    })?;
    nerdctl.run(&["rm", "life"])?;
    let port = run(nerdctl, "forced", &[], &image)?;
    is_served(nerdctl, "forced", port)?;
    nerdctl.run(&["rm", "--force", "forced"])?;
    Ok(())
}

fn runs_commands_inside(nerdctl: &Nerdctl) -> Result<()> {
    let image = probe(nerdctl)?;
    let port = run(nerdctl, "inside", &[], &image)?;
    is_served(nerdctl, "inside", port)?;
    let routes = nerdctl.run(&["exec", "inside", "wws", "routes"])?;
    assert!(routes.contains(PROBE), "{routes}");
    nerdctl.run(&["exec", "inside", "wws", "health"])?;
    let usage = nerdctl.try_run(&["exec", "inside", "wws", "--no-such-option"])?;
    // Its own code is another, whatever the runtime.
    assert!(usage.stderr.contains("exit code 2"), "{usage:?}");
    let shell = nerdctl.try_run(&["exec", "inside", "/bin/sh"])?;
    assert!(
        !shell.status.success() && shell.stderr.contains("/bin/sh"),
        "{shell:?}"
    );
    nerdctl.run(&["rm", "--force", "inside"])?;
    Ok(())
}

fn a_network_and_a_volume(nerdctl: &Nerdctl) -> Result<()> {
    let image = probe(nerdctl)?;
    let volume = nerdctl.containerd().directory().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "of the host")?;
    let bind = format!("{}:/data", volume.display());
    let mut words = vec!["run", "--detach", "--name", "apart", RUNTIME, PLATFORM];
    words.extend(["--network", network::NAME, "--volume", &bind, &image]);
    nerdctl.run(&words)?;
    let address = nerdctl.inspect("apart", "{{.NetworkSettings.IPAddress}}")?;
    let address: Ipv4Addr = address.parse().with_context(|| address.clone())?;
    let answer = get(nerdctl, "apart", || {
        http::get_from(address, 3000, "/probe?read=/data/file")
    })?;
    assert_eq!(answer.text(), "of the host");
    nerdctl.run(&["rm", "--force", "apart"])?;
    Ok(())
}

fn respects_limits_and_privileges(nerdctl: &Nerdctl) -> Result<()> {
    let image = probe(nerdctl)?;
    let options = [
        "--read-only",
        "--user",
        "1000:1000",
        "--cap-drop",
        "ALL",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
    ];
    let port = run(nerdctl, "bounded", &options, &image)?;
    is_served(nerdctl, "bounded", port)?;
    let pid = nerdctl.pid("bounded")?.as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    assert_eq!(groups::memory_limit(pid)?, (64 << 20).to_string());
    nerdctl.run(&["rm", "--force", "bounded"])?;
    Ok(())
}

fn reports_a_project_that_does_not_load(nerdctl: &Nerdctl) -> Result<()> {
    let image = Image::workers("broken")
        .file("bad.wasm", "no Wasm")?
        .import(nerdctl.containerd())?;
    let mut words = vec!["run", "--name", "broken", RUNTIME, PLATFORM];
    words.extend(["--network", "host", &image]);
    let ended = nerdctl.try_run(&words)?;
    assert_eq!(ended.status.code(), Some(78), "{ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("bad.wasm"), "{ended:?}");
    assert_eq!(exit(nerdctl, "broken")?, "exited 78");
    nerdctl.run(&["rm", "broken"])?;
    Ok(())
}
