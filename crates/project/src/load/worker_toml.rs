//! TOML files of a project.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use crate::beneath::{self, Root};
use crate::problem::Problem;
use crate::reader::{Document, Report, UnknownKeys};
use crate::secret::SecretFiles;
use crate::worker;

/// The maximum size of a TOML file, in bytes.
pub(super) const MAX_TOML: u64 = 1 << 20;

/// Reads a TOML file, if it exists.
pub(super) fn read_toml<T>(
    root: &Root,
    path: &Path,
    report: &Report,
    read: impl FnOnce(Document<'_>) -> T,
) -> Option<T> {
    let problem = match root.read(path, MAX_TOML).map(String::from_utf8) {
        Ok(Ok(text)) => return Some(read(Document::new(path, text, report))),
        Ok(Err(error)) => {
            let bytes = error.as_bytes();
            let text = String::from_utf8_lossy(bytes);
            Problem::new(path, "not UTF-8, which TOML is")
                .at(&text, error.utf8_error().valid_up_to())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) if beneath::leaves_root(&error) => {
            Problem::new(path, "a link that leads outside the project")
                .help("replace it by the file itself")
        }
        Err(error) => Problem::new(path, format!("cannot be read: {error}")),
    };
    report.add(problem);
    None
}

/// The settings of a worker's TOML, and its problems.
pub(super) struct WorkerToml {
    pub(super) config: worker::Config,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl WorkerToml {
    /// Reads the TOML of the worker at `path`, if there is one.
    pub(super) fn read(
        root: &Root,
        path: &Path,
        env: &BTreeMap<String, String>,
        secrets: SecretFiles<'_>,
        defaults: &worker::Defaults,
    ) -> Self {
        let context = worker::Context {
            root,
            directory: path.parent().unwrap_or(Path::new("")),
            env,
            secrets,
            defaults,
        };
        let report = Report::default();
        let unknown = Report::default();
        let mut warnings = Vec::new();
        let file = path.with_extension("toml");
        let config = read_toml(root, &file, &report, |document| {
            let document = document.unknown_keys(UnknownKeys::Warn(&unknown));
            document.read(|reader| worker::Config::read(reader, &context, &mut warnings))
        });
        warnings.extend(unknown.into_problems());
        Self {
            config: config.unwrap_or_else(|| worker::Config {
                limits: defaults.limits.clone(),
                log: defaults.log.clone(),
                ..Default::default()
            }),
            problems: report.into_problems(),
            warnings,
        }
    }

    /// The directories with data that the worker is given.
    pub(super) fn data_directories(&self) -> Vec<PathBuf> {
        let directories = self.config.directories.iter();
        directories
            .filter(|directory| directory.holds_data)
            .map(|directory| directory.from.clone())
            .collect()
    }
}
