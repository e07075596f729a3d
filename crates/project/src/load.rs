//! Loads a project: finds its files, reads their TOML and assigns routes.

mod compilable;
mod paths;
mod stores;
mod worker_toml;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::beneath::Root;
use crate::execution::{Execution, LanguageSpec, conversion};
use crate::files::{PUBLIC, Search, memory_for_names};
use crate::problem::Problem;
use crate::reach::PublicHosts;
use crate::reader::{Document, Report};
use crate::route::{Routes, Segment};
use crate::secret::SecretFiles;
use crate::stores::StoreDefinition;
use crate::worker::Defaults;
use crate::{
    Asset, Limits, Problems, Project, Runtime, ServerSettings, Worker, WorkerId, config, data,
    dot_env,
};

pub use compilable::{Compilable, compilable};
use paths::{RouteError, asset_names, extension, route_of, shown};
use worker_toml::{MAX_TOML, WorkerToml, read_toml};

/// How a project is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The prefix of every route and asset, as `/api`.
    pub prefix: Option<String>,
    /// Globs, relative to the root, of files and directories to ignore.
    pub ignore: Vec<String>,
    /// The environment, for `$NAME` in `[vars]` and for `WWS_*`.
    pub env: BTreeMap<String, String>,
    /// Whether `.env` of the project is read, too, for `$NAME` in `[vars]`.
    pub dot_env: bool,
    /// Whether the project is in a container, where system directories of `/` hold no workers, and
    /// all files may be read as secrets.
    pub container: bool,
    /// Whether the project is somebody else's that this machine's user runs without a container: no
    /// file outside of it may be read as a secret.
    pub untrusted: bool,
    /// Set if such a project reaches public hosts alone, and no Redis of its own choice.
    pub public_hosts: Option<PublicHosts>,
    /// Bytes of memory that the server may use, if that is known: a project whose files have more
    /// names than fit is rejected.
    pub memory: Option<u64>,
    /// Overrides `[server] strict`: whether a worker that cannot be loaded prevents the start.
    pub strict: Option<bool>,
    /// The languages of the server.
    pub languages: Vec<LanguageSpec>,
    /// Files of runtimes, relative to the project, whose SHA-256 is known already, in lower-case
    /// hex: they are not hashed again.
    pub hashed: BTreeMap<PathBuf, String>,
}

impl LoadOptions {
    /// The files that the project in `root` may name as secrets.
    fn secrets<'p>(&self, root: &'p Path) -> SecretFiles<'p> {
        match self.container {
            true => SecretFiles::OfContainer,
            false if self.untrusted => SecretFiles::InProject(root),
            false => SecretFiles::OfProject(root),
        }
    }
}

/// Loads a project: a directory, or one file in a directory, which is a worker that answers every
/// path.
///
/// # Errors
/// All problems of the project.
///
/// # Examples
///
/// ```
/// use wws_project::{LoadOptions, RouteMatch, load};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// std::fs::create_dir(directory.path().join("users"))?;
/// std::fs::write(directory.path().join("users/[id].wasm"), b"\0asm\x01\0\0\0")?;
///
/// let project = load(directory.path(), &LoadOptions::default())?;
///
/// let RouteMatch::Worker { worker, params } = project.find("/users/7") else {
///     return Err("no worker answers".into());
/// };
/// assert_eq!(worker.route, "/users/[id]");
/// assert_eq!(params, [("id", "7".to_owned())]);
/// # Ok(())
/// # }
/// ```
pub fn load(root: &Path, options: &LoadOptions) -> Result<Project, Problems> {
    let report = Report::default();
    let mut loading = ProjectLoader {
        report: &report,
        warnings: Vec::new(),
    };
    let (directory, file) = directory_and_file(root);
    let project = loading.project(directory, file.as_deref(), options);
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

/// The directory of a project, and its only worker if the project is one file.
#[must_use]
pub fn directory_and_file(path: &Path) -> (&Path, Option<PathBuf>) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if path.is_file() => {
            let parent = match parent.as_os_str().is_empty() {
                true => Path::new("."),
                false => parent,
            };
            (parent, Some(name.into()))
        }
        _ => (path, None),
    }
}

/// The language runtimes that the `.wws.toml` of a project lists; none without such a file.
///
/// # Errors
/// The directory cannot be opened, or all problems of the file.
pub fn runtimes(root: &Path) -> Result<Vec<Runtime>, Problems> {
    let (root, _) = directory_and_file(root);
    let opened =
        Root::open(root).map_err(|error| Problems::one(Problem::no_directory(root, &error)))?;
    let report = Report::default();
    let config = read_toml(&opened, Path::new(config::FILE), &report, |document| {
        document.read(|reader| {
            config::Config::read(reader, &opened, None, &BTreeMap::new(), true, false)
        })
    });
    match Problems::of(report.into_problems()) {
        Some(problems) => Err(problems),
        None => Ok(config.unwrap_or_default().runtimes),
    }
}

/// The key/value stores that the `.wws.toml` of a project defines, without the project.
///
/// # Errors
/// The directory cannot be opened, or all problems of the file and of the stores' URLs.
pub fn stores(root: &Path, options: &LoadOptions) -> Result<Vec<StoreDefinition>, Problems> {
    let (directory, _) = directory_and_file(root);
    let opened = directory
        .canonicalize()
        .and_then(|path| Root::open(&path).map(|root| (path, root)));
    let (path, root) =
        opened.map_err(|error| Problems::one(Problem::no_directory(directory, &error)))?;
    let report = Report::default();
    let loader = ProjectLoader {
        report: &report,
        warnings: Vec::new(),
    };
    let config = read_toml(&root, Path::new(config::FILE), &report, |document| {
        document.read(|reader| {
            let (languages, hashed) = (Some(&options.languages[..]), &options.hashed);
            let public_only = options.public_hosts.is_some();
            config::Config::read(
                reader,
                &root,
                languages,
                hashed,
                options.container,
                public_only,
            )
        })
    });
    let mut stores = config.unwrap_or_default().stores.definitions;
    let env = loader.variables(&root, options);
    let (secrets, public_hosts) = (options.secrets(&path), options.public_hosts.as_ref());
    for problem in crate::stores::read_urls(&mut stores, &env, secrets, public_hosts) {
        report.add(problem);
    }
    match Problems::of(report.into_problems()) {
        Some(problems) => Err(problems),
        None => Ok(stores),
    }
}

/// The settings of a project's server, without the project. Invalid settings, which [`load`]
/// reports, have their defaults.
///
/// # Errors
/// The directory cannot be opened.
pub fn server_settings(
    root: &Path,
    env: &BTreeMap<String, String>,
) -> Result<ServerSettings, Problems> {
    let (root, _) = directory_and_file(root);
    let opened =
        Root::open(root).map_err(|error| Problems::one(Problem::no_directory(root, &error)))?;
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
/// All problems of the file.
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

/// A glob of files and directories to ignore: `directory/**` and `directory` both ignore the
/// directory.
pub(crate) fn ignore_glob(text: &str) -> Result<Glob, globset::Error> {
    Glob::new(text.trim_start_matches("./").trim_end_matches("/**"))
}

struct ProjectLoader<'l> {
    report: &'l Report,
    warnings: Vec<Problem>,
}

impl ProjectLoader<'_> {
    /// Loads the project in a directory, or only the worker of one `file` in it.
    fn project(
        &mut self,
        path: &Path,
        file: Option<&Path>,
        options: &LoadOptions,
    ) -> Option<Project> {
        let canonical = path
            .canonicalize()
            .and_then(|path| Root::open(&path).map(|root| (path, root)));
        let (path, root) = match canonical {
            Ok(opened) => opened,
            Err(error) => {
                self.report.add(Problem::no_directory(path, &error));
                return None;
            }
        };
        let mut config = read_toml(&root, Path::new(config::FILE), self.report, |document| {
            document.read(|reader| {
                config::Config::read(
                    reader,
                    &root,
                    Some(&options.languages),
                    &options.hashed,
                    options.container,
                    options.public_hosts.is_some(),
                )
            })
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
            names: Cell::new(Some(memory_for_names(options.memory))),
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
            stores: config.stores.definitions,
            warnings: Vec::new(),
        };
        let defaults = Defaults {
            limits: config.limits,
            log: config.log,
            origins: project.settings.cors.clone(),
            stores: config.stores.names,
            public_only: options.public_hosts.is_some(),
        };
        let root_path = project.root.clone();
        let secrets = options.secrets(&root_path);
        let env = self.variables(&root, options);
        for problem in crate::stores::read_urls(
            &mut project.stores,
            &env,
            secrets,
            options.public_hosts.as_ref(),
        ) {
            self.report.add(problem);
        }
        let mut tomls = HashMap::new();
        let languages = &options.languages;
        let execution = |runtimes: &[Runtime], file: &Path| {
            Execution::of_extension(extension(file)?, languages, runtimes)
        };
        let is_worker = |file: &Path| {
            extension(file).is_some_and(|e| {
                Execution::of_extension(e, languages, &project.runtimes).is_some()
                    || conversion(e, languages).is_some()
            })
        };
        if let Some(file) = file {
            let toml = WorkerToml::read(&root, file, &env, secrets, &defaults);
            match execution(&project.runtimes, file) {
                Some(execution) => {
                    let route = vec![Segment::CatchAll("path".into())];
                    self.worker(&mut project, toml, file.into(), Ok(route), execution);
                }
                None => self.report.add(
                    Problem::new(file, "is not a worker")
                        .help("expected a directory with workers, or one worker, as app.wasm"),
                ),
            }
            project.route();
            return Some(project);
        }
        let found = search.workers(&is_worker, &mut |path| {
            if execution(&project.runtimes, path).is_none() {
                return Vec::new();
            }
            let toml = WorkerToml::read(&root, path, &env, secrets, &defaults);
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
                    if let Some(execution) = execution(&project.runtimes, &path) {
                        let route = route_of(&path);
                        self.worker(&mut project, toml, path, route, execution);
                    }
                }
                None => sources.push(path),
            }
        }
        self.not_run(&sources, &project, languages);
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
        for problem in stores::in_given_directories(&root, &project.stores, &project.workers) {
            self.report.add(problem);
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

    /// The variables that `[vars]` may name. Those of the environment take precedence.
    fn variables(&self, root: &Root, options: &LoadOptions) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        if options.dot_env {
            match dot_env::read(root) {
                Ok(read) => variables = read,
                Err(problem) => self.report.add(problem),
            }
        }
        variables.extend(options.env.clone());
        variables
    }

    /// Reports a problem that costs one file its route.
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

    /// Warns of sources that nothing runs, once for each extension.
    fn not_run(&mut self, files: &[PathBuf], project: &Project, languages: &[LanguageSpec]) {
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
            let is_worker =
                Execution::of_extension(extension, languages, &project.runtimes).is_some();
            if !is_worker && !is_declaration && !is_built() {
                all.entry(extension).or_default().push(file);
            }
        }
        for (extension, files) in all {
            let Some(help) = conversion(extension, languages) else {
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
            // Backslashes as well: Wasm Workers Server 1.x also ran on Windows.
            .split(['/', '\\'])
            .filter(|segment| !segment.is_empty());
        segments
            .map(|segment| Segment::Static(segment.to_owned()))
            .collect()
    }

    fn ignore(&self, name: &str, globs: &[String]) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            match ignore_glob(glob) {
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

    fn worker(
        &mut self,
        project: &mut Project,
        toml: WorkerToml,
        path: PathBuf,
        route: Result<Vec<Segment>, RouteError>,
        execution: Execution,
    ) {
        let WorkerToml {
            config,
            mut problems,
            warnings,
        } = toml;
        self.warnings.extend(warnings);
        if matches!(execution, Execution::Snapshot { .. }) {
            problems.extend(config.needless_serial);
        }
        if let Some(index) = execution.runtime()
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
        let segments = match route {
            Ok(segments) => segments,
            Err(error) => {
                self.stop_or_warn(project, Problem::new(&path, error.to_string()));
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
            execution,
            vars: config.vars,
            kv: config.kv,
            directories: config.directories,
            http: config.http,
            limits: config.limits,
            log: config.log,
            cors: config.cors,
            instances: config.instances,
            problems,
        });
    }

    fn asset(&mut self, project: &mut Project, path: PathBuf) {
        let Ok(below) = path.strip_prefix(PUBLIC) else {
            return;
        };
        let Some(names) = asset_names(below) else {
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
