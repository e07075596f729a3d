//! The routes of a project as a table.

use wws_project::{Project, Worker, WorkerKind};

use crate::table;

/// Workers and assets, a line each, sorted by route.
pub(crate) fn table(project: &Project) -> String {
    let mut rows: Vec<[String; 5]> = project
        .workers()
        .iter()
        .map(|worker| {
            let file = worker.path.display().to_string();
            [
                worker.route.clone(),
                kind(project, worker),
                file,
                begins(project, worker).into(),
                given(worker),
            ]
        })
        .chain(project.assets().iter().map(|asset| {
            [
                asset.url.clone(),
                "asset".into(),
                asset.path.display().to_string(),
                String::new(),
                String::new(),
            ]
        }))
        .collect();
    rows.sort();
    rows.insert(
        0,
        ["ROUTE", "KIND", "FILE", "BEGINS", "GIVEN"].map(Into::into),
    );
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

/// Where a request finds the worker: docs/configure/project.md explains the words.
fn begins(project: &Project, worker: &Worker) -> &'static str {
    match worker.kind {
        WorkerKind::Wasm => "new",
        WorkerKind::JavaScript => "snapshot",
        WorkerKind::Runtime(index) => match project.runtimes().get(index) {
            Some(runtime) if runtime.kit.is_some() => "snapshot",
            _ => "ahead",
        },
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
