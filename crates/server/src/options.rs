//! What a server needs in addition to its project.

use std::collections::BTreeMap;

use wws_engine::CodeCache;
use wws_languages::Languages;
use wws_telemetry::Telemetry;

use crate::stores::OpenedStores;
use crate::workers::compiling::Compiling;

/// What a server needs in addition to its project.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// The operator's environment: `WWS_RESOLVE`, and variables for certificates, proxies and the
    /// export of telemetry.
    pub env: BTreeMap<String, String>,
    /// The code cache; only this program writes to it.
    pub code: Option<CodeCache>,
    /// Whether modules are compiled only if that fits this process's memory. The workers of others
    /// answer 503 until the code cache has their code, and [`Reloader::has_new_code`] says so.
    ///
    /// [`Reloader::has_new_code`]: crate::Reloader::has_new_code
    pub compile_within_memory: bool,
    /// Bytes that this process may use, if the caller knows: a container may not see its own
    /// cgroup.
    pub memory: Option<u64>,
    /// Lists what is being compiled.
    pub compiling: Compiling,
    /// Called when the server is idle, after it has returned its own memory to the OS.
    pub on_idle: Option<fn()>,
    /// The languages of workers.
    pub languages: Languages,
    /// What is counted. The same for all generations of a project.
    pub telemetry: Telemetry,
    /// The opened key/value stores. The same for all generations of a project.
    pub stores: OpenedStores,
}

/// The part of the memory that growing guests and held responses leave to calls that begin. A
/// single worker shares it with no other.
pub(crate) fn kept_for_calls(memory: u64, workers: usize) -> u64 {
    const MAX: u64 = 256 << 20;
    if workers < 2 {
        0
    } else {
        (memory / 4).min(MAX)
    }
}
