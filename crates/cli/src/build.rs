//! `wws build`: an image of a project, without Docker.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use wws_image::{
    Blob, ContextProblem, Image, ImageError, Packed, Packing, Reference, RegistryAccess,
};
use wws_project::{Problem, Problems, Project};

use crate::args::{Build, ProjectArgs};
use crate::routes::problem_values;
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

/// Why there is no image.
struct Failure {
    code: u8,
    error: String,
    problems: Vec<Problem>,
}

impl Failure {
    fn new(code: u8, error: impl Display) -> Self {
        Self {
            code,
            error: error.to_string(),
            problems: Vec::new(),
        }
    }

    fn report(&self, as_json: bool) -> ExitCode {
        if as_json {
            let problems = problem_values(&self.problems);
            println!("{}", json!({ "error": self.error, "problems": problems }));
        } else if self.problems.is_empty() {
            eprintln!("wws: {}", self.error);
        } else {
            eprintln!("{}", self.error);
        }
        ExitCode::from(self.code)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self {
            problems: problems.all().to_vec(),
            ..Self::new(EXIT_CONFIG, problems)
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let problem = |problem: &ContextProblem| Problem {
            file: problem.path.clone(),
            line: None,
            column: None,
            message: problem.message.into(),
            help: None,
        };
        match &error {
            ImageError::Project(problems) => Self {
                problems: problems.iter().map(problem).collect(),
                ..Self::new(EXIT_CONFIG, &error)
            },
            _ => Self::new(1, error),
        }
    }
}

/// Packs a project that loads and compiles.
pub(crate) fn build(args: &Build) -> ExitCode {
    match build_image(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(args.json),
    }
}

fn build_image(args: &Build) -> Result<(), Failure> {
    let usage = |error: &dyn Display| Failure::new(EXIT_USAGE, error);
    let name = Reference::parse(&args.tag).map_err(|error| usage(&error))?;
    let time = time(std::env::var(TIME).ok().as_deref()).map_err(|error| usage(&error))?;
    let output = Output::of(args.output.as_deref());
    if output == Output::Stdout && args.json {
        return Err(usage(
            &"the archive and JSON both go to standard output: name a file, as -o image.tar",
        ));
    }
    if output == Output::Stdout && io::stdout().is_terminal() {
        return Err(usage(
            &"an archive is not written to a terminal: name a file, as -o image.tar",
        ));
    }
    let project = ProjectArgs {
        path: args.path.clone(),
        prefix: None,
        ignore: Vec::new(),
    };
    if !args.path.is_dir() {
        let shown = args.path.display();
        return Err(usage(&format!("{shown} is no directory: name the project")));
    }
    check::with_compiled(&project, |project| pack(project, args, output, &name, time))?
}

fn pack(
    project: &Project,
    args: &Build,
    output: Output<'_>,
    name: &Reference,
    time: u64,
) -> Result<(), Failure> {
    if project.workers().is_empty() && project.assets().is_empty() {
        let shown = args.path.display();
        let error = format!("nothing to serve in {shown}: name the directory with the workers");
        return Err(Failure::new(EXIT_CONFIG, error));
    }
    let written = match output {
        Output::Archive(path) | Output::Layout(path) => Some(path),
        Output::Stdout | Output::Registry => None,
    };
    let packed = wws_image::project(&args.path, Packing { output: written })?;
    let left_out = left_out(project, &packed);
    for path in &left_out {
        eprintln!("warning: {}: .dockerignore leaves it out", path.display());
    }
    let contents = Contents::new(project, &packed, left_out);
    let mut image = Image::of_project(&name.to_string(), packed).time(time);
    for (label, value) in &args.label {
        image = image.label(label, value);
    }
    for (annotation, value) in &args.annotation {
        image = image.annotation(annotation, value);
    }
    let digest = match output {
        Output::Registry => push(image, name)?,
        _ => write(image, output).map_err(|error| Failure::new(EXIT_CANNOT_CREATE, error))?,
    };
    if args.json {
        println!("{}", contents.to_json(name, &digest, output));
        return Ok(());
    }
    eprintln!("{name}: {}", contents.summary());
    if let Some(path) = written {
        eprintln!("wrote {}{}", path.display(), next(output));
    }
    Ok(())
}

/// Pushes the image with the user's credentials. Returns its digest.
fn push(image: Image, name: &Reference) -> Result<String, Failure> {
    let pushed = |blob: &Blob, had: bool| {
        let word = if had { "exists" } else { "pushed" };
        eprintln!("{word} {} ({} bytes)", blob.digest(), blob.size());
    };
    let failed = |error: &dyn Display| Failure::new(1, error);
    let registry = registry::open(name, RegistryAccess::Push).map_err(|error| failed(&error))?;
    let blobs = image.into_blobs().map_err(|error| failed(&error))?;
    registry
        .push(&blobs, &pushed)
        .map_err(|error| failed(&error))?;
    let top = blobs.last().map(|blob| blob.digest().to_owned());
    Ok(top.unwrap_or_default())
}

/// Writes the image. Returns its digest.
fn write(image: Image, output: Output<'_>) -> Result<String, ImageError> {
    match output {
        Output::Layout(path) => image.write_layout(path),
        // Not written: pushed.
        Output::Registry => Ok(String::new()),
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
            let digest = image.write(BufWriter::new(&mut file))?;
            file.flush().map_err(failed)?;
            file.persist(path).map_err(|error| failed(error.error))?;
            Ok(digest)
        }
    }
}

/// The mode of a new file, of which the process's umask takes its part.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

/// The variable of the image's time is no time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{TIME} is `{0}`: expected seconds since 1970")]
struct InvalidTime(String);

/// The time that a variable gives, in seconds since 1970.
fn time(variable: Option<&str>) -> Result<u64, InvalidTime> {
    match variable {
        None | Some("") => Ok(0),
        Some(text) => text.parse().map_err(|_| InvalidTime(text.to_owned())),
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

/// What an image holds.
struct Contents {
    workers: usize,
    assets: usize,
    files: usize,
    bytes: u64,
    left_out: Vec<PathBuf>,
}

impl Contents {
    fn new(project: &Project, packed: &Packed, left_out: Vec<PathBuf>) -> Self {
        let assets = project.assets().iter().map(|asset| &asset.path);
        let assets = assets.filter(|path| !left_out.contains(path)).count();
        Self {
            workers: project.workers().len() + project.assets().len() - left_out.len() - assets,
            assets,
            files: packed.files,
            bytes: packed.bytes,
            left_out,
        }
    }

    fn summary(&self) -> String {
        format!(
            "{} of workers, {} of assets, {} in all, {}.{} MB",
            counted(self.workers),
            counted(self.assets),
            counted(self.files),
            self.bytes / 1_000_000,
            self.bytes / 100_000 % 10,
        )
    }

    fn to_json(&self, name: &Reference, digest: &str, output: Output<'_>) -> Value {
        let left_out = self.left_out.iter().map(|path| path.to_string_lossy());
        json!({
            "name": name.to_string(),
            "digest": digest,
            "output": match output {
                Output::Archive(path) | Output::Layout(path) => Some(path.to_string_lossy()),
                Output::Stdout | Output::Registry => None,
            },
            "pushed": output == Output::Registry,
            "workers": self.workers,
            "assets": self.assets,
            "files": self.files,
            "bytes": self.bytes,
            "left_out": left_out.collect::<Vec<_>>(),
            "problems": [],
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_form_follows_the_name() {
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
    fn image_time_comes_from_the_environment() {
        assert_eq!(time(None), Ok(0));
        assert_eq!(time(Some("")), Ok(0));
        assert_eq!(time(Some("1700000000")), Ok(1_700_000_000));
        assert!(time(Some("today")).is_err());
    }
}
