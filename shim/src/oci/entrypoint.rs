//! Is it a container of workers? Its entry point tells: a directory holds workers, a program runs as in any container.
//!
//! The entry point may be wrapped. `docker run --init`, Compose's `init: true` and `nerdctl run --init` put an init program of the
//! host before it, which cannot run a directory and is not needed: our server collects orphans itself. Docker's string form of
//! an entry point calls `/bin/sh`, which images of workers do not have.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::rootfs::{self, Kind};
use super::server::SERVER_NAME;
use super::shell;
use crate::error::Result;

/// Init programs that clients or images put before an entry point.
const INIT_PROGRAMS: [&str; 5] = [
    "docker-init",
    "tini",
    "tini-static",
    "dumb-init",
    "catatonit",
];

/// Their options that have a value of their own: tini's and dumb-init's.
const OPTIONS_WITH_VALUE: [&str; 4] = ["-p", "-e", "-r", "--rewrite"];

/// What an entry point means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Serve the workers in this directory, an absolute path of the container.
    Workers(PathBuf),
    /// Run a command of our server, which the image does not have.
    Command,
    /// A WebAssembly module, which is no program: the directory that it is in would be the entry point.
    Module(PathBuf),
    /// Run it as it stands: a program (`pause`, a side-car), or something of which the OCI runtime will say what is wrong.
    Program,
}

/// A mount of the specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mount<'a> {
    /// The path in the container.
    pub(crate) to: &'a Path,
    /// The path on the host, of bind mounts.
    pub(crate) from: Option<&'a Path>,
    /// Whether it is a bind mount.
    pub(crate) bind: bool,
}

/// What a container's entry point depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a> {
    /// The root file system on the host.
    pub(crate) root: &'a Path,
    /// The working directory in the container.
    pub(crate) folder: &'a Path,
    /// The first process's arguments.
    pub(crate) arguments: &'a [&'a str],
    /// Its environment.
    pub(crate) environment: &'a [&'a str],
    /// Mounts, in order.
    pub(crate) mounts: &'a [Mount<'a>],
}

impl Container<'_> {
    /// What the entry point means, and the process's arguments without what it is wrapped in.
    ///
    /// # Errors
    /// The root file system cannot be looked at.
    pub(crate) fn entry(&self) -> Result<(Entry, Vec<String>)> {
        let arguments = self.unwrapped()?;
        let entry = match arguments.first().map(String::as_str) {
            // No entry point: all of the image is the project.
            None | Some("") => Entry::Workers("/".into()),
            Some(word) => self.entry_of(word)?,
        };
        Ok((entry, arguments))
    }

    fn entry_of(&self, word: &str) -> Result<Entry> {
        if !word.contains('/') && word != "." && word != ".." && self.is_command(word)? {
            return Ok(Entry::Program);
        }
        let path = rootfs::absolute(self.folder, Path::new(word));
        Ok(match self.kind(&path)? {
            Kind::Folder => Entry::Workers(path),
            Kind::File if path.extension().is_some_and(|it| it == "wasm") => Entry::Module(path),
            Kind::Missing if word == SERVER_NAME => Entry::Command,
            Kind::File | Kind::Missing => Entry::Program,
        })
    }

    /// The arguments without an init program before them, and without a shell that the container does not have.
    fn unwrapped(&self) -> Result<Vec<String>> {
        let arguments = &self.arguments[self.init_words()..];
        if let Some(line) = shell::line(arguments)
            && let Some(words) = shell::words(line)
            && !self.has_shell()?
        {
            return Ok(words);
        }
        Ok(arguments.iter().map(ToString::to_string).collect())
    }

    /// How many of the arguments are an init program and its options.
    fn init_words(&self) -> usize {
        let Some((program, rest)) = self.arguments.split_first() else {
            return 0;
        };
        let name = Path::new(program).file_name().unwrap_or_default();
        let is_known = INIT_PROGRAMS.iter().any(|init| name == *init);
        // Of any name, where a client has put it into the container by a mount.
        let is_mounted = rest.first() == Some(&"--")
            && self
                .mounts
                .iter()
                .any(|mount| mount.bind && mount.to == Path::new(program));
        if !is_known && !is_mounted {
            return 0;
        }
        let mut words = 1;
        while let Some(word) = self.arguments.get(words) {
            match *word {
                "--" => return words + 1,
                option if OPTIONS_WITH_VALUE.contains(&option) => words += 2,
                option if option.starts_with('-') => words += 1,
                _ => break,
            }
        }
        words.min(self.arguments.len())
    }

    /// Whether there is a shell in the container.
    ///
    /// # Errors
    /// As of [`Self::entry`].
    pub(crate) fn has_shell(&self) -> Result<bool> {
        Ok(self.kind(Path::new("/bin/sh"))? == Kind::File || self.is_command("sh")?)
    }

    /// Whether a word without a slash is found on the container's PATH.
    ///
    /// # Errors
    /// As of [`Self::entry`].
    pub(crate) fn is_command(&self, word: &str) -> Result<bool> {
        let path = self
            .environment
            .iter()
            .rev()
            .find_map(|variable| variable.strip_prefix("PATH="));
        for folder in path.unwrap_or_default().split(':') {
            let file = rootfs::absolute(self.folder, &Path::new(folder).join(word));
            if self.kind(&file)? == Kind::File {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A handle of a folder of the container on the host: of its root file system, or of a volume. Not its path, which whoever
    /// writes the volume may lead elsewhere by now.
    ///
    /// # Errors
    /// As of [`Self::entry`].
    pub(crate) fn host_folder(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let mount = self
            .mounts
            .iter()
            .rev()
            .find_map(|mount| Some((mount, path.strip_prefix(mount.to).ok()?)));
        match mount {
            None => rootfs::open(self.root, path),
            Some((mount, below)) => match mount.from.filter(|_| mount.bind) {
                Some(from) => rootfs::open(from, &Path::new("/").join(below)),
                None => Ok(None),
            },
        }
    }

    /// What a path of the container names, once it is mounted.
    fn kind(&self, path: &Path) -> Result<Kind> {
        let mount = self
            .mounts
            .iter()
            .rev()
            .find_map(|mount| Some((mount, path.strip_prefix(mount.to).ok()?)));
        match mount {
            None => rootfs::kind(self.root, path),
            Some((
                Mount {
                    bind: true,
                    from: Some(from),
                    ..
                },
                below,
            )) => {
                if below.as_os_str().is_empty() || rootfs::host_kind(from) != Kind::Folder {
                    return Ok(rootfs::host_kind(from));
                }
                rootfs::kind(from, below)
            }
            // A new file system: the mount point is all that is in it.
            Some((_, below)) if below.as_os_str().is_empty() => Ok(Kind::Folder),
            Some(_) => Ok(Kind::Missing),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    struct Image(tempfile::TempDir);

    impl Image {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("app/sub")).unwrap();
            fs::create_dir_all(root.path().join("usr/bin")).unwrap();
            fs::write(root.path().join("usr/bin/app"), "\x7fELF").unwrap();
            fs::write(root.path().join("pause"), "\x7fELF").unwrap();
            fs::write(root.path().join("script"), "#!/bin/sh").unwrap();
            Self(root)
        }

        fn entry(&self, folder: &str, arguments: &[&str], mounts: &[Mount<'_>]) -> Entry {
            Container {
                root: self.0.path(),
                folder: Path::new(folder),
                arguments,
                environment: &["PATH=/bin:/usr/bin"],
                mounts,
            }
            .entry()
            .unwrap()
            .0
        }

        /// The arguments without what the entry point is wrapped in, where it is none of a program.
        fn arguments(&self, arguments: &[&str], mounts: &[Mount<'_>]) -> Option<Vec<String>> {
            let container = Container {
                root: self.0.path(),
                folder: Path::new("/"),
                arguments,
                environment: &["PATH=/bin:/usr/bin"],
                mounts,
            };
            let (entry, arguments) = container.entry().unwrap();
            (entry != Entry::Program).then_some(arguments)
        }

        fn at_root(&self, word: &str) -> Entry {
            self.entry("/", &[word], &[])
        }
    }

    fn workers(folder: &str) -> Entry {
        Entry::Workers(folder.into())
    }

    #[test]
    fn a_folder_is_a_project() {
        let image = Image::new();
        assert_eq!(image.at_root("/"), workers("/"));
        assert_eq!(image.at_root("."), workers("/"));
        assert_eq!(image.at_root("/app"), workers("/app"));
        assert_eq!(image.at_root("/app/"), workers("/app"));
        assert_eq!(image.at_root("./app/sub"), workers("/app/sub"));
        assert_eq!(image.at_root("/app/../app/sub/.."), workers("/app"));
    }

    #[test]
    fn no_entry_point_is_the_root() {
        let image = Image::new();
        assert_eq!(image.entry("/app", &[], &[]), workers("/"));
        assert_eq!(image.entry("/app", &[""], &[]), workers("/"));
    }

    #[test]
    fn a_relative_folder_is_one_of_the_working_directory() {
        let image = Image::new();
        assert_eq!(image.entry("/app", &["."], &[]), workers("/app"));
        assert_eq!(image.entry("/app", &["sub"], &[]), workers("/app/sub"));
        assert_eq!(image.entry("/app/sub", &[".."], &[]), workers("/app"));
    }

    #[test]
    fn programs_and_what_is_missing_run_unchanged() {
        let image = Image::new();
        for word in [
            "/pause", "/script", "pause", "/nothing", "nothing", "/pause/x",
        ] {
            assert_eq!(image.at_root(word), Entry::Program, "{word}");
        }
    }

    #[test]
    fn a_program_on_the_path_comes_before_a_folder_of_that_name() {
        let image = Image::new();
        assert_eq!(image.at_root("app"), Entry::Program);
        assert_eq!(image.at_root("./app"), workers("/app"));
    }

    #[test]
    fn an_init_program_before_the_entry_point_is_dropped() {
        let image = Image::new();
        let init = Mount {
            to: Path::new("/sbin/my-init"),
            from: Some(Path::new("/proc/self/exe")),
            bind: true,
        };
        for wrapper in [
            &["/sbin/docker-init", "--"][..],
            &["/sbin/tini", "--"],
            &["/sbin/my-init", "--"],
            &["tini", "-s", "-g", "-p", "SIGTERM", "--"],
            &["/usr/bin/dumb-init"],
            &[],
        ] {
            let wrapped = |entry: &[&'static str]| [wrapper, entry].concat();
            let arguments = |entry| image.arguments(&wrapped(entry), &[init]);
            assert_eq!(arguments(&["/"]).unwrap(), ["/"], "{wrapper:?}");
            assert_eq!(arguments(&["/app", "--x"]).unwrap(), ["/app", "--x"]);
            assert_eq!(arguments(&["wws", "routes"]).unwrap(), ["wws", "routes"]);
            // A program keeps it.
            assert_eq!(arguments(&["/pause"]), None, "{wrapper:?}");
        }
        // Any other program before a directory is one to run.
        assert_eq!(image.arguments(&["/sbin/my-init", "--", "/"], &[]), None);
        assert_eq!(image.arguments(&["/sbin/my-init", "/"], &[init]), None);
        assert_eq!(image.arguments(&["/pause", "--", "/"], &[]), None);
    }

    #[test]
    fn the_string_form_of_an_entry_point_needs_no_shell() {
        let image = Image::new();
        let shell = ["/bin/sh", "-c", "/app --x"];
        assert_eq!(image.arguments(&shell, &[]).unwrap(), ["/app", "--x"]);
        assert_eq!(image.entry("/", &shell, &[]), workers("/app"));
        let init = ["/sbin/docker-init", "--", "/bin/sh", "-c", "exec /"];
        assert_eq!(image.arguments(&init, &[]).unwrap(), ["/"]);
        assert_eq!(image.arguments(&["/bin/sh", "-c", "/app | x"], &[]), None);
        fs::create_dir(image.0.path().join("bin")).unwrap();
        fs::write(image.0.path().join("bin/sh"), "\x7fELF").unwrap();
        assert_eq!(image.arguments(&shell, &[]), None, "the image's own shell");
    }

    #[test]
    fn our_server_is_found_where_the_image_has_none() {
        let image = Image::new();
        assert_eq!(image.at_root("wws"), Entry::Command);
        fs::write(image.0.path().join("usr/bin/wws"), "\x7fELF").unwrap();
        assert_eq!(image.at_root("wws"), Entry::Program);
    }

    #[test]
    fn a_module_is_no_program() {
        let image = Image::new();
        fs::write(image.0.path().join("app/index.wasm"), "\0asm").unwrap();
        let module = Entry::Module("/app/index.wasm".into());
        assert_eq!(image.at_root("/app/index.wasm"), module);
        assert_eq!(image.entry("/app", &["index.wasm"], &[]), module);
        assert_eq!(image.at_root("/app/no.wasm"), Entry::Program);
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let image = Image::new();
        symlink("/app", image.0.path().join("to-folder")).unwrap();
        symlink("/pause", image.0.path().join("to-program")).unwrap();
        // A folder on the host, nothing in the container.
        symlink("/proc", image.0.path().join("out")).unwrap();
        assert_eq!(image.at_root("/to-folder"), workers("/to-folder"));
        assert_eq!(image.at_root("/to-program"), Entry::Program);
        assert_eq!(image.at_root("/out"), Entry::Program);
    }

    #[test]
    fn a_folder_is_found_on_the_host() {
        let image = Image::new();
        symlink("/app", image.0.path().join("link")).unwrap();
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("inner")).unwrap();
        let mounts = [Mount {
            to: Path::new("/volume"),
            from: Some(volume.path()),
            bind: true,
        }];
        let container = Container {
            root: image.0.path(),
            folder: Path::new("/"),
            arguments: &[],
            environment: &[],
            mounts: &mounts,
        };
        let host = |path: &str| {
            let handle = container.host_folder(Path::new(path)).unwrap()?;
            let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
            Some(fs::read_link(link).unwrap())
        };
        let real = |path: &Path| Some(fs::canonicalize(path).unwrap());
        assert_eq!(host("/"), real(image.0.path()));
        assert_eq!(host("/link/sub"), real(&image.0.path().join("app/sub")));
        assert_eq!(host("/volume/inner"), real(&volume.path().join("inner")));
        assert_eq!(host("/nothing"), None);
    }

    #[test]
    fn a_project_may_be_mounted() {
        let image = Image::new();
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("inner")).unwrap();
        fs::write(volume.path().join("program"), "\x7fELF").unwrap();
        let bind = Mount {
            to: Path::new("/volume"),
            from: Some(volume.path()),
            bind: true,
        };
        let tmpfs = Mount {
            to: Path::new("/memory"),
            from: Some(Path::new("tmpfs")),
            bind: false,
        };
        let entry = |word| image.entry("/", &[word], &[bind, tmpfs]);
        assert_eq!(entry("/volume"), workers("/volume"));
        assert_eq!(entry("/volume/inner"), workers("/volume/inner"));
        assert_eq!(entry("/volume/program"), Entry::Program);
        assert_eq!(entry("/volume/nothing"), Entry::Program);
        assert_eq!(entry("/memory"), workers("/memory"));
        assert_eq!(entry("/memory/x"), Entry::Program);
    }
}
