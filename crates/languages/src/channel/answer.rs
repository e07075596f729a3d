//! The operations that a kit can ask for.

use bytes::Bytes;
use serde_json::json;
use tracing::Level;
use wws_engine::{Host, wasmtime::Result};

use crate::channel::message::{Body, HeaderPairs, Message, broken};
use crate::channel::reply::{Refusal, Reply, internal, opened, to_line};
use crate::channel::session::{CallOutcome, Session, UnreadReply};
use crate::channel::{bodies, derive, outgoing, socket, store};

/// The maximum size of a source file, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

/// Executes a message.
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
            let outcome = CallOutcome::Response(line.status, line.headers, body);
            Session::of(host)?.outcome = Some(outcome);
            return Ok(());
        }
        "fail" => {
            if !Session::of(host)?.is_loading() && !body.is_empty() {
                host.log(Level::ERROR, &String::from_utf8_lossy(&body));
            }
            Session::of(host)?.outcome = Some(CallOutcome::Failed(line.failure()));
            return Ok(());
        }
        "ready" => {
            Session::of(host)?.ready = Some((line.function, line.arguments));
            host.suspend();
            return Ok(());
        }
        "close" => {
            Session::of(host)?.bodies.remove(&line.id);
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
        op if Session::of(host)?.is_loading() && needs_request(op) => Err(not_now()),
        "kv_get" => store::get(host, &line.key).await,
        "kv_set" => store::set(host, line.key, Some(line.value), line.ttl).await,
        "kv_delete" => store::set(host, line.key, None, None).await,
        "kv_increment" => store::increment(host, line.key, line.by).await,
        "kv_compare_and_set" => store::compare_and_set(host, line).await,
        "kv_list" => store::list(host, &line).await,
        "pbkdf2" => derive::pbkdf2(host, &line, &body).await?,
        "scrypt" => derive::scrypt(host, &line, &body).await?,
        "http" => outgoing::send(host, line, body).await,
        "read" => bodies::read(host, line.id).await,
        "read_all" => bodies::read_all(host, line.id).await,
        "socket_accept" => socket::accept(host, &line.headers),
        "socket_receive" => socket::receive(host, line.timeout).await,
        "socket_send" => socket::send(host, &line, body).await,
        "socket_close" => socket::close(host, &line),
        "start" => start(host, line.status, &line.headers),
        "piece" => piece(host, body).await,
        "end" => end(host).await,
        op => return Err(broken(format!("no operation {op:?}"))),
    };
    let (mut line, body) = replied.or_else(|(kind, message)| {
        to_line(&json!({"error": {"kind": kind, "message": message}}))
            .map(|line| (line, Bytes::new()))
            .map_err(|(_, text)| broken(text))
    })?;
    line.push(b'\n');
    // The kit does not need the unread rest of the previous reply.
    Session::of(host)?.reply = UnreadReply {
        line: line.into(),
        body,
    };
    Ok(())
}

fn needs_request(op: &str) -> bool {
    matches!(
        op,
        "kv_get"
            | "kv_set"
            | "kv_delete"
            | "kv_increment"
            | "kv_compare_and_set"
            | "kv_list"
            | "http"
            | "read"
            | "read_all"
            | "start"
            | "piece"
            | "end"
    ) || op.starts_with("socket_")
}

/// Begins a response that is sent while the worker runs.
fn start(host: &mut Host, status: i64, headers: &HeaderPairs) -> Result<Reply, Refusal> {
    let headers = headers.iter().map(|(name, value)| (&**name, &**value));
    let head = wws_engine::build_response(status, headers, Bytes::new())
        .map_err(|error| ("invalid", error.to_string()))?;
    let body = host.start_response(head.map(drop));
    let is_open = body.is_some();
    let session = Session::of(host).map_err(internal)?;
    session.body = body;
    session.is_streamed = true;
    opened(is_open)
}

/// Sends a piece of the response, once there is room for it.
async fn piece(host: &mut Host, bytes: Bytes) -> Result<Reply, Refusal> {
    let session = Session::of(host).map_err(internal)?;
    let Some(body) = session.body.take() else {
        return opened(false);
    };
    let charge = host
        .hold(bytes.len() as u64)
        .map_err(|error| ("memory", error.to_string()))?;
    let is_open = body.send(charge.hold(bytes)).await.is_ok();
    if is_open {
        Session::of(host).map_err(internal)?.body = Some(body);
    }
    opened(is_open)
}

/// Ends the response, once what the worker changed is in the store.
async fn end(host: &mut Host) -> Result<Reply, Refusal> {
    let body = Session::of(host).map_err(internal)?.body.take();
    host.commit_kv()
        .await
        .map_err(|error| ("store", error.to_string()))?;
    match body {
        Some(body) => opened(body.finish().await.is_ok()),
        None => opened(false),
    }
}

fn not_now() -> Refusal {
    (
        "loading",
        "only while a request is handled: not where the worker is loaded".into(),
    )
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
        .directories
        .read(&format!("/{name}"), MAX_SOURCE)
        .map(Bytes::from)
        .map_err(|error| ("not-found", format!("cannot read {name}: {error}")))
}

/// A file of the kit that is loaded on demand.
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

/// Whether the project has a directory.
fn directory(host: &mut Host, name: &str) -> Result<Reply, Refusal> {
    let found = match Session::of(host) {
        Ok(session) => session.sources.directories.stat(&format!("/{name}")),
        Err(error) => return Err(("internal", error.to_string())),
    };
    let found = found.is_ok_and(|stat| stat.is_directory);
    Ok((to_line(&json!({"found": found}))?, Bytes::new()))
}
