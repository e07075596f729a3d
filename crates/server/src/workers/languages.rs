//! The interpreters of a project, compiled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wws_engine::LoadError;
use wws_languages::CompiledLanguage;
use wws_project::{Execution, Project, Runtime, Worker};

/// The SHA-256 of a file's content.
pub(crate) type Sha256Digest = [u8; 32];

/// Compiled interpreters, each compiled when a worker first needs it.
#[derive(Default)]
pub(crate) struct CompiledLanguages(Mutex<HashMap<LanguageKey, LanguageSlot>>);

/// The name of a language, and the SHA-256 of its interpreter unless that is built in.
pub(super) type LanguageKey = (&'static str, Option<Sha256Digest>);

/// One interpreter, compiled or not yet.
type LanguageSlot = Arc<OnceLock<Result<CompiledLanguage, Arc<LoadError>>>>;

/// The key of the interpreter that a worker needs, if it runs as a snapshot.
pub(super) fn language_key(worker: &Worker, runtimes: &[Runtime]) -> Option<LanguageKey> {
    let Execution::Snapshot { language, runtime } = worker.execution() else {
        return None;
    };
    let digest = runtime.and_then(|index| runtimes.get(index)?.binary.digest());
    Some((language, digest))
}

impl CompiledLanguages {
    /// The interpreters that workers of a project use.
    pub(super) fn used_by(&self, project: &Project) -> Self {
        let workers = project.workers().iter();
        let keys = workers.filter_map(|worker| language_key(worker, project.runtimes()));
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = keys.filter_map(|key| {
            let slot = all.get(&key)?;
            matches!(slot.get(), Some(Ok(_))).then(|| (key, slot.clone()))
        });
        Self(Mutex::new(used.collect()))
    }

    pub(super) fn get(
        &self,
        key: LanguageKey,
        compile: impl FnOnce() -> Result<CompiledLanguage, LoadError>,
    ) -> Result<CompiledLanguage, Arc<LoadError>> {
        let slot = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key).or_default().clone()
        };
        slot.get_or_init(|| compile().map_err(Arc::new)).clone()
    }
}
