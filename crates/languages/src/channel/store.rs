//! The key/value store, for kits.

use std::time::Duration;

use serde_json::{Value, json};
use wws_engine::Host;
use wws_kv::{Error, ListQuery};

use crate::channel::message::MessageLine;
use crate::channel::reply::{Refusal, Reply, to_line};

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

fn failed(error: Error) -> Refusal {
    let kind = match error {
        Error::Unavailable(_) | Error::TurnLost | Error::Backend(_) => "store",
        _ => "invalid",
    };
    (kind, error.to_string())
}

fn replied(value: &Value) -> Result<Reply, Refusal> {
    Ok((to_line(value)?, bytes::Bytes::new()))
}

/// Seconds of a kit, as a time.
fn time(seconds: Option<f64>) -> Result<Option<Duration>, Refusal> {
    let time = seconds.map(Duration::try_from_secs_f64).transpose();
    time.map_err(|error| ("invalid", format!("the time to live: {error}")))
}

pub(super) async fn get(host: &mut Host, key: &str) -> Result<Reply, Refusal> {
    let kv = host.current_kv().await.map_err(failed)?;
    let value = kv.ok_or_else(no_store)?.get(key).await.map_err(failed)?;
    replied(&json!({ "value": value }))
}

/// Sets the value of a key, or removes the key.
pub(super) async fn set(
    host: &mut Host,
    key: String,
    value: Option<String>,
    ttl: Option<f64>,
) -> Result<Reply, Refusal> {
    let ttl = time(ttl)?;
    let kv = host.current_kv().await.map_err(failed)?;
    if !kv.ok_or_else(no_store)?.set(key, value, ttl) {
        return Err(full());
    }
    replied(&Value::Object(serde_json::Map::new()))
}

pub(super) async fn increment(host: &mut Host, key: String, by: i64) -> Result<Reply, Refusal> {
    let kv = host.kv().ok_or_else(no_store)?.handle();
    let sum = kv.increment(&key, by).await.map_err(failed)?;
    learn(host, key, Some(sum.to_string()))?;
    replied(&json!({ "value": sum }))
}

pub(super) async fn compare_and_set(host: &mut Host, line: MessageLine) -> Result<Reply, Refusal> {
    let ttl = time(line.ttl)?;
    let kv = host.kv().ok_or_else(no_store)?.handle();
    let set = kv.compare_and_set(&line.key, line.expected.as_deref(), line.value, ttl);
    let (is_set, now) = set.await.map_err(failed)?;
    learn(host, line.key, now)?;
    replied(&json!({ "value": is_set }))
}

pub(super) async fn list(host: &mut Host, line: &MessageLine) -> Result<Reply, Refusal> {
    let query = ListQuery {
        prefix: &line.prefix,
        after: line.after.as_deref(),
        limit: line.limit,
    };
    let listing = host.kv().ok_or_else(no_store)?.listing(&query);
    let page = listing.read(query).await.map_err(failed)?;
    replied(&json!({ "keys": page.keys }))
}

fn learn(host: &mut Host, key: String, now: Option<String>) -> Result<(), Refusal> {
    match host.kv().is_none_or(|kv| kv.learn(key, now)) {
        true => Ok(()),
        false => Err(full()),
    }
}
