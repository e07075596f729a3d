//! How long the instances of a worker live: `[instances]` in its TOML.

use crate::setting::settings;

settings! {
    /// How long the instances of a worker live, and where they start.
    pub struct Instances in "instances" {
        /// Requests that an instance answers, one after another; then, after a failure, or when it
        /// was not needed for 10 seconds, it is discarded. With more than 1, a request sees what
        /// earlier ones left in the instance.
        reuse: u32 = 1, 1 => 1_000_000;
        /// Whether requests to a module that exports `_initialize` and `wws_handle` start from the
        /// state after `_initialize`, which runs once, when the server starts: random numbers and
        /// times that it reads are the same for every request.
        snapshot: bool = false, 0 => 1;
    }
}
