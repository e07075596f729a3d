//! What of a project can be compiled ahead of time.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use globset::GlobSet;

use crate::beneath::Root;
use crate::execution::{Execution, LanguageSpec};
use crate::files::{Search, memory_for_names};
use crate::load::paths::extension;
use crate::load::worker_toml::{MAX_TOML, WorkerToml};
use crate::reader::{Document, Report};
use crate::secret::SecretFiles;
use crate::worker::Defaults;
use crate::{Runtime, config};

/// What can be compiled ahead of time. [`load`](crate::load) reports problems.
#[derive(Debug, Default)]
pub struct Compilable {
    /// Wasm files that may be workers, relative to the project.
    pub modules: Vec<PathBuf>,
    /// Runtimes that files need.
    pub runtimes: Vec<Runtime>,
    /// Names of the languages with a built-in interpreter that files need.
    pub built_in: Vec<&'static str>,
}

/// Finds what can be compiled ahead of time: of all workers, or of the one `file` that is the
/// project.
#[must_use]
pub fn compilable(
    root: &Root,
    file: Option<&Path>,
    container: bool,
    languages: &[LanguageSpec],
) -> Compilable {
    let report = Report::default();
    let mut runtimes = root
        .read(Path::new(config::FILE), MAX_TOML)
        .ok()
        .and_then(|text| String::from_utf8(text).ok())
        .map(|text| {
            Document::new(Path::new(config::FILE), text, &report)
                .read(|reader| config::runtimes(reader, None))
        })
        .unwrap_or_default();
    let execution = |file: &Path| {
        extension(file)
            .and_then(|extension| Execution::of_extension(extension, languages, &runtimes))
    };
    let files = match file {
        Some(file) => vec![file.to_owned()],
        None => workers(root, container, &|file| execution(file).is_some()),
    };
    let mut compilable = Compilable::default();
    let mut needed = HashSet::new();
    for file in files {
        match execution(&file) {
            Some(Execution::Module) => compilable.modules.push(file),
            Some(Execution::Snapshot {
                language,
                runtime: None,
            }) => {
                if !compilable.built_in.contains(&language) {
                    compilable.built_in.push(language);
                }
            }
            _ => needed.extend(extension(&file).map(str::to_owned)),
        }
    }
    runtimes.retain(|runtime| {
        let mut extensions = runtime.extensions.iter();
        extensions.any(|extension| needed.contains(extension))
    });
    compilable.runtimes = runtimes;
    compilable
}

/// The workers of a directory that can be read.
fn workers(root: &Root, container: bool, is_worker: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let ignore = GlobSet::empty();
    let search = Search {
        root,
        ignore: &ignore,
        system: container,
        container: false,
        names: Cell::new(Some(memory_for_names(None))),
        warnings: Report::default(),
        problems: Report::default(),
    };
    let env = BTreeMap::new();
    let defaults = Defaults::default();
    let found = search.workers(is_worker, &mut |path| {
        WorkerToml::read(root, path, &env, SecretFiles::Unread, &defaults).data_directories()
    });
    let readable = found.files.into_iter();
    let readable = readable.filter(|(_, problem)| problem.is_none());
    readable.map(|(path, _)| path).collect()
}
