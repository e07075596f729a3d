//! What a user writes: a folder of workers, loaded into one validated [`Project`].
//!
//! Pure data: no network, no Wasm. [`load`] reports every problem of a project at once, each with file, line and column.
//! The formats are those of Wasm Workers Server 1.x; `docs/project.md` describes them for users.

pub mod beneath;
mod config;
mod files;
mod limits;
mod load;
mod problem;
mod reader;
mod route;
mod setting;
pub mod settings;
mod units;
mod worker;

pub use config::{File, Kit, Runtime, Status};
pub use limits::Limits;
pub use load::{Compilable, LoadOptions, compilable, load, repository_index, runtimes};
pub use problem::{Problem, Problems};
pub use settings::{LogFormat, ServerSettings};
pub use worker::{Folder, HttpRequests, Worker, WorkerId, WorkerKind};

use std::path::{Path, PathBuf};

use route::Routes;

/// A project, loaded and found valid.
#[derive(Debug)]
pub struct Project {
    root: PathBuf,
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
}

/// What a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Worker(usize),
    Asset(usize),
}

/// What answers a path.
#[derive(Debug)]
pub enum Found<'p> {
    /// A file of `public/`.
    Asset(&'p Asset),
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

    /// `public/404.html`.
    #[must_use]
    pub fn not_found(&self) -> Option<&Asset> {
        self.not_found.and_then(|index| self.assets.get(index))
    }

    /// What answers `path`, the path of a request's URL as it was sent (percent-encoded). Its cost does not depend on the number of routes.
    #[must_use]
    pub fn find(&self, path: &str) -> Found<'_> {
        match self.routes.find(path) {
            Some((Target::Asset(index), _)) => Found::Asset(&self.assets[index]),
            Some((Target::Worker(index), params)) => Found::Worker {
                worker: &self.workers[index],
                params,
            },
            None => Found::NotFound,
        }
    }
}
