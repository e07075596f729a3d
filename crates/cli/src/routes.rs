//! The routes of a project as a table or as JSON.

use serde_json::{Value, json};
use wws_project::{Execution, Problem, Project, Worker};

use crate::table;

/// Workers and assets, one per line, sorted by route.
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
                begins(worker).into(),
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

/// Workers and assets as JSON.
pub(crate) fn json(project: &Project) -> Value {
    let workers = project.workers().iter().map(|worker| {
        json!({
            "route": worker.route,
            "kind": kind(project, worker),
            "file": worker.path.to_string_lossy(),
            "begins": begins(worker),
            "given": given(worker),
        })
    });
    let assets = project.assets().iter();
    let assets =
        assets.map(|asset| json!({ "route": asset.url, "file": asset.path.to_string_lossy() }));
    json!({
        "workers": workers.collect::<Vec<_>>(),
        "assets": assets.collect::<Vec<_>>(),
        "problems": [],
    })
}

/// A project that does not load, as JSON.
pub(crate) fn problems_json(problems: &[Problem]) -> Value {
    json!({ "workers": [], "assets": [], "problems": problem_values(problems) })
}

/// Problems as an array of JSON.
pub(crate) fn problem_values(problems: &[Problem]) -> Value {
    let problems = problems.iter().map(|problem| {
        json!({
            "file": problem.file.to_string_lossy(),
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "help": problem.help,
        })
    });
    problems.collect()
}

/// What runs a worker: `wasm`, or the name of its language or runtime.
pub(crate) fn kind(project: &Project, worker: &Worker) -> String {
    let execution = worker.execution();
    let runtime = execution
        .runtime()
        .map(|index| project.runtimes().get(index));
    match (execution, runtime) {
        (_, Some(runtime)) => runtime.map_or_else(|| "?".into(), |runtime| runtime.name.clone()),
        (Execution::Snapshot { language, .. }, None) => language.into(),
        (Execution::Module | Execution::Prestarted { .. }, None) => "wasm".into(),
    }
}

/// The state of a worker in which a request begins: docs/configure/project.md explains the words.
fn begins(worker: &Worker) -> &'static str {
    match worker.execution() {
        Execution::Module => "new",
        Execution::Snapshot { .. } => "snapshot",
        Execution::Prestarted { .. } => "ahead",
    }
}

/// A summary of what a worker may use.
fn given(worker: &Worker) -> String {
    let mut parts = Vec::new();
    if let Some(kv) = &worker.kv {
        parts.push(match &kv.store {
            Some(store) => format!("kv {} in {store}", kv.namespace),
            None => format!("kv {}", kv.namespace),
        });
    }
    parts.extend(
        worker
            .directories
            .iter()
            .map(|directory| format!("{} at {}", directory.from.display(), directory.to)),
    );
    if !worker.http.allowed_hosts.is_empty() {
        parts.push(format!("http {}", worker.http.allowed_hosts.join(" ")));
    }
    parts.join(", ")
}
