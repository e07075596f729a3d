//! Loads the project again while it is served.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use wws_project::{Problem, Problems, Project};
use wws_server::{Compiling, Reloaded, Reloader, Telemetry};

use crate::{
    args::Serve, code, dev::DevView, loader::Loader, memory, progress, project,
    project::ServerLocation, routes::problem_values, sandbox::NeededRights,
};

/// The pause between two looks for code that the host compiles.
const CODE_PAUSE: Duration = Duration::from_secs(1);

/// How a project is loaded again.
#[derive(Clone)]
pub(crate) struct Reload(Arc<ReloadParts>, Arc<Notify>);

pub(crate) struct ReloadParts {
    pub(crate) args: Serve,
    pub(crate) place: ServerLocation,
    pub(crate) compiling: Compiling,
    pub(crate) telemetry: Telemetry,
    pub(crate) reloader: Reloader,
    pub(crate) loader: Loader,
    /// The rights that the server has kept.
    pub(crate) rights: NeededRights,
    /// The developer who watches, if there is one.
    pub(crate) dev: Option<DevView>,
}

impl Reload {
    pub(crate) fn new(parts: ReloadParts) -> Self {
        Self(Arc::new(parts), Arc::default())
    }

    /// Loads the project again whenever the host has compiled code that workers wait for, until the
    /// future is dropped.
    pub(crate) async fn whenever_code_comes(self) {
        let reloader = &self.0.reloader;
        loop {
            while reloader.waits_for_code() {
                tokio::time::sleep(CODE_PAUSE).await;
                if reloader.has_new_code() {
                    tracing::info!("the host has compiled what workers wait for");
                    let _ = self.now().await;
                }
            }
            // The next generation may wait again.
            self.1.notified().await;
        }
    }

    /// Loads the project again whenever it is asked to, until the future is dropped.
    pub(crate) async fn whenever(self, asked: Arc<Notify>) {
        loop {
            asked.notified().await;
            let _ = self.now().await;
        }
    }

    /// Loads the project again, and logs what has changed or all problems. `None` if loading
    /// panicked.
    pub(crate) async fn now(&self) -> Option<Result<Reloaded, Problems>> {
        let parts = self.0.clone();
        let before = parts.reloader.project();
        let result = self.0.loader.run(move || parts.load()).await.ok();
        self.1.notify_one();
        match &result {
            Some(Ok(reloaded)) => self.log(reloaded, &before),
            Some(Err(problems)) => {
                for problem in problems.all() {
                    match self.0.dev {
                        Some(_) => tracing::error!("{problem}"),
                        None => tracing::error!("{}", on_one_line(problem)),
                    }
                }
                let count = problems.all().len();
                tracing::error!(
                    "not reloaded: {count} problem{}; the project is served as it was loaded \
                     before",
                    if count == 1 { "" } else { "s" }
                );
            }
            None => {
                self.0.reloader.failed();
                tracing::error!("not reloaded: a defect of the server: loading panicked");
            }
        }
        result
    }

    fn log(&self, reloaded: &Reloaded, before: &Project) {
        for warning in &reloaded.warnings {
            tracing::warn!("{}", on_one_line(warning));
        }
        if let Some(names) = needs_restart(reloaded) {
            tracing::warn!("{names}");
        }
        match &self.0.dev {
            Some(dev) => {
                let after = self.0.reloader.project();
                dev.log_reloaded(before, &after, reloaded);
            }
            None => tracing::info!("{}", summary(reloaded)),
        }
    }
}

impl ReloadParts {
    /// Blocks the thread.
    fn load(&self) -> Result<Reloaded, Problems> {
        let load = project::Load {
            args: &self.args,
            place: self.place,
            telemetry: &self.telemetry,
        };
        let loaded = load.project(self.reloader.hashed());
        let project = loaded.inspect_err(|_| self.reloader.failed())?;
        if let (ServerLocation::Machine, Some(cache)) = (self.place, self.reloader.code()) {
            code::check_writers(&project, cache).inspect_err(|_| self.reloader.failed())?;
        }
        if !self.rights.cover(&project) {
            tracing::warn!(
                "the project has files of another user that the server may not read: it has given \
                 up the right to; restart it"
            );
        }
        let work = || self.reloader.reload(project);
        let reloaded =
            progress::while_compiling(&self.compiling, |text| tracing::info!("{text}"), work);
        memory::collect();
        reloaded
    }
}

/// What has changed, in words.
fn summary(reloaded: &Reloaded) -> String {
    format!(
        "reloaded: generation {}: {} workers loaded, {} unchanged, {} removed",
        reloaded.generation,
        reloaded.loaded.len(),
        reloaded.kept,
        reloaded.removed
    )
}

/// The settings that need a restart.
fn needs_restart(reloaded: &Reloaded) -> Option<String> {
    let names = reloaded.needs_restart.iter();
    let names: Vec<_> = names.map(|name| format!("`server.{name}`")).collect();
    (!names.is_empty()).then(|| format!("changed, and needs a restart: {}", names.join(", ")))
}

/// All about a reload, in several lines.
pub(crate) fn report(reloaded: &Reloaded) -> String {
    let warnings = reloaded.warnings.iter();
    let mut lines: Vec<_> = warnings
        .map(|warning| format!("warning: {warning}"))
        .collect();
    lines.extend(needs_restart(reloaded).map(|names| format!("warning: {names}")));
    lines.push(summary(reloaded));
    lines.join("\n")
}

/// All about a reload, as JSON.
pub(crate) fn report_json(reloaded: &Reloaded) -> Value {
    let loaded = reloaded.loaded.iter().map(|file| file.to_string_lossy());
    let needs_restart = reloaded.needs_restart.iter();
    json!({
        "reloaded": true,
        "generation": reloaded.generation,
        "loaded": loaded.collect::<Vec<_>>(),
        "unchanged": reloaded.kept,
        "removed": reloaded.removed,
        "needs_restart": needs_restart.map(|name| format!("server.{name}")).collect::<Vec<_>>(),
        "warnings": problem_values(&reloaded.warnings),
        "problems": [],
    })
}

/// A problem without its line breaks.
pub(crate) fn on_one_line(problem: &Problem) -> String {
    problem
        .to_string()
        .split('\n')
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(": ")
}
