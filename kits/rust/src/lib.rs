#![doc = include_str!("../README.md")]

pub mod bindings;
mod content;
mod request;
mod response;
mod run;

use std::collections::HashMap;

pub use content::Content;
pub use http;
pub use request::Body;
pub use run::run;
pub use wasm_workers_rs_macros::worker;

/// The worker's key/value namespace as it was when the request came. What the handler changes is
/// merged into the store when it returns: other workers' changes to other keys stay.
pub type Cache = HashMap<String, String>;
