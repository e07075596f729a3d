//! `wws new`: a project to start from.

mod files;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::args::{Language, New};
use crate::{EXIT_CANNOT_CREATE, EXIT_USAGE};

/// The file that has the project's name, and what stands for it in templates.
const NAMED_FILE: &str = "README.md";
const NAME: &str = "NAME";

/// Why a project was not created.
#[derive(Debug)]
enum NewError {
    /// The path names no directory.
    Unnamed,
    /// The directory has files.
    NotEmpty,
    /// A file or directory cannot be created.
    Create(PathBuf, io::Error),
}

/// Creates a project, and prints what to do next.
pub(crate) fn new(args: &New) -> ExitCode {
    let shown = args.path.display();
    match create(args.language, &args.path) {
        Ok(()) => {
            print!("{}", next_steps(args));
            ExitCode::SUCCESS
        }
        Err(NewError::Unnamed) => {
            eprintln!("wws: {shown} is no name of a new directory");
            ExitCode::from(EXIT_USAGE)
        }
        Err(NewError::NotEmpty) => {
            eprintln!("wws: {shown} is not empty: name a new directory");
            ExitCode::from(EXIT_CANNOT_CREATE)
        }
        Err(NewError::Create(path, error)) => {
            eprintln!("wws: create {}: {error}", path.display());
            ExitCode::from(EXIT_CANNOT_CREATE)
        }
    }
}

/// Creates a project in `directory`, which is new or empty. No file is ever overwritten.
fn create(language: Language, directory: &Path) -> Result<(), NewError> {
    let Some(name) = name(directory) else {
        return Err(NewError::Unnamed);
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        |error| NewError::Create(path, error)
    };
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(NewError::NotEmpty);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(NewError::Create(directory.to_owned(), error)),
    }
    for (path, content) in files::files(language) {
        let content = if path == NAMED_FILE {
            content.replace(NAME, &name)
        } else {
            content.to_owned()
        };
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .create(parent)
                .map_err(failed(parent))?;
        }
        File::create_new(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .map_err(failed(&path))?;
    }
    Ok(())
}

/// Returns the name of the project in `directory`, as it may stand in a heading.
fn name(directory: &Path) -> Option<String> {
    let name = match directory.file_name() {
        Some(name) => name.to_owned(),
        // `.`, for example.
        None => fs::canonicalize(directory).ok()?.file_name()?.to_owned(),
    };
    let printable = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    Some(name.to_string_lossy().chars().map(printable).collect())
}

fn next_steps(args: &New) -> String {
    let directory = args.path.display();
    let mut steps = vec![format!("cd {directory}")];
    match args.language {
        Language::Javascript => {}
        Language::Python => steps.push("wws runtimes install python --path project".into()),
        Language::Ruby => steps.push("wws runtimes install ruby --path project".into()),
        _ => steps.push("make".into()),
    }
    steps.extend([
        "wws dev project".into(),
        "curl http://127.0.0.1:8080/hello".into(),
    ]);
    format!(
        "created {directory}; next:\n\n    {}\n",
        steps.join("\n    ")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;

    /// Whether a file of a kit is part of the library.
    fn is_source(name: &str) -> bool {
        let extension = Path::new(name).extension().and_then(|end| end.to_str());
        extension.is_some_and(|end| ["rs", "go", "c", "h", "zig"].contains(&end))
            && !name.ends_with("_test.go")
    }

    #[test]
    fn projects_have_the_files_of_their_kits() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (language, kit, of_projects) in [
            (Language::Rust, "kits/rust/src", "kit/src"),
            (Language::Rust, "kits/rust/macros/src", "kit/macros/src"),
            (Language::Go, "kits/go", "kit"),
            (Language::C, "kits/c/src", "kit/src"),
            (Language::Zig, "kits/zig/src", "kit"),
        ] {
            let sources = fs::read_dir(repository.join(kit)).unwrap();
            let sources: BTreeSet<String> = sources
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| is_source(name))
                .collect();
            let given: BTreeSet<String> = files::files(language)
                .filter_map(|(path, _)| path.strip_prefix(of_projects)?.strip_prefix('/'))
                .filter(|name| !name.contains('/') && is_source(name))
                .map(str::to_owned)
                .collect();
            assert_eq!(given, sources, "{kit}");
        }
    }

    #[test]
    fn creates_projects_in_new_and_empty_directories() {
        let directory = tempfile::tempdir().unwrap();
        for language in Language::value_variants() {
            let project = directory.path().join(format!("{language:?}"));
            create(*language, &project).unwrap();
            for (path, content) in files::files(*language) {
                let written = fs::read_to_string(project.join(path)).unwrap();
                assert_eq!(
                    written,
                    content.replace("# NAME", &format!("# {language:?}"))
                );
            }
            assert!(
                fs::read_to_string(project.join("Dockerfile"))
                    .unwrap()
                    .contains("COPY project")
            );
        }
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).unwrap();
        create(Language::Go, &empty).unwrap();
        assert!(empty.join("go.mod").exists());
    }

    #[test]
    fn overwrites_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("Makefile"), "mine").unwrap();
        let result = create(Language::C, directory.path());
        assert!(matches!(result, Err(NewError::NotEmpty)), "{result:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let file = directory.path().join("Makefile");
        let result = create(Language::C, &file);
        assert!(matches!(result, Err(NewError::Create(..))), "{result:?}");
        assert!(matches!(
            create(Language::C, Path::new("/")),
            Err(NewError::Unnamed)
        ));
    }
}
