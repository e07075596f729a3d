//! Loads a folder: finds its files, reads their TOML, gives each its route.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Component, Path, PathBuf},
};

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::{
    Asset, Problems, Project, Runtime, Target, Worker, WorkerId, WorkerKind,
    beneath::{self, Root},
    config,
    files::{PUBLIC, Search},
    problem::Problem,
    reader::{Document, Report},
    route::{Routes, Segment},
    worker,
};

/// The largest TOML file, in bytes.
const MAX_TOML: u64 = 1 << 20;

/// Extensions of languages that a runtime may bring.
const LANGUAGES: [(&str, &str); 2] = [("py", "python"), ("rb", "ruby")];

/// How a folder is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Goes before every route and asset, as `/api`.
    pub prefix: Option<String>,
    /// Globs, relative to the root, of files and folders that are left out.
    pub ignore: Vec<String>,
    /// Where `$NAME` of `[vars]` and `WWS_*` come from.
    pub env: BTreeMap<String, String>,
    /// Whether the folder is in a container, where system folders of `/` hold no workers.
    pub container: bool,
    /// Files of runtimes, relative to the folder, whose SHA-256 is known already, in lower-case hex: they are not read for that.
    pub hashed: BTreeMap<PathBuf, String>,
}

/// Loads a folder.
///
/// # Errors
/// All that is wrong with it.
pub fn load(root: &Path, options: &LoadOptions) -> Result<Project, Problems> {
    let report = Report::default();
    let mut loading = Loading {
        report: &report,
        warnings: Vec::new(),
    };
    let project = loading.project(root, options);
    let warnings = loading.warnings;
    match (project, Problems::of(report.into_problems())) {
        (Some(project), None) => Ok(Project {
            warnings,
            ..project
        }),
        (_, Some(problems)) => Err(problems),
        (None, None) => Err(Problems::one(Problem::new(root, "cannot be loaded"))),
    }
}

/// The language runtimes that a folder's `.wws.toml` lists; none where there is no such file.
///
/// # Errors
/// The folder cannot be opened, or the file has problems: all of them.
pub fn runtimes(root: &Path) -> Result<Vec<Runtime>, Problems> {
    let opened =
        Root::open(root).map_err(|error| Problems::one(Problem::no_folder(root, &error)))?;
    let report = Report::default();
    let mut loading = Loading {
        report: &report,
        warnings: Vec::new(),
    };
    let config = loading.toml(&opened, Path::new(config::FILE), |document| {
        document.read(|reader| config::Config::read(reader, &opened, &BTreeMap::new()))
    });
    match Problems::of(report.into_problems()) {
        Some(problems) => Err(problems),
        None => Ok(config.unwrap_or_default().runtimes),
    }
}

/// The language runtimes of a repository's `index.toml`. `file` is its name in problems.
///
/// # Errors
/// All that is wrong with it.
pub fn repository_index(
    repository: &str,
    file: &Path,
    text: String,
) -> Result<Vec<Runtime>, Problems> {
    let report = Report::default();
    let runtimes =
        Document::new(file, text, &report).read(|reader| config::read_index(reader, repository));
    match Problems::of(report.into_problems()) {
        Some(problems) => Err(problems),
        None => Ok(runtimes),
    }
}

/// What of a folder can be compiled ahead. Problems are for [`load`] to tell.
#[derive(Debug, Default)]
pub struct Compilable {
    /// Wasm files that may be workers, relative to the folder.
    pub modules: Vec<PathBuf>,
    /// Runtimes that files need.
    pub runtimes: Vec<Runtime>,
    /// There are JavaScript files.
    pub javascript: bool,
}

/// Finds what of a folder can be compiled ahead.
#[must_use]
pub fn compilable(root: &Root, container: bool) -> Compilable {
    let report = Report::default();
    let mut runtimes = root
        .read(Path::new(config::FILE), MAX_TOML)
        .ok()
        .and_then(|text| String::from_utf8(text).ok())
        .map(|text| Document::new(Path::new(config::FILE), text, &report).read(config::runtimes))
        .unwrap_or_default();
    let search = Search {
        root,
        report: &report,
        ignore: &GlobSet::empty(),
        container,
    };
    let of = |runtime: &Runtime, wanted: &str| runtime.extensions.iter().any(|ext| ext == wanted);
    let files = search.workers(|file| {
        extension(file).is_some_and(|ext| {
            matches!(ext, "wasm" | "js") || runtimes.iter().any(|runtime| of(runtime, ext))
        })
    });
    let extensions: HashSet<_> = files.iter().filter_map(|file| extension(file)).collect();
    runtimes.retain(|runtime| extensions.iter().any(|ext| of(runtime, ext)));
    let javascript = extensions.contains("js");
    drop(extensions);
    Compilable {
        modules: files
            .into_iter()
            .filter(|file| extension(file) == Some("wasm"))
            .collect(),
        runtimes,
        javascript,
    }
}

struct Loading<'l> {
    report: &'l Report,
    warnings: Vec<Problem>,
}

impl Loading<'_> {
    fn project(&mut self, path: &Path, options: &LoadOptions) -> Option<Project> {
        let canonical = path
            .canonicalize()
            .and_then(|path| Root::open(&path).map(|root| (path, root)));
        let (path, root) = match canonical {
            Ok(opened) => opened,
            Err(error) => {
                self.report.add(Problem::no_folder(path, &error));
                return None;
            }
        };
        let prefix = self.prefix(options.prefix.as_deref());
        let ignore = self.ignore(&options.ignore);
        let mut config = self
            .toml(&root, Path::new(config::FILE), |document| {
                document.read(|reader| config::Config::read(reader, &root, &options.hashed))
            })
            .unwrap_or_default();
        let mut settings = config.settings;
        settings.override_from(
            &mut config.limits,
            &options.env,
            self.report,
            &mut self.warnings,
        );
        let search = Search {
            root: &root,
            report: self.report,
            ignore: &ignore,
            container: options.container && path == Path::new("/"),
        };

        let mut project = Project {
            root: path,
            workers: Vec::new(),
            assets: Vec::new(),
            routes: Routes::default(),
            not_found: None,
            settings,
            runtimes: config.runtimes,
            warnings: Vec::new(),
        };
        let files = search.workers(|file| {
            extension(file).is_some_and(|e| kind(&project, e).is_some() || language(e).is_some())
        });
        for file in files {
            self.worker(&mut project, &root, &config.limits, &prefix, options, file);
        }
        for file in search.assets() {
            self.asset(&mut project, &prefix, file);
        }
        if project.workers.is_empty() && project.assets.is_empty() {
            self.warnings.push(
                Problem::new(".", "the project has no worker and no asset").help(
                    "workers are files as index.js or api/[id].wasm, assets are files of public/",
                ),
            );
        }
        Some(project)
    }

    fn prefix(&self, prefix: Option<&str>) -> Vec<Segment> {
        let segments = prefix
            .unwrap_or_default()
            .split('/')
            .filter(|segment| !segment.is_empty());
        segments
            .map(|segment| Segment::Static(segment.to_owned()))
            .collect()
    }

    fn ignore(&self, globs: &[String]) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            // `folder/**` and `folder` both leave out the folder.
            match Glob::new(glob.trim_start_matches("./").trim_end_matches("/**")) {
                Ok(glob) => {
                    set.add(glob);
                }
                Err(error) => self
                    .report
                    .add(Problem::new("--ignore", format!("no valid glob: {error}"))),
            }
        }
        set.build().unwrap_or_else(|error| {
            self.report
                .add(Problem::new("--ignore", format!("no valid globs: {error}")));
            GlobSet::empty()
        })
    }

    /// Reads a TOML file, if it is there.
    fn toml<T>(
        &mut self,
        root: &Root,
        path: &Path,
        read: impl FnOnce(&Document<'_>) -> T,
    ) -> Option<T> {
        let problem = match root.read(path, MAX_TOML).map(String::from_utf8) {
            Ok(Ok(text)) => return Some(read(&Document::new(path, text, self.report))),
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
        self.report.add(problem);
        None
    }

    fn worker(
        &mut self,
        project: &mut Project,
        root: &Root,
        limits: &crate::Limits,
        prefix: &[Segment],
        options: &LoadOptions,
        path: PathBuf,
    ) {
        let Some(extension) = extension(&path) else {
            return;
        };
        let Some(kind) = kind(project, extension) else {
            if let Some(language) = language(extension) {
                let help = format!("`wws runtimes install {language} latest` makes it one");
                self.warnings.push(
                    Problem::new(
                        &path,
                        format!("no worker: the project has no runtime for .{extension}"),
                    )
                    .help(help),
                );
            }
            return;
        };
        if let WorkerKind::Runtime(index) = kind
            && let Some(runtime) = project.runtimes.get(index)
            && let Some(why) = &runtime.unusable
        {
            let (name, version) = (&runtime.name, &runtime.version);
            self.report.add(
                Problem::new(
                    &path,
                    format!("needs the runtime {name} {version}, which is not installed: {why}"),
                )
                .help(format!("`wws runtimes install {name} {version}`")),
            );
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let context = worker::Context {
            root,
            folder,
            env: &options.env,
            limits,
        };
        let mut warnings = Vec::new();
        let config = self.toml(root, &path.with_extension("toml"), |document| {
            document.read(|reader| worker::Config::read(reader, &context, &mut warnings))
        });
        self.warnings.append(&mut warnings);
        let config = config.unwrap_or_else(|| worker::Config {
            limits: limits.clone(),
            ..Default::default()
        });
        let segments = match route_of(&path) {
            Ok(segments) => [prefix, &segments].concat(),
            Err(message) => {
                self.report.add(Problem::new(&path, message));
                return;
            }
        };
        let id = WorkerId(project.workers.len());
        let route = shown(&segments);
        if let Err(Target::Worker(other)) = project.routes.add(&segments, Target::Worker(id.0)) {
            let other = project.workers[other].path.display();
            self.report.add(
                Problem::new(
                    &path,
                    format!("has the route {route}, which {other} has too"),
                )
                .help("rename one of them, or put it into a folder that begins with `_`"),
            );
        }
        project.workers.push(Worker {
            id,
            name: config.name.unwrap_or_else(|| path.display().to_string()),
            path,
            route,
            kind,
            vars: config.vars,
            kv_namespace: config.kv_namespace,
            folders: config.folders,
            http: config.http,
            limits: config.limits,
        });
    }

    /// An asset is at its own path; a page is also at the path without `.html` and without `index.html`.
    fn asset(&mut self, project: &mut Project, prefix: &[Segment], path: PathBuf) {
        let Ok(below) = path.strip_prefix(PUBLIC) else {
            return;
        };
        let Some(mut names) = names(below) else {
            self.warnings
                .push(Problem::new(&path, "not served: its name is not UTF-8"));
            return;
        };
        let segments = |names: &[String]| -> Vec<Segment> {
            prefix
                .iter()
                .cloned()
                .chain(names.iter().cloned().map(Segment::Static))
                .collect()
        };
        let index = project.assets.len();
        let own = segments(&names);
        if names == ["404.html"] {
            project.not_found = Some(index);
        }
        project.assets.push(Asset {
            path,
            url: shown(&own),
        });
        // A worker of the same route wins, and so does the file `about.html` over `about/index.html`, which is sorted behind it.
        let _taken = project.routes.add(&own, Target::Asset(index));
        let Some(stem) = names
            .last()
            .and_then(|name| name.strip_suffix(".html"))
            .map(str::to_owned)
        else {
            return;
        };
        names.pop();
        if stem != "index" {
            names.push(stem);
        }
        let _taken = project.routes.add(&segments(&names), Target::Asset(index));
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

fn language(extension: &str) -> Option<&'static str> {
    LANGUAGES
        .iter()
        .find(|(known, _)| *known == extension)
        .map(|(_, language)| *language)
}

fn kind(project: &Project, extension: &str) -> Option<WorkerKind> {
    match extension {
        "wasm" => Some(WorkerKind::Wasm),
        "js" => Some(WorkerKind::JavaScript),
        _ => {
            // One that is installed is preferred.
            let of = |usable: bool| {
                project.runtimes.iter().position(|runtime| {
                    runtime.extensions.iter().any(|known| known == extension)
                        && (!usable || runtime.unusable.is_none())
                })
            };
            of(true).or_else(|| of(false)).map(WorkerKind::Runtime)
        }
    }
}

fn names(path: &Path) -> Option<Vec<String>> {
    path.components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str().map(str::to_owned),
            _ => None,
        })
        .collect()
}

/// The route of a worker's file.
fn route_of(path: &Path) -> Result<Vec<Segment>, String> {
    let names =
        names(&path.with_extension("")).ok_or("its name is not UTF-8, which a route must be")?;
    let mut segments = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        if name == "index" {
            continue;
        }
        let segment = Segment::parse(name)?;
        if matches!(segment, Segment::CatchAll(_)) && index + 1 < names.len() {
            return Err(format!(
                "`{name}` takes all that follows: it can only be the last of a route"
            ));
        }
        segments.push(segment);
    }
    let mut parameters = Vec::new();
    for segment in &segments {
        if let Segment::Parameter(name) | Segment::CatchAll(name) = segment {
            if parameters.contains(&name) {
                return Err(format!("two parameters of its route are called `{name}`"));
            }
            parameters.push(name);
        }
    }
    Ok(segments)
}

fn shown(segments: &[Segment]) -> String {
    if segments.is_empty() {
        return "/".into();
    }
    segments
        .iter()
        .map(|segment| match segment {
            Segment::Static(name) => format!("/{name}"),
            Segment::Parameter(name) => format!("/[{name}]"),
            Segment::CatchAll(name) => format!("/[...{name}]"),
        })
        .collect()
}
