//! `wws build`: an image of a project, without Docker.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wws_image::{Blob, Image, ImageError, Packed, Packing, Reference, RegistryAccess};
use wws_project::Project;

use crate::args::{Build, Folder};
use crate::{EXIT_CANNOT_CREATE, EXIT_CONFIG, EXIT_USAGE, check, registry};

/// The time of the image and of its files: see reproducible-builds.org.
const TIME: &str = "SOURCE_DATE_EPOCH";

/// Where an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output<'a> {
    Archive(&'a Path),
    Layout(&'a Path),
    Stdout,
    Registry,
}

impl<'a> Output<'a> {
    fn of(path: Option<&'a Path>) -> Self {
        let Some(path) = path else {
            return Self::Registry;
        };
        if path.as_os_str() == "-" {
            Self::Stdout
        } else if path.extension().is_some_and(|extension| extension == "tar") {
            Self::Archive(path)
        } else {
            Self::Layout(path)
        }
    }
}

/// Packs a project that loads and compiles.
pub(crate) fn build(args: &Build) -> ExitCode {
    let name = match Reference::parse(&args.tag) {
        Ok(name) => name,
        Err(error) => return failed(EXIT_USAGE, &error),
    };
    let time = match time(std::env::var(TIME).ok().as_deref()) {
        Ok(time) => time,
        Err(error) => return failed(EXIT_USAGE, &error),
    };
    let output = Output::of(args.output.as_deref());
    if output == Output::Stdout && io::stdout().is_terminal() {
        let error = "an archive is not written to a terminal: name a file, as -o image.tar";
        return failed(EXIT_USAGE, &error);
    }
    let folder = Folder {
        path: args.path.clone(),
        prefix: None,
        ignore: Vec::new(),
    };
    if !args.path.is_dir() {
        let error = format!("{} is no directory: name the project", args.path.display());
        return failed(EXIT_USAGE, &error);
    }
    let packed = check::with_compiled(&folder, |project| pack(project, args, output, &name, time));
    packed.unwrap_or_else(|problems| {
        eprintln!("{problems}");
        ExitCode::from(EXIT_CONFIG)
    })
}

fn pack(
    project: &Project,
    args: &Build,
    output: Output<'_>,
    name: &Reference,
    time: u64,
) -> ExitCode {
    if project.workers().is_empty() && project.assets().is_empty() {
        let shown = args.path.display();
        let error = format!("nothing to serve in {shown}: name the directory with the workers");
        return failed(EXIT_CONFIG, &error);
    }
    let written = match output {
        Output::Archive(path) | Output::Layout(path) => Some(path),
        Output::Stdout | Output::Registry => None,
    };
    let packed = match wws_image::project(&args.path, Packing { output: written }) {
        Ok(packed) => packed,
        Err(error @ ImageError::Project(_)) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(error) => return failed(1, &error),
    };
    let left_out = left_out(project, &packed);
    for path in &left_out {
        eprintln!("warning: {}: .dockerignore leaves it out", path.display());
    }
    let summary = summary(project, &packed, &left_out);
    let mut image = Image::of_project(&name.to_string(), packed).time(time);
    for (label, value) in &args.label {
        image = image.label(label, value);
    }
    for (annotation, value) in &args.annotation {
        image = image.annotation(annotation, value);
    }
    let done = match output {
        Output::Registry => push(image, name),
        _ => write(image, output).map_err(|error| (EXIT_CANNOT_CREATE, error.to_string())),
    };
    match done {
        Ok(()) => {
            eprintln!("{name}: {summary}");
            if let Some(path) = written {
                eprintln!("wrote {}{}", path.display(), next(output));
            }
            ExitCode::SUCCESS
        }
        Err((code, error)) => failed(code, &error),
    }
}

/// Pushes the image with the user's credentials.
fn push(image: Image, name: &Reference) -> Result<(), (u8, String)> {
    let pushed = |blob: &Blob, had: bool| {
        let word = if had { "exists" } else { "pushed" };
        eprintln!("{word} {} ({} bytes)", blob.digest(), blob.size());
    };
    let registry = registry::open(name, RegistryAccess::Push).map_err(|error| (1, error))?;
    let blobs = image.into_blobs();
    blobs
        .and_then(|blobs| registry.push(&blobs, &pushed))
        .map_err(|error| (1, error.to_string()))
}

fn write(image: Image, output: Output<'_>) -> Result<(), ImageError> {
    match output {
        Output::Layout(path) => image.write_layout(path),
        // Not written: pushed.
        Output::Registry => Ok(()),
        Output::Stdout => image.write(BufWriter::new(io::stdout().lock())),
        Output::Archive(path) => {
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let failed = |error| ImageError::File {
                path: path.to_owned(),
                source: error,
            };
            // Whole or not at all: an image that is there stays, even if this is interrupted.
            let mut file = tempfile::Builder::new()
                .prefix(".wws-build-")
                .permissions(readable())
                .tempfile_in(parent)
                .map_err(failed)?;
            image.write(BufWriter::new(&mut file))?;
            file.flush().map_err(failed)?;
            file.persist(path).map_err(|error| failed(error.error))?;
            Ok(())
        }
    }
}

/// The mode of a new file, of which the process's umask takes its part.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

/// The time that a variable gives, in seconds since 1970.
fn time(variable: Option<&str>) -> Result<u64, String> {
    match variable {
        None | Some("") => Ok(0),
        Some(text) => text
            .parse()
            .map_err(|_| format!("{TIME} is `{text}`: expected seconds since 1970")),
    }
}

/// Workers and assets that the image will not have.
fn left_out(project: &Project, packed: &Packed) -> Vec<PathBuf> {
    let workers = project.workers().iter().map(|worker| &worker.path);
    let assets = project.assets().iter().map(|asset| &asset.path);
    workers
        .chain(assets)
        .filter(|path| packed.leaves_out(path))
        .cloned()
        .collect()
}

fn summary(project: &Project, packed: &Packed, left_out: &[PathBuf]) -> String {
    let assets = project.assets().iter().map(|asset| &asset.path);
    let assets = assets.filter(|path| !left_out.contains(path)).count();
    let workers = project.workers().len() + project.assets().len() - left_out.len() - assets;
    format!(
        "{} of workers, {} of assets, {} in all, {}.{} MB",
        counted(workers),
        counted(assets),
        counted(packed.files),
        packed.bytes / 1_000_000,
        packed.bytes / 100_000 % 10,
    )
}

fn counted(files: usize) -> String {
    match files {
        1 => "1 file".into(),
        files => format!("{files} files"),
    }
}

/// What can be done with the image.
fn next(output: Output<'_>) -> String {
    match output {
        Output::Archive(path) => format!(
            "; `docker load -i {0}`, `ctr image import {0}` or `wws run {0}`",
            path.display()
        ),
        Output::Layout(path) => format!("; `wws run {}`", path.display()),
        Output::Stdout | Output::Registry => String::new(),
    }
}

fn failed(code: u8, error: &dyn Display) -> ExitCode {
    eprintln!("wws: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_says_its_form() {
        for (path, output) in [
            ("-", Output::Stdout),
            ("a/b.tar", Output::Archive(Path::new("a/b.tar"))),
            ("image", Output::Layout(Path::new("image"))),
            ("image.tar.d", Output::Layout(Path::new("image.tar.d"))),
        ] {
            assert_eq!(Output::of(Some(Path::new(path))), output);
        }
    }

    #[test]
    fn the_time_is_the_environments_or_none() {
        assert_eq!(time(None), Ok(0));
        assert_eq!(time(Some("")), Ok(0));
        assert_eq!(time(Some("1700000000")), Ok(1_700_000_000));
        assert!(time(Some("today")).is_err());
    }
}
