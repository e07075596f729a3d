//! `/_api/v1`: what the panel shows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use wws_kv::{ListQuery, Store};
use wws_project::{KeyValue, Origins, Worker};
use wws_telemetry::WorkerSeries;

use crate::status::view::StatusView;
use crate::status::workers;

/// Keys of a namespace that are shown.
const MAX_KEYS: usize = 200;

/// Bytes of a value that are shown.
const MAX_VALUE: usize = 1 << 10;

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn milliseconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e3)
}

/// The state of the server, of its workers and of what is answered without one.
pub(crate) fn status(view: &StatusView<'_>) -> Value {
    let gauges = view.gauges;
    let reloads = view.telemetry.reloads();
    let all = view.project.workers().iter().zip(view.series);
    let list = all.map(|(worker, series)| {
        let mut entry = counts(series);
        entry.insert("id".into(), json!(workers::id(worker)));
        entry.insert("name".into(), json!(worker.name));
        entry.insert("file".into(), json!(worker.path.to_string_lossy()));
        entry.insert("route".into(), json!(worker.route));
        Value::Object(entry)
    });
    let list: Vec<Value> = list.collect();
    json!({
        "version": view.telemetry.version(),
        "started": seconds(view.telemetry.started()),
        "now": seconds(SystemTime::now()),
        "draining": gauges.draining,
        "generation": gauges.generation,
        "running": gauges.running,
        "concurrency": gauges.concurrency,
        "waiting": gauges.waiting,
        "queue": gauges.queue,
        "connections": gauges.connections,
        "memory": gauges.memory,
        "memory_used": gauges.memory_used,
        "refusals": by_name(view.telemetry.refusals()),
        "reloads": {
            "succeeded": reloads.succeeded,
            "failed": reloads.failed,
            "last_failed": reloads.last_failed,
            "last": reloads.last.map(seconds),
        },
        "workers": list,
        "assets": counts(view.telemetry.assets()),
        "unrouted": counts(view.telemetry.unrouted()),
        "namespaces": namespaces(view),
    })
}

fn by_name(counts: Vec<(&'static str, u64)>) -> Map<String, Value> {
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| (name.to_owned(), json!(count)))
        .collect()
}

fn counts(series: &WorkerSeries) -> Map<String, Value> {
    let summary = series.summary();
    let entry = json!({
        "requests": summary.requests,
        "errors": summary.errors,
        "running": summary.running,
        "streams": summary.streams,
        "cpu_seconds": summary.cpu.as_secs_f64(),
        "peak_memory": summary.peak_memory,
        "median_ms": milliseconds(summary.median),
        "p99_ms": milliseconds(summary.p99),
        "troubles": by_name(series.troubles()),
    });
    match entry {
        Value::Object(entry) => entry,
        _ => Map::new(),
    }
}

/// The namespaces that workers of the project name, each with its name in answers.
fn kv_of(view: &StatusView<'_>) -> BTreeMap<String, KeyValue> {
    let workers = view.project.workers().iter();
    let named = workers.filter_map(|worker| worker.kv.as_ref()).map(|kv| {
        let name = match &kv.store {
            Some(store) => format!("{store}/{}", kv.namespace),
            None => kv.namespace.clone(),
        };
        (name, kv.clone())
    });
    named.collect()
}

fn namespaces(view: &StatusView<'_>) -> Vec<String> {
    kv_of(view).into_keys().collect()
}

/// One worker: its configuration, with the values of variables masked, and its last log lines.
pub(crate) fn worker(view: &StatusView<'_>, worker: &Worker) -> Value {
    let limits = &worker.limits;
    let lines = view.telemetry.tail().lines(&worker.name);
    let lines = lines
        .into_iter()
        .map(|line| json!({ "time": seconds(line.time), "level": line.level, "text": line.text }));
    let origins = match worker.cors.as_ref().and_then(|cors| cors.origins.as_ref()) {
        Some(own) => own,
        None => &view.project.settings().cors,
    };
    let origins = match origins {
        Origins::None => Vec::new(),
        Origins::Any => vec!["*".to_owned()],
        Origins::Only(origins) => origins.clone(),
    };
    let methods = worker.http.allowed_methods.iter();
    json!({
        "configuration": workers::worker(worker),
        "limits": {
            "cpu_time_ms": milliseconds(Some(limits.cpu_time)),
            "wall_time_ms": milliseconds(Some(limits.wall_time)),
            "memory": limits.memory,
            "concurrency": limits.concurrency,
            "http_calls": limits.http_calls,
            "output": limits.output,
        },
        "allowed_hosts": worker.http.allowed_hosts,
        "allowed_methods": methods.map(http::Method::as_str).collect::<Vec<_>>(),
        "cors": origins,
        "log": lines.collect::<Vec<_>>(),
    })
}

/// The first keys of a namespace; `None` if no worker names it.
///
/// # Errors
/// The store failed.
pub(crate) async fn keys(
    view: &StatusView<'_>,
    namespace: &str,
) -> Option<Result<Value, wws_kv::Error>> {
    let kv = kv_of(view).remove(namespace)?;
    Some(first_keys(&**view.stores.of(&kv), &kv.namespace).await)
}

async fn first_keys(store: &dyn Store, namespace: &str) -> Result<Value, wws_kv::Error> {
    let query = ListQuery {
        limit: MAX_KEYS,
        ..ListQuery::default()
    };
    let page = store.list(namespace, query).await?;
    let mut shown = Vec::with_capacity(page.keys.len());
    for key in page.keys {
        // It may have been removed meanwhile.
        let Some(value) = store.get(namespace, &key).await? else {
            continue;
        };
        let start = &value[..value.floor_char_boundary(MAX_VALUE)];
        let name = &key[..key.floor_char_boundary(MAX_VALUE)];
        shown.push(json!({ "key": name, "value": start, "bytes": value.len() }));
    }
    Ok(json!({ "keys": shown, "more": !page.is_last }))
}
