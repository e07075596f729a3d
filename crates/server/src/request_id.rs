//! Names of requests, on answers and log lines.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;

/// The header, both ways.
pub(crate) const HEADER: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// Longest name that is taken from a client.
const MAX: usize = 64;

/// Makes names that are unique among servers: a random part of the process, and a count.
pub(crate) struct RequestIds {
    process: String,
    count: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        let mut random = [0; 6];
        if getrandom::fill(&mut random).is_err() {
            // Only uniqueness suffers.
            random[..4].copy_from_slice(&std::process::id().to_le_bytes());
        }
        let process = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            process,
            count: AtomicU64::new(0),
        }
    }

    /// Requests so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The client's name for the request where it is sane, or a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        match headers.get(HEADER).and_then(|value| value.to_str().ok()) {
            Some(id) if is_sane(id) => id.to_owned(),
            _ => {
                use std::fmt::Write;
                let mut id = String::with_capacity(self.process.len() + 17);
                id.push_str(&self.process);
                // Writing to a string does not fail.
                let _ = write!(id, "-{count:x}");
                id
            }
        }
    }
}

fn is_sane(id: &str) -> bool {
    (1..=MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sane_name_is_kept_and_another_replaced() {
        let ids = RequestIds::new();
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().unwrap());
            ids.of(&headers)
        };
        assert_eq!(of("a1._-Z"), "a1._-Z");
        for bad in ["", "a b", "a\"b", "ä", "a\tb", &"x".repeat(65)] {
            assert!(is_sane(&of(bad)) && of(bad) != bad, "{bad}");
        }
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }
}
