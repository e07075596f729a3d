//! File names and the routes that they stand for.

use std::path::{Component, Path};

use crate::route::{Routes, Segment, SegmentError};
use crate::{Project, Target};

pub(super) fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

/// The names of a path that consists of plain UTF-8 names.
pub(super) fn asset_names(path: &Path) -> Option<Vec<String>> {
    path.components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str().map(str::to_owned),
            _ => None,
        })
        .collect()
}

/// A path of a worker's file that is no route.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RouteError {
    #[error("its name is not UTF-8, which a route must be")]
    NotText,
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("`{0}` takes all that follows: it can only be the last of a route")]
    CatchAllNotLast(String),
    #[error("two parameters of its route are called `{0}`")]
    SameParameter(String),
}

/// The route of a worker's file.
pub(super) fn route_of(path: &Path) -> Result<Vec<Segment>, RouteError> {
    let mut names = asset_names(&path.with_extension("")).ok_or(RouteError::NotText)?;
    names.retain(|name| name != "index");
    let mut segments = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let segment = Segment::parse(name)?;
        if matches!(segment, Segment::CatchAll(_)) && index + 1 < names.len() {
            return Err(RouteError::CatchAllNotLast(name.clone()));
        }
        segments.push(segment);
    }
    let mut parameters = Vec::new();
    for segment in &segments {
        if let Segment::Parameter(name) | Segment::CatchAll(name) = segment {
            if parameters.contains(&name) {
                return Err(RouteError::SameParameter(name.clone()));
            }
            parameters.push(name);
        }
    }
    Ok(segments)
}

/// A route as it is written in file names.
pub(super) fn shown(segments: &[Segment]) -> String {
    if segments.is_empty() {
        return "/".into();
    }
    segments
        .iter()
        .map(|segment| match segment {
            Segment::Static(name) => format!("/{name}"),
            Segment::Parameter(name) => format!("/[{name}]"),
            Segment::CatchAll(name) => format!("/[...{name}]"),
        })
        .collect()
}

impl Project {
    /// Builds the routes of all workers and assets. Returns the workers whose route another one
    /// has.
    pub(crate) fn route(&mut self) -> Vec<(usize, usize)> {
        let mut routes = Routes::default();
        let mut taken = Vec::new();
        for worker in &self.workers {
            let segments = [self.prefix.as_slice(), &worker.segments].concat();
            let target = Target::Worker(worker.id.0);
            let added = match worker.segments.as_slice() {
                [Segment::CatchAll(_)] => routes.add_root_catch_all(&segments, target),
                _ => routes.add(&segments, target),
            };
            if let Err(Target::Worker(other)) = added {
                taken.push((worker.id.0, other));
            }
        }
        let of = |names: &[String]| -> Vec<Segment> {
            let names = names.iter().cloned().map(Segment::Static);
            self.prefix.iter().cloned().chain(names).collect()
        };
        for (index, asset) in self.assets.iter().enumerate() {
            // A worker with the same route takes precedence, and so does `about.html` over
            // `about/index.html`, which is sorted after it.
            let _taken = routes.add(&of(&asset.names), Target::Asset(index));
            // A page is also at the path without `.html` and without `index.html`.
            if let Some(page) = asset.page() {
                let _taken = routes.add(&of(&page), Target::Page(index));
            }
        }
        self.routes = routes;
        taken
    }
}
