//! Collects the files of a project.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{ContextProblem, ImageError};
use crate::ignore::Ignore;
use crate::layer::Layer;
use crate::walk::{Directory, FoundFile, FoundFileKind};

/// The file that says what is left out.
const IGNORE_FILE: &str = ".dockerignore";

/// The most bytes of that file.
const MAX_IGNORE_FILE: u64 = 1 << 20;

/// The most bytes of all files of a project.
const MAX_BYTES: u64 = 8 << 30;

/// How a project is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packing<'a> {
    /// A file or directory that is not packed: the one that the image is written to.
    pub output: Option<&'a Path>,
}

/// The files of a project, to be packed.
#[derive(Debug)]
pub struct Packed {
    pub(crate) layer: Layer,
    /// The number of its files and symbolic links.
    pub files: usize,
    /// The bytes of its files.
    pub bytes: u64,
    ignore: Ignore,
}

impl Packed {
    /// Whether `.dockerignore` leaves a file of the project out.
    #[must_use]
    pub fn leaves_out(&self, path: &Path) -> bool {
        self.ignore.leaves_out(path)
    }
}

/// Collects the files of the project in `root`. Symbolic links stay what they are.
///
/// # Errors
/// All files that cannot be packed: links that leave the project, sockets, pipes, devices; or a
/// directory cannot be read, or a limit is reached.
pub fn project(root: &Path, packing: Packing<'_>) -> Result<Packed, ImageError> {
    let directory = Arc::new(Directory::open(root)?);
    let mut packed = Packed {
        layer: Layer::default(),
        files: 0,
        bytes: 0,
        ignore: Ignore::parse(&ignore_file(root)?)?,
    };
    let output = packing.output.and_then(|output| beneath(root, output));
    let mut problems = Vec::new();
    directory.walk(&mut |found| {
        if output.as_deref() == Some(found.path.as_path()) {
            return Ok(false);
        }
        if packed.ignore.leaves_out(&found.path) {
            return Ok(packed.ignore.packs_again());
        }
        if let Some(message) = problem(&directory, found) {
            let path = found.path.clone();
            problems.push(ContextProblem { path, message });
            return Ok(false);
        }
        match &found.kind {
            FoundFileKind::File { size, .. } => {
                packed.files += 1;
                packed.bytes = packed.bytes.saturating_add(*size);
            }
            FoundFileKind::Link { .. } => packed.files += 1,
            FoundFileKind::Directory | FoundFileKind::Special => {}
        }
        if packed.bytes > MAX_BYTES {
            let limit = format!("{} GiB", MAX_BYTES >> 30);
            return Err(ImageError::too_large(root.display().to_string(), limit));
        }
        packed.layer.found(&directory, found, Path::new(""))?;
        Ok(true)
    })?;
    if problems.is_empty() {
        Ok(packed)
    } else {
        problems.sort_by(|one, other| one.path.cmp(&other.path));
        Err(ImageError::Project(problems))
    }
}

fn problem(directory: &Directory, found: &FoundFile) -> Option<&'static str> {
    match &found.kind {
        FoundFileKind::Special => Some(
            "neither a file, a directory nor a symbolic link: remove it, or add it to \
             .dockerignore",
        ),
        FoundFileKind::Link { target } if directory.escapes(&found.path, target) => Some(
            "a link that leads outside the project: replace it by the file, or add it to \
             .dockerignore",
        ),
        _ => None,
    }
}

fn ignore_file(root: &Path) -> Result<String, ImageError> {
    let path = root.join(IGNORE_FILE);
    let failed = |error| ImageError::file(&path, error);
    // A pipe would block.
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        _ => return Ok(String::new()),
    }
    let mut text = String::new();
    let file = fs::File::open(&path).map_err(failed)?;
    file.take(MAX_IGNORE_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_IGNORE_FILE {
        return Err(ImageError::too_large(IGNORE_FILE, "1 MiB"));
    }
    Ok(text)
}

/// The path of a file that may not exist, relative to the root; `None` outside of it.
fn beneath(root: &Path, path: &Path) -> Option<PathBuf> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).ok()?;
    let root = fs::canonicalize(root).ok()?;
    Some(parent.strip_prefix(root).ok()?.join(path.file_name()?))
}
