//! Routes, compiled into a tree: a search takes as many steps as the path has segments, independent
//! of the number of routes.
//!
//! The more specific route wins, segment by segment from the left: static, then parameter, then
//! catch-all. If a branch does not match the rest of the path, the next one is tried.

use std::collections::HashMap;

use crate::Target;

#[cfg(any(test, fuzzing))]
pub(crate) mod model;

/// The maximum number of steps of one search, over all branches.
const MAX_STEPS: usize = 10_000;

/// A segment of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Static(String),
    Parameter(String),
    CatchAll(String),
}

/// A name of a file or directory that is no segment of a route.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SegmentError {
    #[error("`{0}`: a parameter is a whole segment, as in `[id]`")]
    PartOfSegment(String),
    #[error("`{0}`: a parameter needs a name, as in `[id]` or `[...path]`")]
    WithoutName(String),
}

impl Segment {
    /// Parses the name of a file or directory.
    pub(crate) fn parse(name: &str) -> Result<Self, SegmentError> {
        let Some(inner) = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        else {
            if name.contains(['[', ']']) {
                return Err(SegmentError::PartOfSegment(name.to_owned()));
            }
            return Ok(Self::Static(name.to_owned()));
        };
        let (catch_all, inner) = match inner.strip_prefix("...") {
            Some(inner) => (true, inner),
            None => (false, inner),
        };
        if inner.is_empty() || inner.contains(['[', ']', '.']) {
            return Err(SegmentError::WithoutName(name.to_owned()));
        }
        Ok(if catch_all {
            Self::CatchAll(inner.to_owned())
        } else {
            Self::Parameter(inner.to_owned())
        })
    }
}

/// The end of a route.
#[derive(Debug)]
struct End {
    target: Target,
    /// The names of its parameters, in order.
    names: Vec<String>,
    /// A catch-all that also matches no segment.
    takes_nothing: bool,
}

#[derive(Debug, Default)]
struct Node {
    fixed: HashMap<String, Node>,
    parameter: Option<Box<Node>>,
    catch_all: Option<End>,
    end: Option<End>,
}

/// The compiled routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    root: Node,
    /// Routes without parameters, which are looked up as a whole.
    fixed: HashMap<String, Target>,
}

/// A match: its target and its parameters.
pub(crate) type Match<'r> = (Target, Vec<(&'r str, String)>);

impl Routes {
    /// Adds a route. `Err` is the target that has the same route already. A static worker takes
    /// precedence over an asset, an asset over other workers.
    pub(crate) fn add(&mut self, segments: &[Segment], target: Target) -> Result<(), Target> {
        self.insert(segments, target, false)
    }

    /// Adds a route whose catch-all also matches no segment: that of the project's root, as in Wasm
    /// Workers Server 1.x.
    pub(crate) fn add_root_catch_all(
        &mut self,
        segments: &[Segment],
        target: Target,
    ) -> Result<(), Target> {
        self.insert(segments, target, true)
    }

    fn insert(
        &mut self,
        segments: &[Segment],
        target: Target,
        takes_nothing: bool,
    ) -> Result<(), Target> {
        let mut names = Vec::new();
        let mut node = &mut self.root;
        let mut path = String::new();
        let mut fixed = true;
        for segment in segments {
            match segment {
                Segment::Static(name) => {
                    path.push('/');
                    path.push_str(name);
                    node = node.fixed.entry(name.clone()).or_default();
                }
                Segment::Parameter(name) => {
                    fixed = false;
                    names.push(name.clone());
                    node = node.parameter.get_or_insert_default();
                }
                Segment::CatchAll(name) => {
                    names.push(name.clone());
                    let end = End {
                        target,
                        names,
                        takes_nothing,
                    };
                    return place(&mut node.catch_all, end);
                }
            }
        }
        if !fixed {
            let end = End {
                target,
                names,
                takes_nothing: false,
            };
            return place(&mut node.end, end);
        }
        match self.fixed.get_mut(&path) {
            None => {
                self.fixed.insert(path, target);
                Ok(())
            }
            // A worker's own route takes precedence over a file.
            Some(there @ (Target::Asset(_) | Target::Page(_)))
                if matches!(target, Target::Worker(_)) =>
            {
                *there = target;
                Ok(())
            }
            Some(Target::Worker(_)) if !matches!(target, Target::Worker(_)) => Ok(()),
            Some(there) => Err(*there),
        }
    }

    /// Finds the route of a request's path, as it was sent. Empty segments are ignored.
    pub(crate) fn find(&self, path: &str) -> Option<Match<'_>> {
        match self.find_fixed(path) {
            Some(target) => Some((target, Vec::new())),
            None => self.find_dynamic(path),
        }
    }

    fn find_fixed(&self, path: &str) -> Option<Target> {
        let path = path.trim_end_matches('/');
        if is_plain(path) {
            return self.fixed.get(path).copied();
        }
        let mut decoded = String::with_capacity(path.len());
        for segment in segments(path) {
            let segment = decode(segment);
            // An encoded slash is part of a name, and no file has such a name.
            if segment.contains('/') {
                return None;
            }
            decoded.push('/');
            decoded.push_str(&segment);
        }
        self.fixed.get(&decoded).copied()
    }

    /// Finds a route with parameters.
    pub(crate) fn find_dynamic(&self, path: &str) -> Option<Match<'_>> {
        let segments: Vec<&str> = segments(path).collect();
        let mut values = Vec::new();
        let mut steps = MAX_STEPS;
        let end = search(&self.root, &segments, &mut values, &mut steps)?;
        let params = end
            .names
            .iter()
            .map(String::as_str)
            .zip(values.iter().map(|value| decode(value)))
            .collect();
        Some((end.target, params))
    }
}

/// Whether a path equals its decoded segments joined by slashes.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let is_odd = byte == b'%' || (byte == b'/' && before == b'/');
        before = byte;
        !is_odd
    })
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn place(at: &mut Option<End>, end: End) -> Result<(), Target> {
    match at {
        Some(there) => Err(there.target),
        None => {
            *at = Some(end);
            Ok(())
        }
    }
}

/// Depth first, the more specific branch first.
fn search<'n>(
    node: &'n Node,
    segments: &[&str],
    values: &mut Vec<String>,
    steps: &mut usize,
) -> Option<&'n End> {
    *steps = steps.checked_sub(1)?;
    let Some((first, rest)) = segments.split_first() else {
        return node.end.as_ref().or_else(|| {
            let end = node.catch_all.as_ref().filter(|end| end.takes_nothing)?;
            values.push(String::new());
            Some(end)
        });
    };
    let child = if first.contains('%') {
        node.fixed.get(&decode(first))
    } else {
        node.fixed.get(*first)
    };
    if let Some(end) = child.and_then(|child| search(child, rest, values, steps)) {
        return Some(end);
    }
    if let Some(child) = &node.parameter {
        values.push((*first).to_owned());
        if let Some(end) = search(child, rest, values, steps) {
            return Some(end);
        }
        values.pop();
    }
    let end = node.catch_all.as_ref()?;
    values.push(segments.join("/"));
    Some(end)
}

/// Percent-decodes (RFC 3986, 2.1). A text that does not decode to UTF-8 is kept, so that nothing
/// is lost.
fn decode(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map_or_else(|_| text.to_owned(), Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn routes(list: &[&str]) -> Routes {
        let mut routes = Routes::default();
        for (index, route) in list.iter().enumerate() {
            routes.add(&parse(route), Target::Worker(index)).unwrap();
        }
        routes
    }

    fn parse(route: &str) -> Vec<Segment> {
        route
            .split('/')
            .filter(|s| !s.is_empty())
            .map(|s| Segment::parse(s).unwrap())
            .collect()
    }

    fn find(routes: &Routes, path: &str) -> Option<(usize, Vec<String>)> {
        routes.find(path).map(|(target, params)| {
            let Target::Worker(index) = target else {
                unreachable!("only workers were added")
            };
            (
                index,
                params
                    .into_iter()
                    .map(|(n, v)| format!("{n}={v}"))
                    .collect(),
            )
        })
    }

    #[test]
    fn static_wins_over_parameter_over_catch_all_from_the_left() {
        let routes = routes(&[
            "/a/b",
            "/a/[id]",
            "/a/[...rest]",
            "/[x]/b",
            "/[...all]",
            "/",
        ]);
        for (path, index, params) in [
            ("/a/b", 0, vec![]),
            ("/a/c", 1, vec!["id=c"]),
            ("/a/c/d", 2, vec!["rest=c/d"]),
            ("/z/b", 3, vec!["x=z"]),
            ("/z/y", 4, vec!["all=z/y"]),
            ("/", 5, vec![]),
            ("/a/b/", 0, vec![]),
        ] {
            assert_eq!(
                find(&routes, path),
                Some((index, params.into_iter().map(String::from).collect())),
                "{path}"
            );
        }
    }

    #[test]
    fn falls_back_from_a_branch_without_a_route() {
        let routes = routes(&["/a/b/c", "/[x]/b/d", "/a/[...rest]"]);
        assert_eq!(find(&routes, "/a/b/d").unwrap().0, 2);
        assert_eq!(find(&routes, "/q/b/d").unwrap().0, 1);
        assert_eq!(find(&routes, "/q/b/c"), None);
    }

    #[test]
    fn a_catch_all_needs_at_least_one_segment() {
        let routes = routes(&["/a/[...rest]"]);
        assert_eq!(find(&routes, "/a"), None);
        assert_eq!(find(&routes, "/a/x").unwrap().1, ["rest=x"]);
    }

    #[test]
    fn a_catch_all_at_the_root_takes_the_root_too() {
        let mut all = Routes::default();
        let route = parse("/[...app]");
        all.add_root_catch_all(&route, Target::Worker(0)).unwrap();
        assert_eq!(find(&all, "/").unwrap(), (0, vec!["app=".into()]));
        assert_eq!(find(&all, "").unwrap(), (0, vec!["app=".into()]));
        assert_eq!(find(&all, "/a/b").unwrap(), (0, vec!["app=a/b".into()]));
        let mut below = Routes::default();
        let route = parse("/v1/[...app]");
        below.add_root_catch_all(&route, Target::Worker(0)).unwrap();
        assert_eq!(find(&below, "/v1/").unwrap(), (0, vec!["app=".into()]));
        assert_eq!(find(&below, "/"), None);
    }

    #[test]
    fn a_slash_in_code_separates_nothing() {
        let routes = routes(&["/a/b", "/[x]/c"]);
        assert_eq!(find(&routes, "/a%2Fb"), None);
        assert_eq!(find(&routes, "/a%2fb"), None);
        assert_eq!(find(&routes, "/%61/b").unwrap().0, 0);
        assert_eq!(find(&routes, "/a%2Fb/c").unwrap().1, ["x=a/b"]);
    }

    #[test]
    fn empty_segments_do_not_count() {
        let routes = routes(&["/a/b", "/f/[x]", "/g/[...all]"]);
        for path in ["//a/b", "/a//b", "/a/b//", "/a//%62"] {
            assert_eq!(find(&routes, path).unwrap().0, 0, "{path}");
        }
        assert_eq!(find(&routes, "/f//7").unwrap().1, ["x=7"]);
        assert_eq!(find(&routes, "//g//x//y/").unwrap().1, ["all=x/y"]);
    }

    #[test]
    fn a_catch_all_takes_any_number_of_segments() {
        let routes = routes(&["/a/[...rest]"]);
        let long = "/x".repeat(if cfg!(miri) { 100 } else { 10_000 });
        let (index, params) = find(&routes, &format!("/a{long}")).unwrap();
        assert_eq!(index, 0);
        assert_eq!(params[0].len(), "rest=".len() + long.len() - 1);
    }

    #[test]
    fn parameters_are_percent_decoded() {
        let routes = routes(&["/[id]", "/über"]);
        assert_eq!(find(&routes, "/a%20b%2Fc").unwrap().1, ["id=a b/c"]);
        assert_eq!(find(&routes, "/%C3%BCber").unwrap().0, 1);
        assert_eq!(find(&routes, "/%ff%2").unwrap().1, ["id=%ff%2"]);
    }

    #[test]
    fn two_workers_on_one_route_are_refused() {
        let mut routes = routes(&["/a/[x]", "/b"]);
        assert_eq!(
            routes.add(&parse("/a/[y]"), Target::Worker(9)),
            Err(Target::Worker(0))
        );
        assert_eq!(
            routes.add(&parse("/b"), Target::Worker(9)),
            Err(Target::Worker(1))
        );
    }

    #[test]
    fn an_asset_wins_over_a_dynamic_route_and_gives_way_to_a_static_one() {
        let mut routes = routes(&["/[x]", "/b"]);
        routes.add(&parse("/a"), Target::Asset(0)).unwrap();
        routes.add(&parse("/b"), Target::Asset(1)).unwrap();
        assert_eq!(routes.find("/a").unwrap().0, Target::Asset(0));
        assert_eq!(routes.find("/b").unwrap().0, Target::Worker(1));
    }

    #[test]
    fn finds_what_a_naive_matcher_finds() {
        use proptest::{collection::vec, sample::select, strategy::Strategy, test_runner};
        const ROUTES: &[&str] = &["/a", "/b", "/\u{fc}", "/a/b", "/[x]", "/[y]", "/[...rest]"];
        const PATHS: &[&str] = &[
            "/a", "/b", "/a/b", "/%61", "/%C3%BC", "/", "//", "%2F", "%ff", "c", "/c",
        ];
        let mut runner = test_runner::TestRunner::new(test_runner::Config {
            failure_persistence: None,
            ..test_runner::Config::with_cases(if cfg!(miri) { 4 } else { 1_000 })
        });
        let found = std::cell::Cell::new(0);
        let lines = |pieces: &'static [&'static str],
                     length: std::ops::Range<usize>,
                     count: std::ops::Range<usize>| {
            let line = vec(select(pieces), length).prop_map(|pieces| pieces.concat() + "\n");
            vec(line, count).prop_map(|lines| lines.concat())
        };
        let routes = lines(ROUTES, 0..4, 0..8);
        let paths = lines(PATHS, 1..5, 0..20);
        runner
            .run(&(routes, paths), |(routes, paths)| {
                found.set(found.get() + model::compare(&routes, &paths));
                Ok(())
            })
            .unwrap();
        assert!(cfg!(miri) || found.get() > 1_000, "{found:?}");
    }

    #[test]
    fn a_search_is_bounded() {
        let mut routes = Routes::default();
        let long = "/[a]".repeat(20) + "/end";
        routes.add(&parse(&long), Target::Worker(0)).unwrap();
        assert_eq!(find(&routes, &"/x".repeat(1000)), None);
        assert_eq!(find(&routes, &("/x".repeat(20) + "/end")).unwrap().0, 0);
    }

    #[test]
    fn odd_brackets_are_named() {
        for name in ["a[b]", "[", "[]", "[...]", "[a", "[a.b]"] {
            assert!(Segment::parse(name).is_err(), "{name}");
        }
    }
}
