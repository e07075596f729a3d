//! One generation of a project: everything that is exchanged when the project is loaded again.

use std::collections::BTreeSet;
use std::sync::Arc;

use wws_engine::{CodeKey, Guest};
use wws_project::{Problem, Project};
use wws_telemetry::WorkerSeries;

use crate::assets::serve::StaticFiles;
use crate::request::admission::WorkerPlaces;
use crate::request::compress::Compressor;
use crate::request::cors::ProjectCors;
use crate::request::forwarded::TrustedProxies;
use crate::stores::ProjectStores;
use crate::workers::loaded::LoadedWorkers;

/// A loaded project. Nothing of it changes; a request is answered by one generation.
pub(crate) struct Generation {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) project: Arc<Project>,
    pub(crate) files: StaticFiles,
    /// One for each worker, in their order; `None` for a worker that cannot be loaded.
    pub(crate) guests: Vec<Option<Guest>>,
    /// Whether any worker streams.
    pub(crate) streams: bool,
    pub(crate) places: WorkerPlaces,
    /// The series of each worker, in their order.
    pub(crate) series: Vec<Arc<WorkerSeries>>,
    /// Workers that wait for their code, by index.
    pub(crate) uncompiled: BTreeSet<usize>,
    /// The code that they wait for.
    pub(crate) missing_code: Vec<CodeKey>,
    /// Warnings about the workers.
    pub(crate) warnings: Vec<Problem>,
    /// `None` if responses are not compressed.
    pub(crate) compressor: Option<Compressor>,
    pub(crate) proxies: TrustedProxies,
    pub(crate) cors: ProjectCors,
    pub(crate) stores: ProjectStores,
    /// What the next generation may take over.
    pub(crate) loaded: LoadedWorkers,
}
