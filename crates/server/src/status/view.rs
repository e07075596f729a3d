//! What an operator is shown.

use std::sync::Arc;

use wws_project::Project;
use wws_telemetry::{Telemetry, WorkerSeries};

use crate::stores::ProjectStores;

/// What the answers show.
pub(crate) struct StatusView<'a> {
    pub(crate) project: &'a Project,
    pub(crate) telemetry: &'a Telemetry,
    /// The series of each worker, in their order.
    pub(crate) series: &'a [Arc<WorkerSeries>],
    pub(crate) gauges: ServerGauges,
    pub(crate) stores: &'a ProjectStores,
}

/// The state of a server at one time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerGauges {
    /// The number of the project's generation.
    pub(crate) generation: u64,
    /// Calls of workers that run, and how many may.
    pub(crate) running: u32,
    pub(crate) concurrency: u32,
    /// Requests that wait for a worker, and how many may.
    pub(crate) waiting: u32,
    pub(crate) queue: u32,
    /// Connections that are open, that were accepted since the start, and that may be open.
    pub(crate) connections: u64,
    pub(crate) accepted: u64,
    pub(crate) max_connections: u64,
    /// WebSockets that are open, and that may be open.
    pub(crate) sockets: usize,
    pub(crate) max_sockets: usize,
    /// Bytes of memory for guests, and those in use.
    pub(crate) memory: u64,
    pub(crate) memory_used: u64,
    /// Whether the server stops.
    pub(crate) draining: bool,
    /// Workers that wait for the code that the host compiles.
    pub(crate) uncompiled: usize,
}
