//! The versions of WASI whose functions some are replaced here.

/// The version of WASI 0.2 of whose functions some are replaced here.
pub(super) const VERSION: &str = "0.2.12";

/// The version of WASI 0.3 of whose functions some are replaced here.
pub(super) const ASYNC_VERSION: &str = "0.3.0";
