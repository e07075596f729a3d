//! What checks see of a host.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command;

/// The most bytes of a file that is read.
const MAX: u64 = 1 << 20;

/// The longest that a program may take to print its version.
const LIMIT: Duration = Duration::from_secs(10);

/// `PATH` of services, where containerd's own cannot be read: systemd's default.
const SERVICE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directories of the host's files, its programs, and what cannot be read from files.
pub(super) struct Host {
    root: PathBuf,
    /// `PATH` of this process.
    path: String,
    run: fn(&Path, &[&str]) -> Option<String>,
    /// Whether the kernel resolves paths beneath a directory.
    pub(super) has_openat2: bool,
    /// The free bytes of the file system of a path.
    free: fn(&Path) -> Option<u64>,
}

impl Host {
    /// This machine.
    pub(super) fn this() -> Self {
        Self {
            root: PathBuf::from("/"),
            path: std::env::var("PATH").unwrap_or_else(|_| SERVICE_PATH.into()),
            run,
            has_openat2: wws_project::beneath::Root::open(Path::new("/"))
                .is_ok_and(|root| root.directory(Path::new("proc")).is_ok()),
            free,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file, up to 1 MiB.
    pub(super) fn text(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.at(path))?
            .take(MAX)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn metadata(&self, path: &str) -> io::Result<Metadata> {
        fs::metadata(self.at(path))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// Whether a directory has anything in it.
    pub(super) fn has_entries(&self, path: &str) -> bool {
        fs::read_dir(self.at(path)).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The free bytes where a path is, or will be.
    pub(super) fn free(&self, path: &str) -> Option<u64> {
        let path = self.at(path);
        let mut existing = path.ancestors().filter(|path| path.exists());
        (self.free)(existing.next()?)
    }

    /// The first executable file `name` in the directories of `path`, as its path on the host.
    pub(super) fn find(&self, name: &str, path: &str) -> Option<String> {
        path.split(':')
            .filter(|directory| directory.starts_with('/'))
            .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
            .find(|path| {
                self.metadata(path).is_ok_and(|metadata| {
                    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
                })
            })
    }

    /// The first such file on this process's `PATH`, or on that of services.
    pub(super) fn find_program(&self, name: &str) -> Option<String> {
        self.find(name, &self.path)
            .or_else(|| self.find(name, SERVICE_PATH))
    }

    /// What a program prints.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> Option<String> {
        (self.run)(&self.at(program), args)
    }

    /// `PATH` of the running containerd, and whether it was read.
    pub(super) fn path_of_containerd(&self) -> (String, bool) {
        let Ok(processes) = fs::read_dir(self.at("/proc")) else {
            return (SERVICE_PATH.into(), false);
        };
        for process in processes.flatten() {
            let name = process.file_name();
            let id = name.to_string_lossy();
            if id.parse::<u32>().is_err() {
                continue;
            }
            let comm = self.text(&format!("/proc/{id}/comm"));
            if !comm.is_ok_and(|comm| comm.trim_end() == "containerd") {
                continue;
            }
            // Only root may read it.
            let environment = self
                .text(&format!("/proc/{id}/environ"))
                .unwrap_or_default();
            let path = environment
                .split('\0')
                .find_map(|one| one.strip_prefix("PATH="));
            if let Some(path) = path {
                return (path.to_owned(), true);
            }
        }
        (SERVICE_PATH.into(), false)
    }
}

/// The first number of two or three parts in a text, as `1.7.24`.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    text.split([' ', ',', '\n', '+', '~', '-'])
        .find_map(|word| {
            let mut parts = word.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some((major, minor))
        })
}

fn run(program: &Path, args: &[&str]) -> Option<String> {
    command::output(program, args, "", LIMIT)
}

fn free(path: &Path) -> Option<u64> {
    let of = rustix::fs::statvfs(path).ok()?;
    Some(of.f_bavail.saturating_mul(of.f_frsize))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tempfile::TempDir;

    /// A root with files that a test puts there.
    pub(in crate::doctor) struct FakeHost(TempDir);

    impl FakeHost {
        pub(in crate::doctor) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(in crate::doctor) fn file(self, path: &str, text: &str) -> Self {
            let path = self.0.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        /// A program that prints a version: the fake host reads it from the file.
        pub(in crate::doctor) fn program(self, path: &str, version: &str) -> Self {
            let host = self.file(path, version);
            host.mode(path, 0o755)
        }

        pub(in crate::doctor) fn directory(self, path: &str) -> Self {
            fs::create_dir_all(self.0.path().join(path.trim_start_matches('/'))).unwrap();
            self
        }

        pub(in crate::doctor) fn mode(self, path: &str, mode: u32) -> Self {
            let path = self.0.path().join(path.trim_start_matches('/'));
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            self
        }

        pub(in crate::doctor) fn socket(self, path: &str) -> Self {
            let path = self.0.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            self
        }

        pub(in crate::doctor) fn host(&self) -> Host {
            Host {
                root: self.0.path().to_owned(),
                path: "/usr/bin".into(),
                run: |program, _| fs::read_to_string(program).ok(),
                has_openat2: true,
                free: |_| Some(10 << 30),
            }
        }

        pub(in crate::doctor) fn without_openat2(&self) -> Host {
            Host {
                has_openat2: false,
                ..self.host()
            }
        }

        pub(in crate::doctor) fn with_free(&self, free: fn(&Path) -> Option<u64>) -> Host {
            Host {
                free,
                ..self.host()
            }
        }
    }

    #[test]
    fn reads_versions_of_programs() {
        for (text, expected) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1",
                Some((1, 6)),
            ),
            (
                "containerd github.com/containerd/containerd/v2 v2.1.4 abc",
                Some((2, 1)),
            ),
            ("runc version 1.1.5+ds1\ncommit: 1", Some((1, 1))),
            ("Docker version 28.5.2+dfsg4, build abc", Some((28, 5))),
            ("6.1.0-41-amd64", Some((6, 1))),
            ("5.15.153.1-microsoft-standard-WSL2", Some((5, 15))),
            ("no version", None),
            ("", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }

    #[test]
    fn finds_executable_files_alone() {
        let fake = FakeHost::new()
            .file("/a/x", "")
            .directory("/b/x")
            .program("/c/x", "")
            .program("/usr/local/bin/y", "");
        let host = fake.host();
        assert_eq!(
            host.find("x", "relative:/a:/b/:/c:/d").as_deref(),
            Some("/c/x")
        );
        assert_eq!(host.find("x", "/a:/b"), None);
        assert_eq!(host.find_program("y").as_deref(), Some("/usr/local/bin/y"));
    }

    #[test]
    fn reads_the_path_of_the_running_containerd() {
        let fake = FakeHost::new()
            .file("/proc/1/comm", "systemd\n")
            .file("/proc/1/environ", "PATH=/no")
            .file("/proc/7/comm", "containerd\n")
            .file("/proc/7/environ", "A=b\0PATH=/opt/bin:/bin\0")
            .file("/proc/self/comm", "containerd");
        assert_eq!(
            fake.host().path_of_containerd(),
            ("/opt/bin:/bin".into(), true)
        );
        let (path, is_read) = FakeHost::new().host().path_of_containerd();
        assert_eq!((path.as_str(), is_read), (SERVICE_PATH, false));
    }

    #[test]
    fn inspects_this_machine() {
        assert!(Host::this().has_openat2);
        assert!(Host::this().free("/not/there/yet").is_some());
        let shell = "/bin/sh";
        let printed = Host::this().run(shell, &["-c", "echo 1.2"]);
        assert_eq!(printed.as_deref(), Some("1.2\n"));
    }
}
