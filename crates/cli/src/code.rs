//! The compiled code for a command: in a container, the directory that the shim mounted, which the
//! host may still be filling; on a developer's machine, the user's cache, so that the next start
//! does not compile again.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use wws_project::{Problem, Problems, Project, Worker};
use wws_server::{CodeCache, Compiling, Languages, Precompile};

use crate::environment;

/// The variable that the shim reads, too: another directory, or no cache if it is empty. The second
/// is its former name.
const VARIABLES: [&str; 2] = ["WWS_CODE_CACHE", "WWS_STORE"];

/// The maximum size of the code of all projects, in bytes.
const MAX: u64 = 2 << 30;

/// The code that the shim mounted, for a command inside a container; `None` without such a mount or
/// outside of a container.
///
/// # Errors
/// Something else is mounted there.
pub(crate) fn of_container() -> io::Result<Option<CodeCache>> {
    let Some(directory) = environment::code_of_container() else {
        return Ok(None);
    };
    match CodeCache::read_only(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// The user's cache, with the code that a project needs, which was loaded from `path`. Without a
/// cache, starting takes longer. `None` in a container, where the user's directories are the
/// image's.
pub(crate) fn of_user(project: &Project, path: &Path, compiling: &Compiling) -> Option<CodeCache> {
    if environment::is_in_container() {
        return None;
    }
    let directory = cache_directory(|name| std::env::var_os(name))?;
    let store = CodeCache::open(&directory, MAX)
        .inspect_err(|error| tracing::debug!("compiled code is not kept: {error}"))
        .ok()?;
    if let Some(worker) = writer(project, &directory) {
        tracing::warn!(
            "compiled code is not kept: the worker {} may write to {}",
            worker.name,
            directory.display()
        );
        return None;
    }
    let started = Instant::now();
    let precompile = Precompile {
        store: &store,
        links: None,
        container: false,
        patient: true,
        compiling,
        languages: &Languages::standard(),
        // The project is the user's own, so it is compiled in this process.
        compile: &wws_server::compile_here,
    };
    let (_, file) = wws_project::directory_and_file(path);
    match precompile.run(project.root(), file.as_deref()) {
        Ok(done) if done.compiled > 0 => tracing::info!(
            "compiled {} modules in {:.1} s, and kept their code in {}",
            done.compiled,
            started.elapsed().as_secs_f32(),
            directory.display()
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!("nothing is compiled ahead: {error}"),
    }
    Some(store)
}

/// Checks a project that is loaded again: its workers must not write to the user's cache, from
/// which this process loads code.
///
/// # Errors
/// Names the worker.
pub(crate) fn check_writers(project: &Project, cache: &CodeCache) -> Result<(), Problems> {
    let directory = cache.directory();
    match writer(project, directory) {
        None => Ok(()),
        Some(worker) => Err(Problems::one(Problem {
            file: worker.path.clone(),
            line: None,
            column: None,
            message: format!(
                "it may write to {}, from which the server loads compiled code",
                directory.display()
            ),
            help: Some("restart the server, which does without that code then".into()),
        })),
    }
}

/// A worker whose directories contain the cache, or are in it, could write native code that this
/// program would run.
fn writer<'a>(project: &'a Project, cache: &Path) -> Option<&'a Worker> {
    let cache = fs::canonicalize(cache).ok()?;
    let holds = |worker: &&Worker| {
        worker.directories.iter().any(|directory| {
            fs::canonicalize(project.root().join(&directory.from)).is_ok_and(|directory| {
                directory.starts_with(&cache) || cache.starts_with(directory)
            })
        })
    };
    project.workers().iter().find(holds)
}

/// A file next to compiled code that the shim holds locked while it compiles.
const COMPILING: &str = "compiling";

/// How long a server waits for the host's compiler: longer than the shim allows. The server
/// compiles what is missing then.
const HOST_LIMIT: Duration = Duration::from_secs(75);

/// A wait that is longer than this is logged.
const HOST_QUIET: Duration = Duration::from_secs(1);

/// The pause between two checks: a small part of the time that has passed, within these bounds.
const HOST_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Waits until the host has compiled the code of a container's project, up to a limit. Returns
/// whether compilation has ended.
pub(crate) fn wait_for_host(code: &Path) -> bool {
    wait_for(code, HOST_LIMIT)
}

fn wait_for(code: &Path, limit: Duration) -> bool {
    let Ok(file) = File::open(code.join(COMPILING)) else {
        // There is nothing to wait for.
        return true;
    };
    let started = Instant::now();
    let mut reported = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A file system without locks has nothing to wait for, either.
            _ => {
                if reported {
                    let seconds = started.elapsed().as_secs_f32();
                    tracing::info!("the host compiled the project in {seconds:.1} s");
                }
                return true;
            }
        }
        let passed = started.elapsed();
        if passed > limit {
            let seconds = limit.as_secs();
            tracing::warn!("the host did not compile the project within {seconds} s");
            return false;
        }
        if passed > HOST_QUIET && !std::mem::replace(&mut reported, true) {
            tracing::info!(
                "waiting for the host to compile the project, once for all its containers \
                 ({} s at most)",
                limit.as_secs()
            );
        }
        thread::sleep((passed / 8).clamp(HOST_PAUSE.0, HOST_PAUSE.1));
    }
}

/// The directory of the cache.
fn cache_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(cache) = VARIABLES.into_iter().find_map(&variable) {
        return (!cache.is_empty()).then(|| cache.into());
    }
    Some(user_cache(variable)?.join("code"))
}

/// This program's directory in the user's cache, by the XDG Base Directory Specification.
pub(crate) fn user_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|cache| cache.join("wws"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(set: &[(&str, &str)]) -> Option<PathBuf> {
        cache_directory(|name| {
            let (_, value) = set.iter().find(|(set, _)| *set == name)?;
            Some((*value).into())
        })
    }

    #[test]
    fn a_server_waits_while_the_host_compiles() {
        let code = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(100);
        assert!(wait_for(code.path(), limit), "nothing is compiled");
        let lock = File::create(code.path().join(COMPILING)).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        assert!(!wait_for(code.path(), limit), "too long");
        let started = Instant::now();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(lock);
        });
        assert!(wait_for(code.path(), Duration::from_secs(20)));
        assert!(started.elapsed() >= Duration::from_millis(50));
        assert!(wait_for(code.path(), limit), "compiled");
    }

    #[test]
    fn code_cache_is_the_users_unless_a_variable_names_another() {
        let home = ("HOME", "/home/a");
        assert_eq!(with(&[home]), Some("/home/a/.cache/wws/code".into()));
        assert_eq!(
            with(&[home, ("XDG_CACHE_HOME", "/c")]),
            Some("/c/wws/code".into())
        );
        assert_eq!(
            with(&[home, ("XDG_CACHE_HOME", "c")]),
            Some("/home/a/.cache/wws/code".into())
        );
        for variable in VARIABLES {
            assert_eq!(with(&[home, (variable, "/s")]), Some("/s".into()));
            assert_eq!(with(&[home, (variable, "")]), None);
        }
        let both = [("WWS_STORE", "/old"), ("WWS_CODE_CACHE", "/new")];
        assert_eq!(with(&both), Some("/new".into()));
        assert_eq!(with(&[]), None);
    }
}
