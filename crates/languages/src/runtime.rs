//! Workers of runtimes that a project installs (`.wws/runtimes`): interpreters that are WASI
//! commands and know nothing of this server.
//!
//! Such an interpreter reads the worker's source from `/src` and the request from its standard
//! input. Each request has its own instance, prestarted if there was time: only the interpreter
//! knows where in its start a snapshot could be taken.

use std::{fs, path::Path, sync::Arc};

use tempfile::TempDir;
use wws_engine::{Code, Engine, Guest, GuestSpec, LoadError, LoadErrorKind, PreopenedDirectory};
use wws_project::{File, Runtime, beneath::Root};

/// The directory in which the interpreter finds the source.
const SOURCE: &str = "/src";

/// The maximum size of sources, wrappers and polyfills, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

/// Creates a guest from a worker's source and its runtime's interpreter.
///
/// # Errors
/// A file cannot be read, or there is no room for the source.
pub fn runtime_guest(
    engine: &Engine,
    interpreter: &Code,
    root: &Root,
    runtime: &Runtime,
    worker: &Path,
    mut spec: GuestSpec,
) -> Result<Guest, LoadError> {
    let source = read(root, worker)?;
    let file_of = |file: &File| read(root, &runtime.file(file));
    let program = match &runtime.wrapper {
        Some(wrapper) => file_of(wrapper)?.replace("{source}", &source),
        None => source,
    };
    let directory = source_directory()?;
    let extension = worker.extension().unwrap_or_default().to_string_lossy();
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).map_err(|error| {
            LoadError::new(LoadErrorKind::Host, "cannot lay the source out").caused_by(error)
        })
    };
    write(&format!("index.{extension}"), &program)?;
    if let Some(polyfill) = &runtime.polyfill {
        let name = Path::new(&polyfill.filename)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        write(&name, &file_of(polyfill)?)?;
    }
    let dir = fs::File::open(directory.path()).map_err(|error| {
        LoadError::new(LoadErrorKind::Host, "cannot open the source").caused_by(error)
    })?;
    spec.args.clone_from(&runtime.args);
    for (name, value) in &runtime.envs {
        // The worker's own value takes precedence.
        if !spec.env.iter().any(|(set, _)| set == name) {
            spec.env.push((name.clone(), value.clone()));
        }
    }
    let source = PreopenedDirectory {
        dir,
        to: SOURCE.into(),
    };
    Ok(engine
        .guest_with(interpreter, spec, vec![source])?
        .keeping(Arc::new(directory))
        .prestarted())
}

fn read(root: &Root, path: &Path) -> Result<String, LoadError> {
    let bytes = root.read(path, MAX_SOURCE).map_err(|error| {
        LoadError::new(
            LoadErrorKind::Host,
            format!("cannot read {}", path.display()),
        )
        .caused_by(error)
    })?;
    String::from_utf8(bytes).map_err(|_| {
        LoadError::new(
            LoadErrorKind::Program,
            format!("{} is not UTF-8", path.display()),
        )
    })
}

/// A directory that is removed with the last guest. A container's own directories may be read-only,
/// but it has memory.
fn source_directory() -> Result<TempDir, LoadError> {
    let mut make = tempfile::Builder::new();
    make.prefix("wws-source-");
    make.tempdir_in("/dev/shm")
        .or_else(|_| make.tempdir())
        .map_err(|error| {
            LoadError::new(LoadErrorKind::Host, format!(
                "no place for the source, neither /dev/shm nor a directory for temporary files: \
                 {error}"
            ))
        })
}
