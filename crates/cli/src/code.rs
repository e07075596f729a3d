//! Compiled code on a developer's machine: kept in the user's cache, so that a project's next start does not compile it again.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Instant,
};

use wws_server::{CodeCache, Compiling, Precompile};

/// The same variable as for the shim: another place, or none where it is empty.
const VARIABLE: &str = "WWS_STORE";

/// Code of all projects, in bytes.
const MAX: u64 = 2 << 30;

/// The user's store, with the code that a project needs. A store that cannot be had costs time and nothing else.
pub(crate) fn of_user(project: &Path, compiling: &Compiling) -> Option<CodeCache> {
    let folder = folder(|name| std::env::var_os(name))?;
    let store = CodeCache::open(&folder, MAX)
        .inspect_err(|error| tracing::debug!("compiled code is not kept: {error}"))
        .ok()?;
    let started = Instant::now();
    let precompile = Precompile {
        store: &store,
        links: None,
        container: false,
        compiling,
        // The user's own project, in the process that would compile it anyway.
        compile: &wws_server::compile_here,
    };
    match precompile.run(project) {
        Ok(done) if done.compiled > 0 => tracing::info!(
            "compiled {} modules in {:.1} s, and kept their code in {}",
            done.compiled,
            started.elapsed().as_secs_f32(),
            folder.display()
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!("nothing is compiled ahead: {error}"),
    }
    Some(store)
}

/// Where the store is, as the XDG Base Directory Specification has it.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(store) = variable(VARIABLE) {
        return (!store.is_empty()).then(|| store.into());
    }
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|cache| cache.join("wws/code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[(&str, &str)]) -> Option<PathBuf> {
        folder(|name| {
            let (_, value) = set.iter().find(|(set, _)| *set == name)?;
            Some((*value).into())
        })
    }

    #[test]
    fn the_store_is_the_users_unless_said_otherwise() {
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
        assert_eq!(with(&[home, (VARIABLE, "/s")]), Some("/s".into()));
        assert_eq!(with(&[home, (VARIABLE, "")]), None);
        assert_eq!(with(&[]), None);
    }
}
