//! What a walk does with the files of a project.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::data::{Candidate, DataDirectory, DataReason, UnservedFiles};
use crate::directory::{Directory, DirectoryId};
use crate::files::walk::{VisitedFile, Visitor};
use crate::files::{PUBLIC, Search, holds_no_workers, is_system};
use crate::problem::Problem;

/// Finds workers.
pub(super) struct WorkerVisitor<'w> {
    pub(super) search: &'w Search<'w>,
    pub(super) is_worker: &'w dyn Fn(&Path) -> bool,
    pub(super) given: &'w mut dyn FnMut(&Path) -> Vec<PathBuf>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) problems: HashMap<PathBuf, Problem>,
    pub(super) data: HashMap<DirectoryId, DataDirectory>,
}

impl Visitor for WorkerVisitor<'_> {
    fn wants(&self, path: &Path) -> bool {
        (self.is_worker)(path)
    }

    fn take(&mut self, file: VisitedFile, directory: &Rc<Directory>) {
        let VisitedFile {
            path,
            problem,
            is_link,
        } = file;
        let mut candidate = Candidate {
            path: path.clone(),
            directory: directory.clone(),
            real_directory: is_link.then(|| self.search.real_directory(&path)).flatten(),
            given: Vec::new(),
        };
        if let Some(problem) = problem {
            self.problems.insert(path.clone(), problem);
        }
        for given in (self.given)(&path) {
            let opened = self.search.root.directory(&given);
            let named = opened.and_then(|opened| Directory::of_link(self.search.root, opened));
            let Ok(named) = named else { continue };
            // A worker above the directory cannot be in it: the directory is not entered.
            if named.id != directory.id && named.is_in(directory.id) {
                self.data.entry(named.id).or_insert_with(|| DataDirectory {
                    path: given,
                    worker: path.clone(),
                });
            } else {
                candidate.given.push((named.id, given));
            }
        }
        self.candidates.push(candidate);
    }

    fn skips(
        &mut self,
        path: &Path,
        depth: usize,
        directory: &Directory,
    ) -> Option<Option<UnservedFiles>> {
        let name = path.file_name()?;
        if holds_no_workers(name)
            || (depth == 1 && name == PUBLIC)
            || (self.search.system && is_system(path))
        {
            return Some(None);
        }
        let because = match self.data.get(&directory.id) {
            Some(data) => DataReason::Given(data.clone()),
            None if self.search.container && directory.is_writable_mount => {
                DataReason::WritableMount(path.to_path_buf())
            }
            None => return None,
        };
        let found = self.search.peek(path, self.is_worker);
        Some(found.map(|(count, first)| UnservedFiles::new(count, first, because)))
    }
}

/// Finds assets.
pub(super) struct AssetVisitor<'a> {
    pub(super) search: &'a Search<'a>,
    pub(super) data: &'a HashMap<DirectoryId, DataDirectory>,
    pub(super) files: Vec<PathBuf>,
}

impl Visitor for AssetVisitor<'_> {
    fn wants(&self, _: &Path) -> bool {
        true
    }

    fn take(&mut self, file: VisitedFile, directory: &Rc<Directory>) {
        let VisitedFile {
            path,
            problem,
            is_link,
        } = file;
        let real = is_link.then(|| self.search.real_directory(&path)).flatten();
        let is_data = |directory: &Directory| {
            let mut ids = directory.above_and_own();
            ids.any(|id| self.data.contains_key(id))
        };
        if is_data(directory) || real.is_some_and(|real| is_data(&real)) {
            return;
        }
        match problem {
            Some(problem) => self.search.warnings.add(Problem {
                message: format!("not served: {}", problem.message),
                ..problem
            }),
            None => self.files.push(path),
        }
    }

    fn skips(
        &mut self,
        path: &Path,
        _: usize,
        directory: &Directory,
    ) -> Option<Option<UnservedFiles>> {
        let data = self.data.get(&directory.id)?.clone();
        let found = self.search.peek(path, &|_| true);
        Some(found.map(|(count, first)| UnservedFiles::new(count, first, DataReason::Given(data))))
    }
}
