//! containerd, our shim where containerd looks for it, and runc.

use std::os::unix::fs::FileTypeExt;

use super::Finding;
use super::host::{Host, version as parsed};

const SHIM: &str = "containerd-shim-wws-v1";

/// The oldest versions that are tested.
const OLDEST: (u32, u32) = (1, 6);
const OLDEST_RUNC: (u32, u32) = (1, 1);

/// Sockets of containerd: its own, Docker's, and those of Kubernetes distributions.
const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/snap.docker/containerd/containerd.sock",
];

/// Programs that come with a containerd of their own.
const CONTAINING: [&str; 2] = ["k3s", "rke2"];

pub(super) fn version(host: &Host) -> Finding {
    let Some(program) = host.find_program("containerd") else {
        let containing = CONTAINING
            .into_iter()
            .find_map(|name| host.find_program(name));
        return match containing {
            Some(program) => Finding::fine(format!("the one of {program}")),
            None => Finding::problem(
                "not found",
                "install containerd 1.6 or newer, for example by `apt install containerd`; `wws` \
                 itself serves directories and images without it",
            ),
        };
    };
    of(host, &program, OLDEST, "install containerd 1.6 or newer")
}

pub(super) fn runc(host: &Host) -> Finding {
    let (path, _) = host.path_of_containerd();
    match host.find("runc", &path) {
        Some(program) => of(host, &program, OLDEST_RUNC, "install runc 1.1 or newer"),
        None => Finding::problem(
            format!("not found in {path}"),
            "install runc, for example by `apt install runc`, or name one with the runtime option \
             BinaryName",
        ),
    }
}

/// The version of a program, and whether it is new enough.
fn of(host: &Host, program: &str, oldest: (u32, u32), remedy: &str) -> Finding {
    let printed = host.run(program, &["--version"]).unwrap_or_default();
    match parsed(&printed) {
        Some(version) => {
            let found = format!("{}.{} at {program}", version.0, version.1);
            if version < oldest {
                Finding::problem(found, remedy)
            } else {
                Finding::fine(found)
            }
        }
        None => Finding::problem(
            format!("{program} prints no version"),
            format!("run `{program} --version`"),
        ),
    }
}

pub(super) fn socket(host: &Host) -> Finding {
    let is_socket = |path: &&str| {
        host.metadata(path)
            .is_ok_and(|metadata| metadata.file_type().is_socket())
    };
    let found: Vec<&str> = SOCKETS.into_iter().filter(|path| is_socket(path)).collect();
    if found.is_empty() {
        Finding::problem(
            "none",
            "start containerd: `systemctl start containerd`, or that of Docker or k3s",
        )
    } else {
        Finding::fine(found.join(", "))
    }
}

pub(super) fn shim(host: &Host) -> Finding {
    let (path, is_read) = host.path_of_containerd();
    let Some(shim) = host.find(SHIM, &path) else {
        let elsewhere = host.find_program(SHIM);
        let whose = if is_read {
            "containerd's PATH"
        } else {
            "the PATH of services"
        };
        let found = match &elsewhere {
            Some(elsewhere) => format!("{elsewhere} is not on {whose}"),
            None => format!("not on {whose}"),
        };
        return Finding::problem(
            found,
            format!("copy {SHIM} and wws into one of {path}; containerd need not be restarted"),
        );
    };
    match host.run(&shim, &["-v"]) {
        None => Finding::problem(
            format!("{shim} does not run"),
            "install the shim of this machine's CPU again",
        ),
        Some(printed) if printed.split_whitespace().last() != Some(env!("CARGO_PKG_VERSION")) => {
            let found = printed
                .split_whitespace()
                .last()
                .unwrap_or("none")
                .to_owned();
            Finding::problem(
                format!("version {found} at {shim}"),
                format!(
                    "install the shim of version {}, which this wws has",
                    env!("CARGO_PKG_VERSION")
                ),
            )
        }
        Some(_) => Finding::fine(format!("{} at {shim}", env!("CARGO_PKG_VERSION"))),
    }
}

/// The program that serves in a container: `wws` beside the shim, or the one in the shim.
pub(super) fn server(host: &Host) -> Finding {
    let (path, _) = host.path_of_containerd();
    let Some(shim) = host.find(SHIM, &path) else {
        return Finding::problem("no shim", "install the shim first");
    };
    let directory = shim
        .rsplit_once('/')
        .map_or("/", |(directory, _)| directory);
    let Some(beside) = host.find("wws", directory) else {
        let carries = host
            .metadata(&shim)
            .is_ok_and(|metadata| metadata.len() >= ONE_FILE);
        return if carries {
            Finding::fine(format!("in {shim}"))
        } else {
            Finding::problem(
                format!("no wws in {directory}"),
                format!("copy wws into {directory}, or install the one-file shim"),
            )
        };
    };
    let printed = host.run(&beside, &["--version"]).unwrap_or_default();
    match printed.split_whitespace().last() {
        Some(version) if version == env!("CARGO_PKG_VERSION") => {
            Finding::fine(format!("{version} at {beside}"))
        }
        version => Finding::problem(
            format!("version {} at {beside}", version.unwrap_or("unknown")),
            format!(
                "install both programs of version {}",
                env!("CARGO_PKG_VERSION")
            ),
        ),
    }
}

/// A shim that carries a server is larger than this, one without is smaller.
const ONE_FILE: u64 = 10 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Health;
    use super::super::host::tests::FakeHost;
    use super::*;

    const CURRENT: &str = env!("CARGO_PKG_VERSION");

    #[test]
    fn rejects_old_containerd_and_accepts_k3s() {
        let with =
            |text: &str| version(&FakeHost::new().program("/usr/bin/containerd", text).host());
        assert_eq!(
            with("containerd x 1.7.24 y"),
            Finding::fine("1.7 at /usr/bin/containerd")
        );
        assert_eq!(with("containerd x 1.5.9 y").health, Health::Problem);
        assert_eq!(with("").found, "/usr/bin/containerd prints no version");
        let k3s = FakeHost::new().program("/usr/local/bin/k3s", "");
        assert_eq!(
            version(&k3s.host()),
            Finding::fine("the one of /usr/local/bin/k3s")
        );
        assert_eq!(version(&FakeHost::new().host()).health, Health::Problem);
    }

    #[test]
    fn finds_runc_on_the_path_of_containerd() {
        let fake = FakeHost::new().program("/opt/runc", "runc version 1.1.5+ds1\ncommit: x");
        assert_eq!(runc(&fake.host()).health, Health::Problem);
        let fake = fake
            .file("/proc/7/comm", "containerd\n")
            .file("/proc/7/environ", "PATH=/opt\0");
        assert_eq!(runc(&fake.host()), Finding::fine("1.1 at /opt/runc"));
        let fake = fake.program("/opt/runc", "runc version 1.0.3");
        assert_eq!(runc(&fake.host()).health, Health::Problem);
    }

    #[test]
    fn knows_sockets_of_all_distributions() {
        for path in SOCKETS {
            assert_eq!(
                socket(&FakeHost::new().socket(path).host()),
                Finding::fine(path)
            );
        }
        let file = FakeHost::new().file(SOCKETS[0], "");
        assert_eq!(socket(&file.host()).health, Health::Problem);
    }

    #[test]
    fn the_shim_is_on_containerds_path_and_of_this_version() {
        let at = "/usr/local/bin/containerd-shim-wws-v1";
        let printed = format!("{SHIM} {CURRENT}\n");
        let fake = FakeHost::new().program(at, &printed);
        assert_eq!(
            shim(&fake.host()),
            Finding::fine(format!("{CURRENT} at {at}"))
        );
        let fake = fake
            .file("/proc/7/comm", "containerd\n")
            .file("/proc/7/environ", "PATH=/usr/bin\0");
        let finding = shim(&fake.host());
        assert_eq!(finding.health, Health::Problem);
        assert_eq!(finding.found, format!("{at} is not on containerd's PATH"));
        let old = FakeHost::new().program(at, &format!("{SHIM} 0.0.1\n"));
        assert_eq!(shim(&old.host()).found, format!("version 0.0.1 at {at}"));
        assert_eq!(
            shim(&FakeHost::new().host()).found,
            "not on the PATH of services"
        );
    }

    #[test]
    fn finds_the_server_beside_the_shim_or_in_it() {
        let at = |name: &str| format!("/usr/local/bin/{name}");
        let fake = FakeHost::new().program(&at(SHIM), "");
        assert_eq!(server(&fake.host()).found, "no wws in /usr/local/bin");
        let fake = fake.program(&at("wws"), &format!("wws {CURRENT}\n"));
        assert_eq!(server(&fake.host()).health, Health::Fine);
        let fake = fake.program(&at("wws"), "wws 0.0.1\n");
        assert_eq!(server(&fake.host()).health, Health::Problem);
        let large = " ".repeat(usize::try_from(ONE_FILE).unwrap());
        let one_file = FakeHost::new().program(&at(SHIM), &large);
        assert_eq!(
            server(&one_file.host()),
            Finding::fine(format!("in {}", at(SHIM)))
        );
        assert_eq!(server(&FakeHost::new().host()).found, "no shim");
    }
}
