//! Sends messages to a collector, and tries again where the protocol says so.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wws_outbound::{Client, Error, ErrorKind, KeepRedirects, Policy, PolicyLimits};

use crate::encode::rejected;
use crate::settings::{Endpoint, Signal};

/// The first time to wait before a message is sent again; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// A message is given up after this time.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// Failures are logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a collector's response.
const MAX_RESPONSE: u64 = 64 << 10;

/// Sends the messages of one signal.
pub(crate) struct Sender {
    pub(crate) signal: Signal,
    client: Client,
    policy: Policy,
    url: http::Uri,
    headers: HeaderMap,
    gzip: bool,
    failures: Arc<FailureLog>,
    stop: CancellationToken,
}

/// What became of a message.
enum Attempt {
    /// The collector has it, but for some items.
    Delivered { rejected: Option<(u64, String)> },
    /// It may be sent again, if the collector says so after a time.
    Failed {
        reason: String,
        after: Option<Duration>,
    },
    /// It will never be taken.
    Refused { reason: String },
}

impl Sender {
    /// A sender to an endpoint; `stop` ends waiting.
    ///
    /// # Errors
    /// The endpoint's host is not valid.
    pub(crate) fn new(
        signal: Signal,
        endpoint: Endpoint,
        version: &str,
        client: Client,
        failures: Arc<FailureLog>,
        stop: CancellationToken,
    ) -> Result<Self, wws_outbound::PolicyError> {
        let limits = PolicyLimits {
            response: MAX_RESPONSE,
            timeout: endpoint.timeout,
            ..PolicyLimits::default()
        };
        let host = endpoint.url.authority().map(ToString::to_string);
        let hosts = [host.unwrap_or_default()];
        let policy = Policy::new(&hosts, &[http::Method::POST], true, limits)?;
        let mut headers = HeaderMap::new();
        let product = format!("wws-otlp/{version}");
        if let Ok(product) = HeaderValue::try_from(product) {
            headers.insert(header::USER_AGENT, product);
        }
        headers.extend(endpoint.headers);
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(header::CONTENT_TYPE, protobuf);
        if endpoint.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Self {
            signal,
            client,
            policy: policy.allow_any_address(),
            url: endpoint.url,
            headers,
            gzip: endpoint.gzip,
            failures,
            stop,
        })
    }

    /// Sends a message of `items` items, again if necessary. Returns the number of items that were
    /// lost.
    pub(crate) async fn deliver(&self, message: Vec<u8>, items: usize) -> usize {
        let body = Bytes::from(match self.gzip {
            true => compress(&message),
            false => message,
        });
        let until = Instant::now() + RETRY_FOR;
        let mut wait = FIRST_WAIT;
        loop {
            // Once more at the end, without waiting.
            let is_last = self.stop.is_cancelled();
            match self.attempt(body.clone()).await {
                Attempt::Delivered { rejected: None } => {
                    self.failures.delivered(self);
                    return 0;
                }
                Attempt::Delivered {
                    rejected: Some((count, reason)),
                } => {
                    let reason = format!("the collector rejects {count} of {items}: {reason}");
                    self.failures.failed(self, &reason);
                    return usize::try_from(count).unwrap_or(items).min(items);
                }
                Attempt::Refused { reason } => {
                    self.failures.failed(self, &reason);
                    return items;
                }
                Attempt::Failed { reason, after } => {
                    self.failures.failed(self, &reason);
                    let time = after.unwrap_or_else(|| jittered(wait));
                    if is_last || Instant::now() + time > until {
                        return items;
                    }
                    wait *= 2;
                    tokio::select! {
                        () = tokio::time::sleep(time) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
            }
        }
    }

    async fn attempt(&self, body: Bytes) -> Attempt {
        let mut request = Request::post(self.url.clone())
            .body(body)
            .unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(KeepRedirects);
        match self.client.send(&self.policy, request).await {
            Ok(response) => answered(response.status(), response.headers(), response.body()),
            Err(error) => failed(&error),
        }
    }
}

/// What a response means (OTLP, "OTLP/HTTP Response").
fn answered(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Attempt {
    let reason = || format!("the collector answers {status}");
    match status.as_u16() {
        200..300 => Attempt::Delivered {
            rejected: rejected(body),
        },
        429 | 502..=504 => Attempt::Failed {
            reason: reason(),
            after: retry_after(headers),
        },
        _ => Attempt::Refused { reason: reason() },
    }
}

fn failed(error: &Error) -> Attempt {
    let reason = error.message.clone();
    match error.kind {
        ErrorKind::NotAllowed | ErrorKind::InvalidRequest | ErrorKind::InvalidRequestBody => {
            Attempt::Refused { reason }
        }
        _ => Attempt::Failed {
            reason,
            after: None,
        },
    }
}

/// The time that a collector wants to be left alone.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = httpdate::parse_http_date(text).ok()?;
    Some(time.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A time from half of `wait` to all of it, so that many servers do not come back at once.
fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 4];
    // Without random numbers, the whole time.
    let part = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    wait.mul_f64(0.5 + part / 2.0)
}

fn compress(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default()
}

/// Logs that a collector cannot be reached, once in a while, and when it is back.
#[derive(Default)]
pub(crate) struct FailureLog(Mutex<LoggedFailures>);

#[derive(Default)]
struct LoggedFailures {
    last: Option<Instant>,
    /// The signals of which a failure was logged, and that have not been delivered since.
    failing: Vec<Signal>,
}

impl FailureLog {
    fn failed(&self, sender: &Sender, reason: &str) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if logged.last.is_some_and(|last| now - last < LOG_INTERVAL) {
            return;
        }
        logged.last = Some(now);
        if !logged.failing.contains(&sender.signal) {
            logged.failing.push(sender.signal);
        }
        drop(logged);
        let (signal, url) = (sender.signal.name(), &sender.url);
        tracing::warn!("cannot export {signal} to {url}: {reason}");
    }

    fn delivered(&self, sender: &Sender) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = logged.failing.len();
        logged.failing.retain(|signal| *signal != sender.signal);
        if logged.failing.len() < before {
            drop(logged);
            let (signal, url) = (sender.signal.name(), &sender.url);
            tracing::info!("{signal} are exported to {url} again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(after: &str) -> HeaderMap {
        let value = HeaderValue::try_from(after).unwrap_or(HeaderValue::from_static(""));
        HeaderMap::from_iter([(header::RETRY_AFTER, value)])
    }

    #[test]
    fn retries_only_the_statuses_of_the_protocol() {
        for status in 200..600 {
            let Ok(status) = StatusCode::from_u16(status) else {
                continue;
            };
            let attempt = answered(status, &HeaderMap::new(), b"");
            let is_retried = matches!(attempt, Attempt::Failed { after: None, .. });
            let expected = [429, 502, 503, 504].contains(&status.as_u16());
            assert_eq!(is_retried, expected, "{status}");
        }
    }

    #[test]
    fn honours_retry_after() {
        assert_eq!(retry_after(&headers("7")), Some(Duration::from_secs(7)));
        let past = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(&headers(past)), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon")), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn bounds_waits() {
        for _ in 0..1000 {
            let wait = jittered(FIRST_WAIT);
            assert!(wait >= FIRST_WAIT / 2 && wait <= FIRST_WAIT, "{wait:?}");
        }
    }
}
