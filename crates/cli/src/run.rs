//! `wws run`: serves an image without containerd.
//!
//! An image of a registry is pulled into the user's cache. The image is unpacked into a private
//! directory, which is removed when the server stops. Its
//! workers run in the same sandbox as those of a directory: an image is served as `wws DIRECTORY`
//! would serve its files, and not in a container.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use wws_image::{
    Defaults, ImageCache, ImageError, InvalidReference, Reference, RegistryAccess, StoredImage,
    UnpackLimits,
};
use wws_project::beneath::Root;

use crate::args::Run;
use crate::environment::{self, Allowed};
use crate::progress::Bar;
use crate::project::ServerLocation;
use crate::registry::OpenRegistryError;
use crate::scratch::Scratch;
use crate::{code, registry, serve};

/// Bytes of images that are kept for the next time.
const MAX_CACHE: u64 = 10 << 30;

/// Why an image cannot be served.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("there is no such file, and {0}")]
    Name(#[source] InvalidReference),
    #[error(transparent)]
    OpenRegistry(#[from] OpenRegistryError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "its entry point `{0}` is neither a directory of workers nor a .wasm file: \
         run it in a container"
    )]
    EntryPoint(String),
}

/// Unpacks and serves an image.
pub(crate) fn run(args: Run) -> ExitCode {
    let scratch = match Scratch::new() {
        Ok(scratch) => scratch,
        Err(error) => return failed(&error),
    };
    let unpacked = unpack(&args.image, &scratch).and_then(|defaults| {
        let entry = entry(&defaults, scratch.root())?;
        Ok((defaults, entry))
    });
    let (defaults, entry) = match unpacked {
        Ok(unpacked) => unpacked,
        Err(error) => return failed(&format_args!("{}: {error}", args.image.display())),
    };
    let allowed = Allowed {
        secrets: args.allow_secrets,
        private_hosts: args.allow_private_hosts,
    };
    environment::serve_untrusted(defaults.env, args.variables(), allowed);
    match args.into_serve(entry.path, &entry.in_image, entry.arguments) {
        Ok(args) => serve::serve(args, ServerLocation::Machine),
        Err(error) => {
            // `exit` would leave the directory.
            let _ = error.print();
            ExitCode::from(2)
        }
    }
}

/// Unpacks an image. Returns what it says about a container of it.
fn unpack(name: &Path, scratch: &Scratch) -> Result<Defaults, RunError> {
    let limits = UnpackLimits::default();
    let unpack = |image: &StoredImage| {
        image.unpack(scratch.root(), limits)?;
        Ok(image.defaults().clone())
    };
    if is_file(name) {
        return unpack(&StoredImage::open(name)?);
    }
    let name = Reference::parse_existing(&name.to_string_lossy()).map_err(RunError::Name)?;
    // While the cache is open, nothing is removed from it.
    let cache = cache(scratch)?;
    let registry = registry::open(&name, RegistryAccess::Pull)?;
    let image = registry.pull(&cache, limits.bytes, &Bar::default())?;
    eprintln!("{name}: {}", image.digest());
    unpack(&image)
}

/// Whether an image is named by its path.
fn is_file(name: &Path) -> bool {
    let first = name.components().next();
    let is_path = matches!(
        first,
        Some(Component::RootDir | Component::CurDir | Component::ParentDir)
    );
    let is_archive = name.extension().is_some_and(|extension| extension == "tar");
    is_path || is_archive || name.exists()
}

/// The user's cache of images; without one, a directory that is removed in the end.
fn cache(scratch: &Scratch) -> Result<ImageCache, ImageError> {
    let directory = code::user_cache(|name| std::env::var_os(name));
    let opened = directory.map(|directory| ImageCache::open(&directory.join("images"), MAX_CACHE));
    match opened {
        Some(Ok(cache)) => return Ok(cache),
        Some(Err(error)) => eprintln!("warning: the image is not kept for the next time: {error}"),
        None => {}
    }
    ImageCache::open(&scratch.other("images"), MAX_CACHE)
}

/// What an image serves.
#[derive(Debug, PartialEq, Eq)]
struct EntryPoint {
    /// The project, unpacked.
    path: PathBuf,
    in_image: PathBuf,
    arguments: Vec<OsString>,
}

/// Resolves the entry point of an image that is unpacked in `root`, as the shim does.
fn entry(defaults: &Defaults, root: &Path) -> Result<EntryPoint, RunError> {
    let mut words = defaults.entrypoint.iter().chain(&defaults.command);
    let word = words.next().map_or("/", String::as_str);
    let in_image = Path::new("/").join(&defaults.working_directory).join(word);
    let mut beneath = PathBuf::new();
    for component in in_image.components() {
        match component {
            Component::Normal(name) => beneath.push(name),
            Component::ParentDir => {
                beneath.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let opened = Root::open(root)?;
    let is_module = beneath
        .extension()
        .is_some_and(|extension| extension == "wasm");
    // A link to a directory of this machine is refused.
    if opened.directory(&beneath).is_err() && !(is_module && opened.file(&beneath).is_ok()) {
        return Err(RunError::EntryPoint(word.to_owned()));
    }
    Ok(EntryPoint {
        path: root.join(beneath),
        in_image,
        arguments: words.map(OsString::from).collect(),
    })
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("wws: {error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn entry_of(words: &[&str], directory: &str, root: &Path) -> Result<EntryPoint, RunError> {
        let (entrypoint, command) = words.split_at(words.len().min(1));
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let defaults = Defaults {
            entrypoint: owned(entrypoint),
            command: owned(command),
            working_directory: directory.into(),
            ..Defaults::default()
        };
        entry(&defaults, root)
    }

    #[test]
    fn the_entry_point_is_a_directory_or_a_module_of_the_image() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("app/api")).unwrap();
        fs::write(root.join("app/w.wasm"), "").unwrap();
        fs::write(root.join("program"), "").unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("app", root.join("in")).unwrap();
        for (words, directory, path) in [
            (&[][..], "", ""),
            (&["/"], "/app", ""),
            (&["."], "/app", "app"),
            (&["api", "--port", "1"], "app", "app/api"),
            (&["/app/w.wasm"], "", "app/w.wasm"),
            (&["../../app"], "/app", "app"),
            (&["/in"], "", "in"),
        ] {
            let found = entry_of(words, directory, root).unwrap();
            assert_eq!(found.path, root.join(path), "{words:?}");
            assert_eq!(found.arguments.len(), words.len().saturating_sub(1));
        }
        for word in ["/program", "/out", "/missing", "wws"] {
            let error = entry_of(&[word], "/", root).unwrap_err().to_string();
            assert!(error.contains(&format!("`{word}`")), "{error}");
        }
    }
}
