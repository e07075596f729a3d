//! `wws install`: copies the shim to a node, or removes it, and says what to configure there. The
//! installer image runs it on each node.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::args::Install;

/// The name of the shim, by which containerd finds it.
const SHIM: &str = "containerd-shim-wws-v1";

/// The name of the server beside a shim that does not carry it.
const SERVER: &str = "wws";

/// The last bytes of a shim that carries the server (`scripts/one-file.py`).
const CARRIES_SERVER: &[u8] = b"\0wws-carried-v1\n";

/// Copies or removes the programs, and stays if it is asked to.
pub(crate) fn install(args: &Install) -> ExitCode {
    let done = match args.remove {
        true => remove(&args.to),
        false => copy(args),
    };
    let stayed = done.and_then(|()| match args.stay {
        true => stay(),
        false => Ok(()),
    });
    match stayed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wws: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(args: &Install) -> io::Result<()> {
    let server = std::env::current_exe()?;
    let shim = match &args.shim {
        Some(shim) => shim.clone(),
        None => server.with_file_name(SHIM),
    };
    let node = args.node_directory.as_deref().unwrap_or(&args.to);
    let mut programs = vec![(shim, SHIM)];
    if !carries_server(&programs[0].0)? {
        programs.push((server, SERVER));
    }
    for (from, name) in programs {
        let state = match put(&from, &args.to.join(name))? {
            true => "installed",
            false => "is up to date",
        };
        println!("{} {state}", node.join(name).display());
    }
    print!("{}", configuration(&node.join(SHIM)));
    Ok(())
}

/// The configuration that the node's containerd needs.
fn configuration(shim: &Path) -> String {
    format!(
        "\ncontainerd needs this once, in /etc/containerd/config.toml, and a restart:\n\n\
         # containerd 2 (version = 3)\n\
         [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.wws]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         runtime_path = \"{}\"\n\n\
         # containerd 1.6 and 1.7 (version = 2), with the directory on containerd's PATH\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.wws]\n\
         runtime_type = \"io.containerd.wws.v1\"\n\n\
         k3s writes its own configuration when it finds the shim: restart k3s.\n",
        shim.display()
    )
}

fn remove(directory: &Path) -> io::Result<()> {
    for name in [SHIM, SERVER] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => println!("{} removed", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(about("remove", &path, &error)),
        }
    }
    println!("containers that run keep running");
    Ok(())
}

/// Waits for the signal to stop: a DaemonSet starts again what exits.
fn stay() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        Ok(())
    })
}

fn carries_server(shim: &Path) -> io::Result<bool> {
    let read = || -> io::Result<bool> {
        let mut file = File::open(shim)?;
        let length = CARRIES_SERVER.len() as u64;
        if file.metadata()?.len() < length {
            return Ok(false);
        }
        file.seek(SeekFrom::End(-length.cast_signed()))?;
        let mut last = Vec::new();
        file.read_to_end(&mut last)?;
        Ok(last == CARRIES_SERVER)
    };
    read().map_err(|error| about("read", shim, &error))
}

/// Puts a copy of `from` at `to`, whole or not at all: containerd may start it at any time. Returns
/// false if it is there already.
fn put(from: &Path, to: &Path) -> io::Result<bool> {
    let mut source = File::open(from).map_err(|error| about("read", from, &error))?;
    if fs::symlink_metadata(to).is_ok_and(|found| found.is_file())
        && File::open(to).is_ok_and(|mut found| is_same(&mut source, &mut found).unwrap_or(false))
    {
        return Ok(false);
    }
    let directory = to.parent().unwrap_or(Path::new("/"));
    let mut write = || -> io::Result<()> {
        source.rewind()?;
        let mut part = tempfile::NamedTempFile::new_in(directory)?;
        io::copy(&mut source, &mut part)?;
        part.flush()?;
        part.as_file()
            .set_permissions(Permissions::from_mode(0o755))?;
        part.as_file().sync_all()?;
        part.persist(to).map_err(|error| error.error)?;
        Ok(())
    };
    let written = write();
    written
        .map(|()| true)
        .map_err(|error| about("install", to, &error))
}

/// Whether two files have the same content.
fn is_same(one: &mut File, other: &mut File) -> io::Result<bool> {
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

fn about(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {verb} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    fn args(shim: &Path, to: &Path) -> Install {
        Install {
            to: to.to_owned(),
            shim: Some(shim.to_owned()),
            node_directory: Some("/opt/bin".into()),
            stay: false,
            remove: false,
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn copies_a_shim_that_carries_the_server_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (shim, to) = (directory.path().join("shim"), directory.path().join("to"));
        fs::create_dir(&to).unwrap();
        fs::write(&shim, [b"new", CARRIES_SERVER].concat()).unwrap();
        // What runs is replaced, and not written into.
        fs::write(to.join(SHIM), "old").unwrap();
        let before = File::open(to.join(SHIM)).unwrap();
        copy(&args(&shim, &to)).unwrap();
        assert_eq!(names(&to), [SHIM]);
        let installed = fs::metadata(to.join(SHIM)).unwrap();
        assert_eq!(installed.permissions().mode() & 0o777, 0o755);
        assert_ne!(installed.ino(), before.metadata().unwrap().ino());
        assert_eq!(fs::read(to.join(SHIM)).unwrap(), fs::read(&shim).unwrap());
        // A second time, it is the same file.
        copy(&args(&shim, &to)).unwrap();
        assert_eq!(fs::metadata(to.join(SHIM)).unwrap().ino(), installed.ino());
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(names(&to).is_empty());
    }

    #[test]
    fn copies_the_server_beside_a_shim_that_needs_it() {
        let directory = tempfile::tempdir().unwrap();
        let (shim, to) = (directory.path().join("shim"), directory.path().join("to"));
        fs::create_dir(&to).unwrap();
        fs::write(&shim, "x").unwrap();
        copy(&args(&shim, &to)).unwrap();
        assert_eq!(names(&to), [SHIM, SERVER]);
        let missing = copy(&args(&directory.path().join("none"), &to));
        assert!(missing.unwrap_err().to_string().contains("none: No such"));
        let nowhere = copy(&args(&shim, &directory.path().join("nowhere")));
        let error = nowhere.unwrap_err().to_string();
        assert!(error.starts_with("cannot install"), "{error}");
    }

    #[test]
    fn writes_the_directory_of_the_node_into_the_configuration() {
        let text = configuration(&PathBuf::from("/opt/bin").join(SHIM));
        let line = "\nruntime_path = \"/opt/bin/containerd-shim-wws-v1\"\n";
        assert!(text.contains(line), "{text}");
    }
}
