//! How long the instances of a worker live: `[instances]` in its TOML.

use crate::setting::settings;

settings! {
    /// How long the instances of a worker live, and where they start.
    pub struct Instances in "instances" {
        /// Requests that an instance answers, one after another; then, after a failure, or when it
        /// was not needed for 10 seconds, it is discarded. With more than 1, a request sees what
        /// earlier ones left in the instance.
        reuse: u32 = 1, 1 => 1_000_000;
        /// Requests that an instance of a component of WASI 0.3 answers at once, at most `reuse`.
        /// With more than 1, requests share the instance, its `[limits]` and its failures.
        concurrent: u32 = 1, 1 => 1_000;
        /// Whether requests to a module that exports `_initialize` and `wws_handle` start from the
        /// state after `_initialize`, which runs once, when the server starts: random numbers and
        /// times that it reads are the same for every request.
        snapshot: bool = false, 0 => 1;
    }
}

impl Instances {
    /// What is wrong with the settings together.
    pub(crate) fn problem(&self) -> Option<String> {
        (self.concurrent > self.reuse).then(|| {
            format!(
                "`concurrent` is {}, but an instance answers `reuse = {}` requests in all: set \
                 `reuse` to at least as many",
                self.concurrent, self.reuse
            )
        })
    }
}
