//! Operations of the key/value store that a worker waits for.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use wws_engine::{Host, KvHandle};
use wws_kv::{Error, ListQuery};

use super::{exception::KitException, state::OperationOutput};

type OperationResult = Result<OperationOutput, KitException>;

/// An operation of the key/value store.
pub(super) enum StoreOperation {
    /// Adds to a number.
    Increment(String, f64),
    /// Sets a key if it has the expected value; `None`: if there is no such key.
    CompareAndSet {
        key: String,
        expected: Option<String>,
        value: String,
        ttl: Option<Duration>,
    },
    /// A page of keys with a prefix, after a key.
    List {
        prefix: String,
        after: Option<String>,
        limit: usize,
    },
}

impl StoreOperation {
    /// Bytes of its texts.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Increment(key, _) => key.len(),
            Self::CompareAndSet {
                key,
                expected,
                value,
                ..
            } => key.len() + expected.as_ref().map_or(0, String::len) + value.len(),
            Self::List { prefix, after, .. } => {
                prefix.len() + after.as_ref().map_or(0, String::len)
            }
        }
    }
}

/// Milliseconds of a worker, as a time; none if they are negative or no number.
pub(super) fn time(milliseconds: f64) -> Option<Duration> {
    // The cast saturates: the store refuses what is too long.
    (milliseconds >= 0.0).then(|| Duration::from_millis(milliseconds.ceil() as u64))
}

/// Begins an operation.
pub(super) fn start(
    host: &mut Host,
    operation: StoreOperation,
) -> BoxFuture<'static, OperationResult> {
    let Some(kv) = host.kv() else {
        let failure = KitException::new(
            "Error",
            "this worker has no key/value store: its TOML has no [data.kv]",
        );
        return std::future::ready(Err(failure)).boxed();
    };
    let ended = match operation {
        // The kit checked that it is a whole number.
        StoreOperation::Increment(key, by) => increment(kv.handle(), key, by as i64).boxed(),
        StoreOperation::CompareAndSet {
            key,
            expected,
            value,
            ttl,
        } => compare_and_set(kv.handle(), key, expected, value, ttl).boxed(),
        StoreOperation::List {
            prefix,
            after,
            limit,
        } => {
            let query = ListQuery {
                prefix: &prefix,
                after: after.as_deref(),
                limit,
            };
            let listing = kv.listing(&query);
            async move {
                let query = ListQuery {
                    prefix: &prefix,
                    after: after.as_deref(),
                    limit,
                };
                let page = listing.read(query).await?;
                let text = serde_json::to_string(&page.keys).unwrap_or_default();
                Ok(OperationOutput {
                    text,
                    ..OperationOutput::default()
                })
            }
            .boxed()
        }
    };
    ended
        .map(|ended: Result<_, Error>| {
            ended.map_err(|error| KitException::new("Error", error.to_string()))
        })
        .boxed()
}

async fn increment(kv: KvHandle, key: String, by: i64) -> Result<OperationOutput, Error> {
    let sum = kv.increment(&key, by).await?.to_string();
    Ok(OperationOutput {
        text: sum.clone(),
        learned: Some((key, Some(sum))),
        ..OperationOutput::default()
    })
}

async fn compare_and_set(
    kv: KvHandle,
    key: String,
    expected: Option<String>,
    value: String,
    ttl: Option<Duration>,
) -> Result<OperationOutput, Error> {
    let (is_set, now) = kv
        .compare_and_set(&key, expected.as_deref(), value, ttl)
        .await?;
    Ok(OperationOutput {
        text: is_set.to_string(),
        learned: Some((key, now)),
        ..OperationOutput::default()
    })
}
