//! Loads the project of a running server again.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use wws_engine::CodeCache;
use wws_project::{Problem, Problems, Project, hex};

use crate::load::LoadContext;
use crate::options::{PrepareOptions, kept_for_calls};
use crate::request::app::App;

/// Exchanges the project of a running server. Cheap to clone.
#[derive(Clone)]
pub struct Reloader(Arc<ReloaderState>);

struct ReloaderState {
    app: Arc<App>,
    options: PrepareOptions,
    /// One reload at a time.
    turn: Mutex<()>,
}

/// What a reload has changed.
#[derive(Debug)]
pub struct Reloaded {
    /// The number of the new generation.
    pub generation: u64,
    /// Workers that are the same and were not loaded again.
    pub kept: usize,
    /// The files of workers that were loaded.
    pub loaded: Vec<PathBuf>,
    /// Files of the generation before that are no workers any more.
    pub removed: usize,
    /// Settings of `[server]` that have changed and take effect with a restart only.
    pub needs_restart: Vec<&'static str>,
    /// Warnings about the project and its workers.
    pub warnings: Vec<Problem>,
}

impl Reloader {
    pub(crate) fn new(app: Arc<App>, options: PrepareOptions) -> Self {
        Self(Arc::new(ReloaderState {
            app,
            options,
            turn: Mutex::default(),
        }))
    }

    /// The project that new requests are answered from.
    #[must_use]
    pub fn project(&self) -> Arc<Project> {
        self.0.app.generation().project.clone()
    }

    /// The code cache from which modules are loaded.
    #[must_use]
    pub fn code(&self) -> Option<&CodeCache> {
        self.0.options.code.as_ref()
    }

    /// Files of runtimes that have not changed since they were checked, relative to the project,
    /// with their SHA-256 in hex: they need not be hashed again.
    #[must_use]
    pub fn hashed(&self) -> BTreeMap<PathBuf, String> {
        let generation = self.0.app.generation();
        let root = &generation.files.root;
        let checked = generation.loaded.runtimes.iter();
        let same = checked.filter(|(path, contents)| {
            let file = root.file(path);
            file.is_ok_and(|mut file| contents.is_same(&mut file))
        });
        same.map(|(path, contents)| (path.clone(), hex::encode(contents.sha256())))
            .collect()
    }

    /// Answers new requests from a project that was loaded again. Workers that have not changed are
    /// taken over; requests in progress end as they began. Blocks the thread, and uses no other.
    ///
    /// # Errors
    /// All problems of all workers at once. The project before is served as if nothing had
    /// happened.
    pub fn reload(&self, mut project: Project) -> Result<Reloaded, Problems> {
        let ReloaderState { app, options, turn } = &*self.0;
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = app.generation();
        let needs_restart = project.settings_mut().keep_fixed(before.project.settings());
        let context = LoadContext {
            engine: &app.engine,
            options,
            memory: app.memory,
            threads: 1,
        };
        let mut new = match context.load(project, Some(&before)) {
            Ok(new) => new,
            Err(problems) => {
                // Of what was opened for the new project, nothing stays open.
                options.stores.keep(before.project.stores());
                app.telemetry.reloaded(false);
                return Err(problems);
            }
        };
        let (kept, loaded) = (new.kept, std::mem::take(&mut new.fresh));
        let generation = context.place(new, &app.admission, before.number + 1);
        let workers = generation.project.workers();
        let memory = app.engine.memory();
        app.engine
            .keep_for_calls(kept_for_calls(memory, workers.len()));
        let paths: HashSet<_> = workers.iter().map(|w| &w.path).collect();
        let all = before.project.workers().iter();
        let warnings = generation.project.warnings().iter();
        let reloaded = Reloaded {
            generation: generation.number,
            kept,
            loaded,
            removed: all.filter(|worker| !paths.contains(&worker.path)).count(),
            needs_restart,
            warnings: warnings.chain(&generation.warnings).cloned().collect(),
        };
        options.stores.keep(generation.project.stores());
        app.exchange(generation);
        app.telemetry.reloaded(true);
        drop(before);
        app.loaded_memory.charge(&app.engine);
        // What was unloaded is returned to the OS once the server is idle.
        app.idle.touch();
        Ok(reloaded)
    }

    /// Whether workers wait for code that is not in the code cache.
    #[must_use]
    pub fn waits_for_code(&self) -> bool {
        !self.0.app.generation().missing_code.is_empty()
    }

    /// Whether the code cache has got code that workers wait for: [`Self::reload`] takes it.
    #[must_use]
    pub fn has_new_code(&self) -> bool {
        let ReloaderState { app, options, .. } = &*self.0;
        let generation = app.generation();
        let mut missing = generation.missing_code.iter();
        let code = options.code.as_ref();
        code.is_some_and(|code| missing.any(|key| code.path(key).exists()))
    }

    /// Counts a reload that failed because the project does not load.
    pub fn failed(&self) {
        self.0.app.telemetry.reloaded(false);
    }
}
