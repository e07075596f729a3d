//! A container of workers in networks of either family, and with few processes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use wws_test::command;
use wws_test::container::{LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};

#[test]
fn serves_and_checks_health_on_a_network_without_ipv4() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("six", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "six")?
        .own_network()
        .start()?;
    let log = container.wait_until_listening()?;
    let pid = container.pid()?.as_raw_nonzero();
    let port = container.port();
    assert!(log.contains(&format!("http://[::]:{port}")), "{log}");
    let inside = format!("http://127.0.0.1:{port}{PROBE}?log=four");
    assert_eq!(container.curl_inside(&inside)?, "logged");
    let mut without = Command::new("nsenter");
    without.arg(format!("--net=/proc/{pid}/ns/net"));
    without.args(["ip", "address", "delete", "127.0.0.1/8", "dev", "lo"]);
    command::run(&mut without, LIMIT)?.success()?;
    let inside = format!("http://[::1]:{port}{PROBE}?log=six");
    assert_eq!(container.curl_inside(&inside)?, "logged");
    let health = ["task", "exec", "--exec-id", "e1", "six", "wws", "health"];
    let said = containerd.ctr(&health)?;
    assert!(said.contains(&format!("[::1]:{port}/: 404")), "{said}");
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn reports_too_few_processes_in_one_line() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("few", "")?.import(&containerd)?;
    for limit in [1, 2, 3, 5, 7, 8, 9, 12, 16] {
        let name = format!("few{limit}");
        // `ctr` has no option for it: the cgroup is there before the container.
        let top = Path::new("/sys/fs/cgroup");
        let top = match top.join("cgroup.controllers").exists() {
            true => top.to_path_buf(),
            false => top.join("pids"),
        };
        let group = top.join(containerd.namespace()).join(&name);
        fs::create_dir_all(&group)?;
        fs::write(group.join("pids.max"), limit.to_string())?;
        let mut container = Run::workers(&containerd, &image, &name)?.start()?;
        if limit < 8 {
            let code = container.wait()?;
            let log = container.log()?;
            // The OCI runtime itself needs some: then there is no container.
            if log.contains("OCI runtime create failed") {
                assert!(limit < 7, "{limit}: {log}");
                containerd.ctr(&["container", "rm", &name])?;
                continue;
            }
            assert_eq!(code, 71, "{limit}: {log}");
            assert_eq!(log.lines().count(), 1, "{limit}: {log}");
            assert!(log.contains("a server needs 8 processes"), "{limit}: {log}");
            assert!(!log.contains("panicked"), "{limit}: {log}");
        } else {
            container.wait_until_up()?;
            for _ in 0..5 {
                let answer = container.get(&format!("{PROBE}?log=served"))?;
                assert_eq!(answer.status, 200, "{limit}: {}", container.log()?);
            }
            container.signal("SIGTERM")?;
            assert_eq!(container.wait()?, 0, "{limit}");
        }
        container.remove()?;
    }
    containerd.expect_nothing_left()
}
