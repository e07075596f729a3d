//! What workers were loaded from, so that the next generation takes over those that are the same.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use wws_engine::{Code, Directories, FileContents, Guest, LoadError};
use wws_project::{Execution, Project, Runtime, Worker, beneath::Root};

use crate::stores::ProjectStores;
use crate::workers::failure::GuestFailure;
use crate::workers::languages::{CompiledLanguages, Sha256Digest};
use crate::workers::outgoing::Outgoing;

/// The workers of a generation as they were loaded.
pub(crate) struct LoadedWorkers {
    /// The project's directory itself.
    pub(crate) root: Option<DirectoryId>,
    pub(crate) outgoing: Outgoing,
    /// Interpreters of the project whose checksums were compared.
    pub(crate) runtimes: Vec<(PathBuf, FileContents)>,
    /// One for each worker, in their order; `None` for a worker that is always loaded again.
    pub(crate) sources: Vec<Option<Arc<WorkerSource>>>,
    /// Files that are not workers.
    pub(crate) others: HashMap<PathBuf, NotAWorker>,
    /// The code of workers that are modules.
    pub(crate) modules: HashMap<Sha256Digest, Code>,
    pub(crate) languages: CompiledLanguages,
}

/// A file that was loaded as a worker, and is none.
pub(crate) struct NotAWorker {
    worker: Worker,
    runtime: Option<Runtime>,
    reason: Arc<LoadError>,
    sources: Directories,
}

impl NotAWorker {
    /// `None` if it is always loaded again.
    pub(crate) fn new(
        worker: &Worker,
        runtimes: &[Runtime],
        reason: Arc<LoadError>,
        sources: Option<Directories>,
    ) -> Option<Self> {
        if reads_directories_while_loading(worker) {
            return None;
        }
        Some(Self {
            worker: worker.clone(),
            runtime: runtime_of(worker, runtimes),
            reason,
            sources: sources?,
        })
    }
}

/// The runtime of a worker, if it has one.
fn runtime_of(worker: &Worker, runtimes: &[Runtime]) -> Option<Runtime> {
    let index = worker.execution().runtime()?;
    runtimes.get(index).cloned()
}

/// The number of a directory, and of its file system.
pub(crate) type DirectoryId = (u64, u64);

/// What a worker was loaded from, besides its settings and what its program read itself.
pub(crate) struct WorkerSource {
    /// The files, relative to the project's root.
    pub(crate) files: Vec<(PathBuf, FileContents)>,
    /// The directories that it is given.
    pub(crate) directories: Vec<DirectoryId>,
    /// The module that it runs, unless a language compiles its own interpreter.
    pub(crate) module: Option<Sha256Digest>,
}

impl WorkerSource {
    /// Whether all files and directories are the same now.
    fn is_same(&self, root: &Root, worker: &Worker) -> bool {
        let is_same = |(path, before): &(PathBuf, FileContents)| {
            let file = root.file(path);
            file.is_ok_and(|mut file| before.is_same(&mut file))
        };
        let directories = directories(root, worker);
        directories.is_ok_and(|directories| directories == self.directories)
            && self.files.iter().all(is_same)
    }
}

/// The directories that a worker is given.
///
/// # Errors
/// One cannot be opened.
pub(crate) fn directories(root: &Root, worker: &Worker) -> io::Result<Vec<DirectoryId>> {
    let directories = worker.directories.iter();
    directories
        .map(|directory| id(&root.directory(&directory.from)?))
        .collect()
}

/// Which directory an open one is.
pub(crate) fn id(directory: &File) -> io::Result<DirectoryId> {
    let status = directory.metadata()?;
    Ok((status.dev(), status.ino()))
}

/// Whether loading a worker runs its program in directories that may change at any time: what the
/// program read there is not known.
pub(crate) fn reads_directories_while_loading(worker: &Worker) -> bool {
    let runs =
        matches!(worker.execution(), Execution::Snapshot { .. }) || worker.instances.snapshot;
    runs && !worker.directories.is_empty()
}

/// The generation before, for the workers of a new one.
pub(crate) struct Predecessor<'a> {
    project: &'a Project,
    guests: &'a [Option<Guest>],
    loaded: &'a LoadedWorkers,
    by_path: HashMap<&'a Path, usize>,
    /// Whether workers that send requests have the same client.
    same_outgoing: bool,
    /// The key/value stores, before and now.
    stores: (&'a ProjectStores, &'a ProjectStores),
}

impl<'a> Predecessor<'a> {
    /// `None` if nothing of it can be taken over, because the project's directory is another one.
    pub(crate) fn new(
        project: &'a Project,
        guests: &'a [Option<Guest>],
        loaded: &'a LoadedWorkers,
        root: Option<DirectoryId>,
        outgoing: &Outgoing,
        stores: (&'a ProjectStores, &'a ProjectStores),
    ) -> Option<Self> {
        if root.is_none() || root != loaded.root {
            return None;
        }
        let workers = project.workers().iter().enumerate();
        Some(Self {
            project,
            guests,
            loaded,
            by_path: workers
                .map(|(index, worker)| (worker.path.as_path(), index))
                .collect(),
            same_outgoing: loaded.outgoing.is_same(outgoing),
            stores,
        })
    }

    /// The guest of a worker that has not changed, and what it was loaded from.
    pub(crate) fn guest(
        &self,
        root: &Root,
        runtimes: &[Runtime],
        worker: &Worker,
    ) -> Option<(Guest, Arc<WorkerSource>)> {
        let index = *self.by_path.get(worker.path.as_path())?;
        let before = &self.project.workers()[index];
        let guest = self.guests[index].as_ref()?;
        let source = self.loaded.sources[index].as_ref()?;
        let is_same = before.is_same(worker)
            && runtime_of(before, self.project.runtimes()) == runtime_of(worker, runtimes)
            && (self.same_outgoing || worker.http.allowed_hosts.is_empty())
            && self.has_same_store(worker)
            && source.is_same(root, worker)
            && guest.has_same_sources();
        is_same.then(|| (guest.clone(), source.clone()))
    }

    /// Whether the name of a worker's store stands for the same store.
    fn has_same_store(&self, worker: &Worker) -> bool {
        let (before, now) = self.stores;
        let kv = worker.kv.as_ref();
        kv.is_none_or(|kv| Arc::ptr_eq(before.of(kv), now.of(kv)))
    }

    /// Why a file is still not a worker.
    pub(crate) fn not_a_worker(
        &self,
        runtimes: &[Runtime],
        worker: &Worker,
    ) -> Option<GuestFailure> {
        let before = self.loaded.others.get(&worker.path)?;
        let is_same = before.worker.is_same(worker)
            && before.runtime == runtime_of(worker, runtimes)
            && before.sources.is_as_traced();
        is_same.then(|| {
            let sources = Some(before.sources.clone());
            GuestFailure::NotAWorker(before.reason.clone(), sources)
        })
    }

    /// The code of a module.
    pub(crate) fn module(&self, digest: &Sha256Digest) -> Option<Code> {
        self.loaded.modules.get(digest).cloned()
    }

    /// The compiled interpreters.
    pub(crate) fn languages(&self) -> &CompiledLanguages {
        &self.loaded.languages
    }
}
