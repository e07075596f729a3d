//! What a user writes: a folder of workers, loaded into one validated [`Project`].
//!
//! Pure data: no network, no Wasm. [`load`] reports every problem of a project at once, each with file, line and column.
//! The formats are those of Wasm Workers Server 1.x; `docs/configure/project.md` describes them for users.

pub mod beneath;
mod config;
mod data;
mod directory;
mod files;
mod limits;
mod load;
mod network;
mod problem;
mod reader;
mod route;
mod setting;
pub mod settings;
mod units;
mod worker;

pub use config::{File, Kit, Runtime, Status};
pub use limits::Limits;
pub use load::{
    Compilable, LoadOptions, compilable, load, repository_index, runtimes, server_settings,
};
pub use network::{Network, NotANetwork};
pub use problem::{Problem, Problems};
pub use settings::{Globs, LogFormat, ServerSettings};
pub use worker::{Folder, HttpRequests, Worker, WorkerId, WorkerKind};

use std::path::{Path, PathBuf};

use route::{Routes, Segment};

/// A project, loaded and found valid.
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
    warnings: Vec<Problem>,
}

/// A file of `public/`.
#[derive(Debug)]
pub struct Asset {
    /// Relative to the project's root.
    pub path: PathBuf,
    /// Its URL's path, with the prefix.
    pub url: String,
    /// Its path in `public/`.
    pub(crate) names: Vec<String>,
}

impl Asset {
    /// Names of the path that stands for a page, without `.html` and `index.html`; none where it is no page.
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

/// What a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Worker(usize),
    /// An asset at its own path.
    Asset(usize),
    /// An asset at the path of its page, without `.html` or `index.html`.
    Page(usize),
}

/// What answers a path.
#[derive(Debug)]
pub enum Found<'p> {
    /// A file of `public/`.
    Asset(&'p Asset),
    /// A file of `public/` that has another path: where the relative links of a page lead depends on the slash at its path's end.
    AssetAt(String),
    /// A worker, and the parameters of its route: name and percent-decoded value.
    Worker {
        /// The worker.
        worker: &'p Worker,
        /// Parameters in the order of the path.
        params: Vec<(&'p str, String)>,
    },
    /// Nothing.
    NotFound,
}

impl Project {
    /// The folder that it was loaded from.
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

    /// For the command line, whose flags win over everything.
    pub fn settings_mut(&mut self) -> &mut ServerSettings {
        &mut self.settings
    }

    /// Language runtimes that `.wws.toml` lists.
    #[must_use]
    pub fn runtimes(&self) -> &[Runtime] {
        &self.runtimes
    }

    /// What is odd, but no reason not to start.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Leaves out workers, as if their files were not there. All others have new [`WorkerId`]s, in the same order.
    pub fn leave_out(&mut self, left_out: &[WorkerId]) {
        self.workers.retain(|worker| !left_out.contains(&worker.id));
        for (index, worker) in self.workers.iter_mut().enumerate() {
            worker.id = WorkerId(index);
        }
        // What two have was reported when the project was loaded.
        let _taken = self.route();
    }

    /// `public/404.html`.
    #[must_use]
    pub fn not_found(&self) -> Option<&Asset> {
        self.not_found.and_then(|index| self.assets.get(index))
    }

    /// What answers a `GET` of `path`, the path of a request's URL as it was sent (percent-encoded). Its cost does not depend on the
    /// number of routes.
    #[must_use]
    pub fn find(&self, path: &str) -> Found<'_> {
        match self.routes.find(path) {
            Some((Target::Asset(index), _)) => self.at_own_path(&self.assets[index], path),
            Some((Target::Page(index), _)) => self.at_page_path(&self.assets[index], path),
            Some((Target::Worker(index), params)) => Found::Worker {
                worker: &self.workers[index],
                params,
            },
            None => Found::NotFound,
        }
    }

    /// What answers a request of `path` by a method that assets do not answer: a route with parameters is not hidden by an asset.
    #[must_use]
    pub fn find_for_change(&self, path: &str) -> Found<'_> {
        let found = match self.routes.find(path) {
            Some((Target::Asset(index) | Target::Page(index), _)) => Err(&self.assets[index]),
            found => Ok(found),
        };
        match found.or_else(|asset| self.routes.find_dynamic(path).map(Some).ok_or(asset)) {
            Ok(Some((Target::Worker(index), params))) => Found::Worker {
                worker: &self.workers[index],
                params,
            },
            Ok(_) => Found::NotFound,
            Err(asset) => Found::Asset(asset),
        }
    }

    fn at_own_path<'p>(&'p self, asset: &'p Asset, path: &str) -> Found<'p> {
        if path.ends_with('/') {
            Found::AssetAt(self.url(&asset.names, false))
        } else {
            Found::Asset(asset)
        }
    }

    fn at_page_path<'p>(&'p self, asset: &'p Asset, path: &str) -> Found<'p> {
        let Some(page) = asset.page() else {
            return Found::Asset(asset);
        };
        // The page of a directory is the directory; the root is one however it is written.
        let is_directory = asset.names.last().is_some_and(|name| name == INDEX_PAGE);
        let is_root = page.is_empty() && self.prefix.is_empty();
        if is_root || path.ends_with('/') == is_directory {
            Found::Asset(asset)
        } else {
            Found::AssetAt(self.url(&page, is_directory))
        }
    }

    /// The URL's path of `names`, percent-encoded.
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

/// What is percent-encoded in a segment of a path.
const NOT_IN_PATHS: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@')
    .remove(b'+')
    .remove(b',')
    .remove(b'=');
