//! What a container's entry point stands for: a directory holds workers, a WebAssembly file is one,
//! a program runs as in any container.
//!
//! The entry point may be wrapped. `docker run --init`, `init: true` of Compose and `nerdctl run
//! --init` put an init program of the host before it, which cannot run a directory and is not
//! needed: the server reaps orphans itself. Docker's string form of an entry point calls `/bin/sh`,
//! which images of workers do not have.

use std::path::{Path, PathBuf};

use super::rootfs::FileKind;
use super::server::SERVER_NAME;
use super::shell;
use super::view::ContainerView;
use crate::error::Result;

/// Init programs that clients or images put before an entry point.
const INIT_PROGRAMS: [&str; 5] = [
    "docker-init",
    "tini",
    "tini-static",
    "dumb-init",
    "catatonit",
];

/// Options of tini and dumb-init whose value is the next argument.
const OPTIONS_WITH_VALUE: [&str; 4] = ["-p", "-e", "-r", "--rewrite"];

/// What an entry point stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entrypoint {
    /// Serve the workers in this directory, an absolute path of the container.
    Workers(PathBuf),
    /// Serve the worker in this file.
    Worker(PathBuf),
    /// Run a command of the server, which the image does not contain.
    Command,
    /// Run it unchanged: a program (`pause`, a sidecar), or something that the OCI runtime rejects.
    Program,
}

/// Returns what the entry point of a container stands for, and the arguments of the init process
/// without what wraps the entry point.
///
/// # Errors
/// The root file system cannot be read.
pub(crate) fn resolve(view: &ContainerView) -> Result<(Entrypoint, Vec<String>)> {
    let arguments = unwrap_arguments(view)?;
    let entrypoint = match arguments.first().map(String::as_str) {
        // Without an entry point, the image is the project.
        None | Some("") => Entrypoint::Workers("/".into()),
        Some(word) => resolve_word(view, word)?,
    };
    Ok((entrypoint, arguments))
}

fn resolve_word(view: &ContainerView, word: &str) -> Result<Entrypoint> {
    if !word.contains('/') && word != "." && word != ".." && view.has_command(word)? {
        return Ok(Entrypoint::Program);
    }
    let path = view.absolute(Path::new(word));
    let is_wasm = path
        .extension()
        .is_some_and(|extension| extension == "wasm");
    Ok(match view.kind(&path)? {
        FileKind::Directory => Entrypoint::Workers(path),
        FileKind::File if is_wasm => Entrypoint::Worker(path),
        FileKind::Missing if word == SERVER_NAME => Entrypoint::Command,
        FileKind::File | FileKind::Missing => Entrypoint::Program,
    })
}

/// Returns the arguments without an init program, and without a shell that the container lacks.
fn unwrap_arguments(view: &ContainerView) -> Result<Vec<String>> {
    let arguments = &view.arguments[init_words(view)..];
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(line) = shell::command_line(&words)
        && let Some(words) = shell::split_words(line)
        && !view.has_shell()?
    {
        return Ok(words);
    }
    Ok(arguments.to_vec())
}

/// Returns how many of the arguments are an init program and its options.
fn init_words(view: &ContainerView) -> usize {
    let Some((program, rest)) = view.arguments.split_first() else {
        return 0;
    };
    let program = Path::new(program);
    let name = program.file_name().unwrap_or_default();
    let is_known = INIT_PROGRAMS.iter().any(|init| name == *init);
    // Of any name, if a client mounts it into the container.
    let is_mounted = rest.first().is_some_and(|word| word == "--")
        && view
            .mounts
            .iter()
            .any(|mount| mount.is_bind() && mount.destination == program);
    if !is_known && !is_mounted {
        return 0;
    }
    let mut words = 1;
    while let Some(word) = view.arguments.get(words) {
        match word.as_str() {
            "--" => return words + 1,
            option if OPTIONS_WITH_VALUE.contains(&option) => words += 2,
            option if option.starts_with('-') => words += 1,
            _ => break,
        }
    }
    words.min(view.arguments.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oci::view::MountPoint;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::slice;

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

        fn view(
            &self,
            directory: &str,
            arguments: &[&str],
            mounts: &[MountPoint],
        ) -> ContainerView {
            ContainerView {
                root: self.0.path().to_path_buf(),
                working_directory: directory.into(),
                arguments: arguments.iter().map(ToString::to_string).collect(),
                search_path: "/bin:/usr/bin".to_owned(),
                mounts: mounts.to_vec(),
            }
        }

        fn entry(&self, directory: &str, arguments: &[&str], mounts: &[MountPoint]) -> Entrypoint {
            resolve(&self.view(directory, arguments, mounts)).unwrap().0
        }

        /// The arguments without what the entry point is wrapped in, unless it is a program.
        fn arguments(&self, arguments: &[&str], mounts: &[MountPoint]) -> Option<Vec<String>> {
            let (entry, arguments) = resolve(&self.view("/", arguments, mounts)).unwrap();
            (entry != Entrypoint::Program).then_some(arguments)
        }

        fn at_root(&self, word: &str) -> Entrypoint {
            self.entry("/", &[word], &[])
        }
    }

    fn workers(directory: &str) -> Entrypoint {
        Entrypoint::Workers(directory.into())
    }

    #[test]
    fn serves_a_directory() {
        let image = Image::new();
        assert_eq!(image.at_root("/"), workers("/"));
        assert_eq!(image.at_root("."), workers("/"));
        assert_eq!(image.at_root("/app"), workers("/app"));
        assert_eq!(image.at_root("/app/"), workers("/app"));
        assert_eq!(image.at_root("./app/sub"), workers("/app/sub"));
        assert_eq!(image.at_root("/app/../app/sub/.."), workers("/app"));
    }

    #[test]
    fn serves_the_root_without_an_entry_point() {
        let image = Image::new();
        assert_eq!(image.entry("/app", &[], &[]), workers("/"));
        assert_eq!(image.entry("/app", &[""], &[]), workers("/"));
    }

    #[test]
    fn resolves_a_relative_directory_in_the_working_directory() {
        let image = Image::new();
        assert_eq!(image.entry("/app", &["."], &[]), workers("/app"));
        assert_eq!(image.entry("/app", &["sub"], &[]), workers("/app/sub"));
        assert_eq!(image.entry("/app/sub", &[".."], &[]), workers("/app"));
    }

    #[test]
    fn runs_programs_and_missing_files_unchanged() {
        let image = Image::new();
        for word in [
            "/pause", "/script", "pause", "/nothing", "nothing", "/pause/x",
        ] {
            assert_eq!(image.at_root(word), Entrypoint::Program, "{word}");
        }
    }

    #[test]
    fn prefers_a_program_on_the_path_to_a_directory() {
        let image = Image::new();
        assert_eq!(image.at_root("app"), Entrypoint::Program);
        assert_eq!(image.at_root("./app"), workers("/app"));
    }

    #[test]
    fn drops_an_init_program_before_the_entry_point() {
        let image = Image::new();
        let init = MountPoint {
            destination: "/sbin/my-init".into(),
            source: Some("/proc/self/exe".into()),
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
            let arguments = |entry| image.arguments(&wrapped(entry), slice::from_ref(&init));
            assert_eq!(arguments(&["/"]).unwrap(), ["/"], "{wrapper:?}");
            assert_eq!(arguments(&["/app", "--x"]).unwrap(), ["/app", "--x"]);
            assert_eq!(arguments(&["wws", "routes"]).unwrap(), ["wws", "routes"]);
            // A program keeps its init program.
            assert_eq!(arguments(&["/pause"]), None, "{wrapper:?}");
        }
        // Any other program before a directory runs.
        assert_eq!(image.arguments(&["/sbin/my-init", "--", "/"], &[]), None);
        assert_eq!(
            image.arguments(&["/sbin/my-init", "/"], slice::from_ref(&init)),
            None
        );
        assert_eq!(image.arguments(&["/pause", "--", "/"], &[]), None);
    }

    #[test]
    fn understands_the_string_form_without_a_shell() {
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
    fn runs_a_command_of_the_server_unless_the_image_has_one() {
        let image = Image::new();
        assert_eq!(image.at_root("wws"), Entrypoint::Command);
        fs::write(image.0.path().join("usr/bin/wws"), "\x7fELF").unwrap();
        assert_eq!(image.at_root("wws"), Entrypoint::Program);
    }

    #[test]
    fn serves_a_single_worker() {
        let image = Image::new();
        fs::write(image.0.path().join("app/index.wasm"), "\0asm").unwrap();
        let worker = Entrypoint::Worker("/app/index.wasm".into());
        assert_eq!(image.at_root("/app/index.wasm"), worker);
        assert_eq!(image.entry("/app", &["index.wasm"], &[]), worker);
        assert_eq!(image.at_root("/app/no.wasm"), Entrypoint::Program);
    }

    #[test]
    fn follows_links_within_the_root() {
        let image = Image::new();
        symlink("/app", image.0.path().join("to-directory")).unwrap();
        symlink("/pause", image.0.path().join("to-program")).unwrap();
        // A directory of the host, which the container does not have.
        symlink("/proc", image.0.path().join("out")).unwrap();
        assert_eq!(image.at_root("/to-directory"), workers("/to-directory"));
        assert_eq!(image.at_root("/to-program"), Entrypoint::Program);
        assert_eq!(image.at_root("/out"), Entrypoint::Program);
    }

    #[test]
    fn serves_a_mounted_project() {
        let image = Image::new();
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("inner")).unwrap();
        fs::write(volume.path().join("program"), "\x7fELF").unwrap();
        let bind = MountPoint {
            destination: "/volume".into(),
            source: Some(volume.path().to_path_buf()),
        };
        let tmpfs = MountPoint {
            destination: "/memory".into(),
            source: None,
        };
        let mounts = [bind, tmpfs];
        let entry = |word| image.entry("/", &[word], &mounts);
        assert_eq!(entry("/volume"), workers("/volume"));
        assert_eq!(entry("/volume/inner"), workers("/volume/inner"));
        assert_eq!(entry("/volume/program"), Entrypoint::Program);
        assert_eq!(entry("/volume/nothing"), Entrypoint::Program);
        assert_eq!(entry("/memory"), workers("/memory"));
        assert_eq!(entry("/memory/x"), Entrypoint::Program);
    }
}
