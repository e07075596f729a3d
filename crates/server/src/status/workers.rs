//! `/_api/v0/workers`, as Wasm Workers Server 1.7 has it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wws_project::{Worker, hex};

use crate::status::view::StatusView;

/// What takes the place of the values of variables, which may be secrets.
const MASK: &str = "********";

/// Characters of a worker's id.
const ID_LENGTH: usize = 16;

/// The id of a worker: the same as long as its file has the same path.
pub(crate) fn id(worker: &Worker) -> String {
    let digest = Sha256::digest(worker.path.as_os_str().as_encoded_bytes());
    let mut id = hex::encode(&digest);
    id.truncate(ID_LENGTH);
    id
}

/// The worker with an id, and its index.
pub(crate) fn find<'a>(view: &StatusView<'a>, wanted: &str) -> Option<&'a Worker> {
    let mut workers = view.project.workers().iter();
    workers.find(|worker| id(worker) == wanted)
}

/// All workers.
pub(crate) fn workers(view: &StatusView<'_>) -> Value {
    let workers = view.project.workers().iter();
    let list = workers.map(|worker| {
        json!({
            "id": id(worker),
            "name": worker.name,
            "path": worker.route,
            "filepath": worker.path.to_string_lossy(),
        })
    });
    Value::Array(list.collect())
}

/// The configuration of one worker. The values of its variables are masked.
pub(crate) fn worker(worker: &Worker) -> Value {
    let directories = worker
        .directories
        .iter()
        .map(|directory| json!({ "from": directory.from.to_string_lossy(), "to": directory.to }));
    let vars = worker.vars.keys().map(|name| (name.clone(), json!(MASK)));
    json!({
        "id": id(worker),
        "name": worker.name,
        "version": "1",
        "data": { "kv": worker.kv.as_ref().map(|kv| &kv.namespace) },
        "folders": directories.collect::<Vec<_>>(),
        "vars": vars.collect::<serde_json::Map<_, _>>(),
    })
}
