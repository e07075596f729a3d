//! What a kit can ask for, each with its answer.

use bytes::Bytes;
use serde_json::{Value, json};
use tracing::Level;
use wws_engine::{Host, wasmtime::Result};

use super::{
    Outcome, Session, broken, derive,
    message::{Body, Message},
    outgoing,
};

/// A source file is not larger, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

/// Why a request was not granted: a word for programs, and a text for people.
pub(super) type Refusal = (&'static str, String);

/// What the kit reads: a line, and bytes.
pub(super) type Reply = (Vec<u8>, Bytes);

/// Does what a message says.
pub(super) async fn answer(host: &mut Host, message: Message) -> Result<()> {
    let Message { line, body } = message;
    let replied = match line.op.as_str() {
        "log" => {
            let level = match line.level.as_str() {
                "error" => Level::ERROR,
                "warn" => Level::WARN,
                "debug" => Level::DEBUG,
                _ => Level::INFO,
            };
            host.log(level, &String::from_utf8_lossy(&body));
            return Ok(());
        }
        "response" => {
            let outcome = Outcome::Response(line.status, line.headers, body);
            Session::of(host)?.outcome = Some(outcome);
            return Ok(());
        }
        "fail" => {
            if !Session::of(host)?.is_loading() && !body.is_empty() {
                host.log(Level::ERROR, &String::from_utf8_lossy(&body));
            }
            Session::of(host)?.outcome = Some(Outcome::Failed(line.message));
            return Ok(());
        }
        "ready" => {
            Session::of(host)?.ready = Some((line.function, line.arguments));
            host.suspend();
            return Ok(());
        }
        "worker" => {
            let name = Session::of(host)?.sources.worker.clone();
            source(host, &name).map(|bytes| {
                let line = json!({"name": name, "body": bytes.len()});
                (line.to_string().into_bytes(), bytes)
            })
        }
        "source" => source(host, &line.name)
            .and_then(|bytes| Ok((to_line(&Body { body: bytes.len() })?, bytes))),
        "cpu_time" => {
            to_line(&json!({"ns": u64::try_from(host.cpu_time().as_nanos()).unwrap_or(u64::MAX)}))
                .map(|line| (line, Bytes::new()))
        }
        "library" => library(host, &line.name),
        "directory" => directory(host, &line.name),
        "request" => match Session::of(host)?.request.clone() {
            Some(request) => Ok(request),
            None => Err(not_now()),
        },
        op if Session::of(host)?.is_loading() && is_of_requests(op) => Err(not_now()),
        "kv_get" | "kv_set" | "kv_delete" => {
            let value = match line.op.as_str() {
                "kv_set" => Some(line.value),
                _ => None,
            };
            store(host, &line.op, line.key, value)
        }
        "kv_increment" => increment(host, line.key, line.by).await,
        "pbkdf2" => derive::pbkdf2(host, &line, &body).await?,
        "scrypt" => derive::scrypt(host, &line, &body).await?,
        "http" => outgoing::send(host, line, body).await,
        op => return Err(broken(format!("no operation {op:?}"))),
    };
    let (mut line, body) = replied.or_else(|(kind, message)| {
        to_line(&json!({"error": {"kind": kind, "message": message}}))
            .map(|line| (line, Bytes::new()))
            .map_err(|(_, text)| broken(text))
    })?;
    line.push(b'\n');
    // What the kit did not read of the reply before is of no use to it.
    Session::of(host)?.reply = super::Reply {
        line: line.into(),
        body,
    };
    Ok(())
}

fn is_of_requests(op: &str) -> bool {
    matches!(
        op,
        "kv_get" | "kv_set" | "kv_delete" | "kv_increment" | "http"
    )
}

fn not_now() -> Refusal {
    (
        "loading",
        "only while a request is handled: not where the worker is loaded".into(),
    )
}

pub(super) fn to_line(value: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| ("internal", error.to_string()))
}

/// A source file of the project.
fn source(host: &mut Host, name: &str) -> Result<Bytes, Refusal> {
    let sources = match Session::of(host) {
        Ok(session) => &session.sources,
        Err(error) => return Err(("internal", error.to_string())),
    };
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    if extension != Some(sources.extension) {
        return Err(("not-found", format!("{name} is no source file")));
    }
    sources
        .folders
        .read(&format!("/{name}"), MAX_SOURCE)
        .map(Bytes::from)
        .map_err(|error| ("not-found", format!("cannot read {name}: {error}")))
}

/// A file of the kit's own that it loads when it is needed.
fn library(host: &mut Host, name: &str) -> Result<Reply, Refusal> {
    let found = match Session::of(host) {
        Ok(session) => session
            .sources
            .library
            .iter()
            .find(|(known, _)| *known == name),
        Err(error) => return Err(("internal", error.to_string())),
    };
    let Some((_, text)) = found else {
        return Err(("not-found", format!("{name} is no part of the kit")));
    };
    let line = to_line(&Body { body: text.len() })?;
    Ok((line, Bytes::from_static(text.as_bytes())))
}

/// Whether the project has that directory.
fn directory(host: &mut Host, name: &str) -> Result<Reply, Refusal> {
    let found = match Session::of(host) {
        Ok(session) => session.sources.folders.stat(&format!("/{name}")),
        Err(error) => return Err(("internal", error.to_string())),
    };
    let found = found.is_ok_and(|stat| stat.is_directory);
    Ok((to_line(&json!({"found": found}))?, Bytes::new()))
}

fn no_store() -> Refusal {
    (
        "no-store",
        "this worker has no key/value store: its TOML has no [data.kv]".into(),
    )
}

fn full() -> Refusal {
    (
        "full",
        "more changes of the key/value store than one call may hold (`limits.output`)".into(),
    )
}

fn store(host: &mut Host, op: &str, key: String, value: Option<String>) -> Result<Reply, Refusal> {
    let kv = host.kv().ok_or_else(no_store)?;
    let reply = if op == "kv_get" {
        json!({"value": kv.get(&key)})
    } else if kv.set(key, value) {
        Value::Object(serde_json::Map::new())
    } else {
        return Err(full());
    };
    Ok((to_line(&reply)?, Bytes::new()))
}

async fn increment(host: &mut Host, key: String, by: i64) -> Result<Reply, Refusal> {
    let (store, namespace) = host.kv().ok_or_else(no_store)?.store();
    let sum = store
        .increment(&namespace, &key, by)
        .await
        .map_err(|error| ("invalid", error.to_string()))?;
    if let Some(kv) = host.kv()
        && !kv.learn(key, Some(sum.to_string()))
    {
        return Err(full());
    }
    Ok((to_line(&json!({"value": sum}))?, Bytes::new()))
}
