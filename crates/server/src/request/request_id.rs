//! Request ids, on responses and in logs.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use wws_project::hex;

/// The header of requests and responses.
pub(crate) const HEADER: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// The maximum length of an id that a client sends.
const MAX_LENGTH: usize = 64;

/// Creates ids that are unique among servers: a random prefix of the process, and a count.
pub(crate) struct RequestIds {
    process: String,
    count: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        let mut random = [0; 6];
        if getrandom::fill(&mut random).is_err() {
            // The ids are less unique, which is harmless.
            random[..4].copy_from_slice(&std::process::id().to_le_bytes());
        }
        let process = hex::encode(&random);
        Self {
            process,
            count: AtomicU64::new(0),
        }
    }

    /// The number of requests so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The id that a trusted proxy sent, if it is valid, or a new one: who chooses the id of a
    /// request decides what the log shows for it.
    pub(crate) fn id_for(&self, headers: &HeaderMap, is_trusted: bool) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let sent = headers.get(HEADER).filter(|_| is_trusted);
        match sent.and_then(|value| value.to_str().ok()) {
            Some(id) if is_valid(id) => id.to_owned(),
            _ => {
                use std::fmt::Write;
                let mut id = String::with_capacity(self.process.len() + 17);
                id.push_str(&self.process);
                // Writing to a string cannot fail.
                let _ = write!(id, "-{count:x}");
                id
            }
        }
    }
}

fn is_valid(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keeps_valid_ids_and_replaces_others() {
        let ids = RequestIds::new();
        let sent = |value: &str, is_trusted| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().unwrap());
            ids.id_for(&headers, is_trusted)
        };
        let of = |value: &str| sent(value, true);
        assert_eq!(of("a1._-Z"), "a1._-Z");
        assert_ne!(sent("a1._-Z", false), "a1._-Z");
        for bad in ["", "a b", "a\"b", "ä", "a\tb", &"x".repeat(65)] {
            assert!(is_valid(&of(bad)) && of(bad) != bad, "{bad}");
        }
        let none = HeaderMap::new();
        assert_ne!(ids.id_for(&none, true), ids.id_for(&none, true));
    }
}
