//! Loads what a user writes, a directory of workers, into a validated [`Project`].
//!
//! Pure data: no network, no Wasm. [`load`] reports every problem of a project at once, each with
//! file, line and column. The formats are those of Wasm Workers Server 1.x;
//! `docs/configure/project.md` describes them for users.

#![forbid(unsafe_code)]

mod admin;
pub mod beneath;
mod config;
mod cors;
mod data;
mod directory;
mod dot_env;
mod execution;
mod files;
pub mod hex;
mod instances;
mod limits;
mod load;
mod log;
mod network;
mod problem;
mod reach;
mod reader;
mod route;
mod runtime;
mod secret;
mod setting;
pub mod settings;
mod stores;
mod units;
mod watched;
mod worker;

pub use admin::{AdminAddress, PanelAccess};
pub use cors::{Cors, HeaderNames, Methods, Origins};
pub use execution::{Execution, InterpreterOrigin, LanguageSpec};
pub use instances::Instances;
pub use limits::Limits;
pub use load::{
    Compilable, LoadOptions, compilable, directory_and_file, load, repository_index, runtimes,
    server_settings, stores,
};
pub use log::{LogLevel, WorkerLog};
pub use network::{Network, NotANetwork};
pub use problem::{Problem, Problems};
pub use reach::PublicHosts;
pub use runtime::{File, Runtime, Status};
pub use setting::{TomlType, Unit};
pub use settings::{Globs, LogFormat, ServerSettings};
pub use stores::{Consistency, KeyValue, RedisUrl, StoreDefinition, StorePlace, StoreSettings};
pub use watched::{WatchOptions, WatchedDirectories, is_watched, watched_directories};
pub use worker::{HttpRequests, Worker, WorkerDirectory, WorkerId};

use std::path::{Path, PathBuf};

use route::{Routes, Segment};

/// A valid project.
#[derive(Debug)]
pub struct Project {
    root: PathBuf,
    prefix: Vec<Segment>,
    workers: Vec<Worker>,
    assets: Vec<Asset>,
    routes: Routes,
    not_found: Option<usize>,
    settings: ServerSettings,
    runtimes: Vec<Runtime>,
    stores: Vec<StoreDefinition>,
    warnings: Vec<Problem>,
}

/// A file of `public/`.
#[derive(Debug)]
pub struct Asset {
    /// The path, relative to the project's root.
    pub path: PathBuf,
    /// The path of its URL, with the prefix.
    pub url: String,
    /// The names of its path in `public/`.
    pub(crate) names: Vec<String>,
}

impl Asset {
    /// The names of the path of a page, without `.html` and `index.html`; `None` for other files.
    fn page(&self) -> Option<Vec<String>> {
        let (last, above) = self.names.split_last()?;
        let stem = last.strip_suffix(".html")?;
        let mut names = above.to_vec();
        if stem != "index" {
            names.push(stem.to_owned());
        }
        Some(names)
    }
}

/// The target of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Worker(usize),
    /// An asset at its own path.
    Asset(usize),
    /// An asset at the path of its page, without `.html` or `index.html`.
    Page(usize),
}

/// The match for a path.
#[derive(Debug)]
pub enum RouteMatch<'p> {
    /// A file of `public/`.
    Asset(&'p Asset),
    /// A file of `public/` at another path: relative links of a page depend on the slash at the end
    /// of its path.
    AssetAt(String),
    /// A worker, and the parameters of its route: name and percent-decoded value.
    Worker {
        /// The worker.
        worker: &'p Worker,
        /// Parameters in the order of the path.
        params: Vec<(&'p str, String)>,
    },
    /// No match.
    NotFound,
}

impl Project {
    /// The directory that it was loaded from.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All workers; a [`WorkerId`] is an index into them.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// All assets.
    #[must_use]
    pub fn assets(&self) -> &[Asset] {
        &self.assets
    }

    /// Settings of the server.
    #[must_use]
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// The settings, for the command line, whose flags take precedence.
    pub fn settings_mut(&mut self) -> &mut ServerSettings {
        &mut self.settings
    }

    /// Language runtimes that `.wws.toml` lists.
    #[must_use]
    pub fn runtimes(&self) -> &[Runtime] {
        &self.runtimes
    }

    /// The key/value stores that `.wws.toml` defines.
    #[must_use]
    pub fn stores(&self) -> &[StoreDefinition] {
        &self.stores
    }

    /// Problems that do not prevent the start.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Removes workers, as if their files did not exist. All others get new [`WorkerId`]s, in the
    /// same order.
    pub fn leave_out(&mut self, left_out: &[WorkerId]) {
        self.workers.retain(|worker| !left_out.contains(&worker.id));
        for (index, worker) in self.workers.iter_mut().enumerate() {
            worker.id = WorkerId(index);
        }
        // Duplicate routes were reported when the project was loaded.
        let _taken = self.route();
    }

    /// `public/404.html`.
    #[must_use]
    pub fn not_found(&self) -> Option<&Asset> {
        self.not_found.and_then(|index| self.assets.get(index))
    }

    /// The match for a `GET` of `path`, the path of a request's URL as it was sent
    /// (percent-encoded). The cost does not depend on the number of routes.
    #[must_use]
    pub fn find(&self, path: &str) -> RouteMatch<'_> {
        match self.routes.find(path) {
            Some((Target::Asset(index), _)) => self.at_own_path(&self.assets[index], path),
            Some((Target::Page(index), _)) => self.at_page_path(&self.assets[index], path),
            Some((Target::Worker(index), params)) => RouteMatch::Worker {
                worker: &self.workers[index],
                params,
            },
            None => RouteMatch::NotFound,
        }
    }

    /// The match for a request of `path` with a method that assets do not answer: an asset does not
    /// hide a route with parameters.
    #[must_use]
    pub fn find_for_change(&self, path: &str) -> RouteMatch<'_> {
        let found = match self.routes.find(path) {
            Some((Target::Asset(index) | Target::Page(index), _)) => Err(&self.assets[index]),
            found => Ok(found),
        };
        match found.or_else(|asset| self.routes.find_dynamic(path).map(Some).ok_or(asset)) {
            Ok(Some((Target::Worker(index), params))) => RouteMatch::Worker {
                worker: &self.workers[index],
                params,
            },
            Ok(_) => RouteMatch::NotFound,
            Err(asset) => RouteMatch::Asset(asset),
        }
    }

    fn at_own_path<'p>(&'p self, asset: &'p Asset, path: &str) -> RouteMatch<'p> {
        if path.ends_with('/') {
            RouteMatch::AssetAt(self.url(&asset.names, false))
        } else {
            RouteMatch::Asset(asset)
        }
    }

    fn at_page_path<'p>(&'p self, asset: &'p Asset, path: &str) -> RouteMatch<'p> {
        let Some(page) = asset.page() else {
            return RouteMatch::Asset(asset);
        };
        // The path of a directory's page ends with a slash. The root has one path, however it is
        // written.
        let is_directory = asset.names.last().is_some_and(|name| name == INDEX_PAGE);
        let is_root = page.is_empty() && self.prefix.is_empty();
        if is_root || path.ends_with('/') == is_directory {
            RouteMatch::Asset(asset)
        } else {
            RouteMatch::AssetAt(self.url(&page, is_directory))
        }
    }

    /// The path of a URL with `names`, percent-encoded.
    fn url(&self, names: &[String], is_directory: bool) -> String {
        let prefix = self.prefix.iter().filter_map(|segment| match segment {
            Segment::Static(name) => Some(name),
            _ => None,
        });
        let mut url = String::new();
        for name in prefix.chain(names) {
            url.push('/');
            url.extend(percent_encoding::utf8_percent_encode(name, NOT_IN_PATHS));
        }
        if is_directory || url.is_empty() {
            url.push('/');
        }
        url
    }
}

/// The page of a directory.
const INDEX_PAGE: &str = "index.html";

/// The characters that are percent-encoded in a segment of a path.
const NOT_IN_PATHS: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@')
    .remove(b'+')
    .remove(b',')
    .remove(b'=');

/// For fuzz targets only.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz {
    /// Compares the tree of routes with a matcher that looks at every route.
    pub fn routes(routes: &str, paths: &str) {
        crate::route::model::compare(routes, paths);
    }
}
