//! A matcher that looks at every route, and what it must agree on with [`Routes`].

use super::{Routes, Segment, decode};
use crate::Target;

/// Builds the tree of `routes`, and panics where it finds another route or other values for one of
/// `paths` than the model; both have one in each line. Returns how many of the paths have a route.
pub(crate) fn compare(routes: &str, paths: &str) -> usize {
    let (mut tree, mut list) = (Routes::default(), Vec::<Vec<Segment>>::new());
    for route in routes.lines() {
        let segments = route.split('/').filter(|segment| !segment.is_empty());
        let Ok(mut route) = segments.map(Segment::parse).collect::<Result<Vec<_>, _>>() else {
            continue;
        };
        // A catch-all is the last segment of a route.
        if let Some(at) = route
            .iter()
            .position(|segment| matches!(segment, Segment::CatchAll(_)))
        {
            route.truncate(at + 1);
        }
        let is_new = tree.add(&route, Target::Worker(list.len())).is_ok();
        let is_known = list.iter().any(|known| shape(known) == shape(&route));
        assert_eq!(is_new, !is_known, "{route:?} beside {list:?}");
        if is_new {
            list.push(route);
        }
    }
    let mut found = 0;
    for path in paths.lines().filter(|path| path.starts_with('/')) {
        let expected = find(&list, path);
        let of_tree = tree.find(path).map(|(target, values)| {
            let values = values.into_iter().map(|(_, value)| value).collect();
            (target, values)
        });
        assert_eq!(of_tree, expected, "{path} of {list:?}");
        found += usize::from(expected.is_some());
    }
    found
}

/// A route but for the names of its parameters: two of one shape cannot be told from one another.
fn shape(route: &[Segment]) -> Vec<(u8, &str)> {
    route
        .iter()
        .map(|segment| match segment {
            Segment::Static(name) => (0, name.as_str()),
            Segment::Parameter(_) => (1, ""),
            Segment::CatchAll(_) => (2, ""),
        })
        .collect()
}

/// The most specific of the routes that match, segment by segment from the left, and the values of
/// its parameters.
fn find(routes: &[Vec<Segment>], path: &str) -> Option<(Target, Vec<String>)> {
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let matching = routes.iter().enumerate().filter_map(|(index, route)| {
        let values = values(route, &segments)?;
        let order: Vec<u8> = shape(route).into_iter().map(|(kind, _)| kind).collect();
        Some((order, index, values))
    });
    let (_, index, values) = matching.min()?;
    Some((Target::Worker(index), values))
}

fn values(route: &[Segment], path: &[&str]) -> Option<Vec<String>> {
    let mut values = Vec::new();
    let mut left = path;
    for segment in route {
        let (first, rest) = left.split_first()?;
        match segment {
            Segment::Static(name) if *name == decode(first) => {}
            Segment::Static(_) => return None,
            Segment::Parameter(_) => values.push(decode(first)),
            Segment::CatchAll(_) => {
                values.push(decode(&left.join("/")));
                return Some(values);
            }
        }
        left = rest;
    }
    left.is_empty().then_some(values)
}
