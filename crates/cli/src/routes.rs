//! The routes of a project as a table.

use wws_project::{Project, Worker, WorkerKind};

use crate::table;

/// Workers and assets, a line each, sorted by route.
pub(crate) fn table(project: &Project) -> String {
    let mut rows: Vec<[String; 4]> = project
        .workers()
        .iter()
        .map(|worker| {
            let file = worker.path.display().to_string();
            [
                worker.route.clone(),
                kind(project, worker),
                file,
                given(worker),
            ]
        })
        .chain(project.assets().iter().map(|asset| {
            [
                asset.url.clone(),
                "asset".into(),
                asset.path.display().to_string(),
                String::new(),
            ]
        }))
        .collect();
    rows.sort();
    rows.insert(0, ["ROUTE", "KIND", "FILE", "GIVEN"].map(Into::into));
    table::aligned(&rows)
}

fn kind(project: &Project, worker: &Worker) -> String {
    match worker.kind {
        WorkerKind::Wasm => "wasm".into(),
        WorkerKind::JavaScript => "javascript".into(),
        WorkerKind::Runtime(index) => project
            .runtimes()
            .get(index)
            .map_or_else(|| "?".into(), |runtime| runtime.name.clone()),
    }
}

/// What a worker may use, in short.
fn given(worker: &Worker) -> String {
    let mut parts = Vec::new();
    if let Some(namespace) = &worker.kv_namespace {
        parts.push(format!("kv {namespace}"));
    }
    parts.extend(
        worker
            .folders
            .iter()
            .map(|folder| format!("{} at {}", folder.from.display(), folder.to)),
    );
    if !worker.http.allowed_hosts.is_empty() {
        parts.push(format!("http {}", worker.http.allowed_hosts.join(" ")));
    }
    parts.join(", ")
}
