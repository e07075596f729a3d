//! Loads a folder: finds its files, reads their TOML, gives each its route.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Component, Path, PathBuf},
};

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::{
    Asset, Limits, Problems, Project, Runtime, ServerSettings, Target, Worker, WorkerId,
    WorkerKind,
    beneath::{self, Root},
    config, data,
    files::{PUBLIC, Search},
    problem::Problem,
    reader::{Document, Report, UnknownKeys},
    route::{Routes, Segment},
    worker,
};

/// The largest TOML file, in bytes.
const MAX_TOML: u64 = 1 << 20;

/// Extensions of sources that are no workers as they are, and what makes them workers.
const SOURCES: [(&str, &str); 6] = [
    ("py", "`wws runtimes install python latest` makes it one"),
    ("rb", "`wws runtimes install ruby latest` makes it one"),
    ("ts", COMPILE),
    ("mts", COMPILE),
    ("tsx", COMPILE),
    ("jsx", COMPILE),
];

const COMPILE: &str = "compile it to JavaScript, as by `esbuild FILE --bundle --format=esm --outfile=FILE.js`, and keep \
     the sources in a directory that begins with `_`";

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
    /// Whether a worker that cannot be loaded stops the start, instead of `[server] strict`.
    pub strict: Option<bool>,
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
    let config = toml(&opened, Path::new(config::FILE), &report, |document| {
        document.read(|reader| config::Config::read(reader, &opened, &BTreeMap::new()))
    });
    match Problems::of(report.into_problems()) {
        Some(problems) => Err(problems),
        None => Ok(config.unwrap_or_default().runtimes),
    }
}

/// The settings of a directory's server, without what it serves. Where they have problems, which [`load`] reports, they are the
/// defaults.
///
/// # Errors
/// The directory cannot be opened.
pub fn server_settings(
    root: &Path,
    env: &BTreeMap<String, String>,
) -> Result<ServerSettings, Problems> {
    let opened =
        Root::open(root).map_err(|error| Problems::one(Problem::no_folder(root, &error)))?;
    let report = Report::default();
    let mut settings = ServerSettings::default();
    let text = opened.read(Path::new(config::FILE), MAX_TOML);
    if let Some(text) = text.ok().and_then(|text| String::from_utf8(text).ok()) {
        Document::new(Path::new(config::FILE), text, &report)
            .read(|reader| reader.table("server", |table| settings.read(table)));
    }
    settings.override_from(&mut Limits::default(), env, &report, &mut Vec::new());
    Ok(settings)
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
    let ignore = GlobSet::empty();
    let search = Search {
        root,
        ignore: &ignore,
        system: container,
        container: false,
        warnings: Report::default(),
        problems: Report::default(),
    };
    let of = |runtime: &Runtime, wanted: &str| runtime.extensions.iter().any(|ext| ext == wanted);
    let is_worker = |file: &Path| {
        extension(file).is_some_and(|ext| {
            matches!(ext, "wasm" | "js" | "mjs") || runtimes.iter().any(|runtime| of(runtime, ext))
        })
    };
    let env = BTreeMap::new();
    let limits = Limits::default();
    let found = search.workers(&is_worker, &mut |path| {
        WorkerToml::read(root, path, &env, &limits).data_directories()
    });
    let readable = found.files.into_iter();
    let readable = readable.filter(|(_, problem)| problem.is_none());
    let files: Vec<PathBuf> = readable.map(|(path, _)| path).collect();
    let extensions: HashSet<_> = files.iter().filter_map(|file| extension(file)).collect();
    runtimes.retain(|runtime| extensions.iter().any(|ext| of(runtime, ext)));
    let javascript = extensions.contains("js") || extensions.contains("mjs");
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
        let mut config = toml(&root, Path::new(config::FILE), self.report, |document| {
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
        settings.strict = options.strict.unwrap_or(settings.strict);
        let prefix = options.prefix.as_ref().or(settings.prefix.as_ref());
        let prefix = self.prefix(prefix.map(String::as_str));
        let ignore = match &options.ignore[..] {
            [] => self.ignore("`server.ignore`", &settings.ignore.0),
            globs => self.ignore("--ignore", globs),
        };
        let search = Search {
            root: &root,
            ignore: &ignore,
            system: options.container && path == Path::new("/"),
            container: options.container,
            warnings: Report::default(),
            problems: Report::default(),
        };

        let mut project = Project {
            root: path,
            prefix,
            workers: Vec::new(),
            assets: Vec::new(),
            routes: Routes::default(),
            not_found: None,
            settings,
            runtimes: config.runtimes,
            warnings: Vec::new(),
        };
        let mut tomls = HashMap::new();
        let is_worker = |file: &Path| {
            extension(file)
                .is_some_and(|e| kind(&project.runtimes, e).is_some() || source_for(e).is_some())
        };
        let found = search.workers(&is_worker, &mut |path| {
            if extension(path).is_none_or(|e| kind(&project.runtimes, e).is_none()) {
                return Vec::new();
            }
            let toml = WorkerToml::read(&root, path, &options.env, &config.limits);
            let directories = toml.data_directories();
            tomls.insert(path.to_path_buf(), toml);
            directories
        });
        for (worker, directory) in found.inside_own_data {
            if let Some(toml) = tomls.get_mut(&worker) {
                toml.problems
                    .push(data::inside_own_data(&worker, &directory));
            }
        }
        let mut sources = Vec::new();
        for (path, problem) in found.files {
            match tomls.remove(&path) {
                Some(mut toml) => {
                    toml.problems.extend(problem);
                    self.worker(&mut project, toml, path);
                }
                None => sources.push(path),
            }
        }
        self.not_run(&sources, &project);
        for file in search.assets(&found.data) {
            self.asset(&mut project, file);
        }
        self.warnings.extend(search.warnings.into_problems());
        for problem in search.problems.into_problems() {
            self.report.add(problem);
        }
        for (worker, other) in project.route() {
            let problem = Problem::new(
                &project.workers[worker].path,
                format!(
                    "has the route {}, which {} has too",
                    project.workers[worker].route,
                    project.workers[other].path.display()
                ),
            )
            .help("rename one of them, or put it into a directory that begins with `_`");
            self.stop_or_warn(&project, problem);
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

    /// Reports what costs one file its route.
    fn stop_or_warn(&mut self, project: &Project, problem: Problem) {
        if project.settings.strict {
            self.report.add(problem);
        } else {
            self.warnings.push(Problem {
                message: format!("not served: {}", problem.message),
                ..problem
            });
        }
    }

    /// Warns of sources that nothing here runs: once for each kind of them.
    fn not_run(&mut self, files: &[PathBuf], project: &Project) {
        let mut all: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
        for file in files {
            let Some(extension) = extension(file) else {
                continue;
            };
            let is_built = || {
                let built = ["js", "mjs"].map(|extension| file.with_extension(extension));
                built.iter().any(|built| {
                    let mut workers = project.workers.iter();
                    workers.any(|worker| worker.path == *built)
                })
            };
            let is_declaration = file.to_string_lossy().ends_with(".d.ts");
            if kind(&project.runtimes, extension).is_none() && !is_declaration && !is_built() {
                all.entry(extension).or_default().push(file);
            }
        }
        for (extension, files) in all {
            let Some(help) = source_for(extension) else {
                continue;
            };
            let more = match files.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let message = format!("no worker: nothing here runs .{extension}{more}");
            self.warnings
                .push(Problem::new(files[0], message).help(help));
        }
    }

    fn prefix(&self, prefix: Option<&str>) -> Vec<Segment> {
        let segments = prefix
            .unwrap_or_default()
            // As on Windows, where the old server was used, too.
            .split(['/', '\\'])
            .filter(|segment| !segment.is_empty());
        segments
            .map(|segment| Segment::Static(segment.to_owned()))
            .collect()
    }

    fn ignore(&self, name: &str, globs: &[String]) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            // `folder/**` and `folder` both leave out the folder.
            match Glob::new(glob.trim_start_matches("./").trim_end_matches("/**")) {
                Ok(glob) => {
                    set.add(glob);
                }
                Err(error) => self
                    .report
                    .add(Problem::new(name, format!("no valid glob: {error}"))),
            }
        }
        set.build().unwrap_or_else(|error| {
            self.report
                .add(Problem::new(name, format!("no valid globs: {error}")));
            GlobSet::empty()
        })
    }

    fn worker(&mut self, project: &mut Project, toml: WorkerToml, path: PathBuf) {
        let WorkerToml {
            config,
            mut problems,
            warnings,
        } = toml;
        self.warnings.extend(warnings);
        let Some(kind) = extension(&path).and_then(|e| kind(&project.runtimes, e)) else {
            return;
        };
        if let WorkerKind::Runtime(index) = kind
            && let Some(runtime) = project.runtimes.get(index)
            && let Some(why) = &runtime.unusable
        {
            let (name, version) = (&runtime.name, &runtime.version);
            problems.push(
                Problem::new(
                    &path,
                    format!("needs the runtime {name} {version}, which is not installed: {why}"),
                )
                .help(format!("`wws runtimes install {name} {version}`")),
            );
        }
        let segments = match route_of(&path) {
            Ok(segments) => segments,
            Err(message) => {
                self.stop_or_warn(project, Problem::new(&path, message));
                return;
            }
        };
        if project.settings.strict {
            for problem in problems.drain(..) {
                self.report.add(problem);
            }
        }
        let route = shown(&[project.prefix.as_slice(), &segments].concat());
        project.workers.push(Worker {
            id: WorkerId(project.workers.len()),
            name: config.name.unwrap_or_else(|| path.display().to_string()),
            path,
            route,
            segments,
            kind,
            vars: config.vars,
            kv_namespace: config.kv_namespace,
            folders: config.folders,
            http: config.http,
            limits: config.limits,
            problems,
        });
    }

    fn asset(&mut self, project: &mut Project, path: PathBuf) {
        let Ok(below) = path.strip_prefix(PUBLIC) else {
            return;
        };
        let Some(names) = names(below) else {
            self.warnings
                .push(Problem::new(&path, "not served: its name is not UTF-8"));
            return;
        };
        let own = names.iter().cloned().map(Segment::Static);
        let own: Vec<Segment> = project.prefix.iter().cloned().chain(own).collect();
        if names == ["404.html"] {
            project.not_found = Some(project.assets.len());
        }
        project.assets.push(Asset {
            path,
            url: shown(&own),
            names,
        });
    }
}

impl Project {
    /// Makes the routes of all workers and assets. Returns the workers whose route another one has.
    pub(crate) fn route(&mut self) -> Vec<(usize, usize)> {
        let mut routes = Routes::default();
        let mut taken = Vec::new();
        for worker in &self.workers {
            let segments = [self.prefix.as_slice(), &worker.segments].concat();
            let target = Target::Worker(worker.id.0);
            let added = match worker.segments.as_slice() {
                [Segment::CatchAll(_)] => routes.add_root_catch_all(&segments, target),
                _ => routes.add(&segments, target),
            };
            if let Err(Target::Worker(other)) = added {
                taken.push((worker.id.0, other));
            }
        }
        let of = |names: &[String]| -> Vec<Segment> {
            let names = names.iter().cloned().map(Segment::Static);
            self.prefix.iter().cloned().chain(names).collect()
        };
        for (index, asset) in self.assets.iter().enumerate() {
            // A worker of the same route wins, and so does the file `about.html` over `about/index.html`, which is sorted behind
            // it.
            let _taken = routes.add(&of(&asset.names), Target::Asset(index));
            // A page is also at the path without `.html` and without `index.html`.
            if let Some(page) = asset.page() {
                let _taken = routes.add(&of(&page), Target::Page(index));
            }
        }
        self.routes = routes;
        taken
    }
}

/// Reads a TOML file, if it is there.
fn toml<T>(
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

/// What a worker's TOML says, and what is wrong with it.
struct WorkerToml {
    config: worker::Config,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl WorkerToml {
    /// Reads the TOML of the worker at `path`, if there is one.
    fn read(root: &Root, path: &Path, env: &BTreeMap<String, String>, limits: &Limits) -> Self {
        let context = worker::Context {
            root,
            folder: path.parent().unwrap_or(Path::new("")),
            env,
            limits,
        };
        let report = Report::default();
        let unknown = Report::default();
        let mut warnings = Vec::new();
        let file = path.with_extension("toml");
        let config = toml(root, &file, &report, |document| {
            let document = document.unknown_keys(UnknownKeys::Warn(&unknown));
            document.read(|reader| worker::Config::read(reader, &context, &mut warnings))
        });
        warnings.extend(unknown.into_problems());
        Self {
            config: config.unwrap_or_else(|| worker::Config {
                limits: limits.clone(),
                ..Default::default()
            }),
            problems: report.into_problems(),
            warnings,
        }
    }

    /// The directories that the worker is given, which hold data.
    fn data_directories(&self) -> Vec<PathBuf> {
        let folders = self.config.folders.iter();
        folders
            .filter(|folder| folder.holds_data)
            .map(|folder| folder.from.clone())
            .collect()
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

/// What to do with a source that can become a worker.
fn source_for(extension: &str) -> Option<&'static str> {
    SOURCES
        .iter()
        .find(|(known, _)| *known == extension)
        .map(|(_, help)| *help)
}

fn kind(runtimes: &[Runtime], extension: &str) -> Option<WorkerKind> {
    match extension {
        "wasm" => Some(WorkerKind::Wasm),
        "js" | "mjs" => Some(WorkerKind::JavaScript),
        _ => {
            // One that is installed is preferred.
            let of = |usable: bool| {
                runtimes.iter().position(|runtime| {
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
    let mut names =
        names(&path.with_extension("")).ok_or("its name is not UTF-8, which a route must be")?;
    names.retain(|name| name != "index");
    let mut segments = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
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
