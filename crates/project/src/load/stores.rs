//! Stores and the directories of workers.

use std::path::Path;

use crate::beneath::Root;
use crate::problem::Problem;
use crate::stores::{StoreDefinition, StorePlace};
use crate::worker::Worker;

/// The problems of stores in directories that workers are given: a worker could read and overwrite
/// all of the store.
pub(super) fn in_given_directories(
    root: &Root,
    stores: &[StoreDefinition],
    workers: &[Worker],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for store in stores {
        let StorePlace::File(file) = &store.place else {
            continue;
        };
        for worker in workers {
            let mut given = worker.directories.iter();
            let holder = given.find(|directory| {
                let real = root.real_path_of_new(&directory.from);
                real.is_some_and(|real| file.starts_with(real))
            });
            if let Some(directory) = holder {
                let directory = match directory.from.as_os_str().is_empty() {
                    true => Path::new("."),
                    false => &directory.from,
                };
                let message = format!(
                    "its file is in the directory `{}`, which [[folders]] gives to {}",
                    directory.display(),
                    worker.path.display()
                );
                problems.push(
                    store
                        .problem(message)
                        .help("put the store into a directory that no worker is given"),
                );
                break;
            }
        }
    }
    problems
}
