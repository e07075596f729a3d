//! Places in what a bundler wrote become places in what the user wrote (ECMA-426).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use wws_engine::Directories;

use super::mappings::Mappings;

/// What stands before a map's address, on a line of its own near the end of a file.
const MARK: &str = "//# sourceMappingURL=";

/// Larger files are not read for their maps, in bytes.
const MAX: u64 = 64 << 20;

/// Files of a project whose maps are kept.
const FILES: usize = 64;

/// The maps of a worker's files: read when a place in one is first asked for.
pub(super) struct SourceMaps {
    files: Directories,
    known: Mutex<HashMap<String, Option<Arc<Map>>>>,
}

/// A map, and the file that it stands in: sources are named from there.
struct Map {
    file: String,
    mappings: Mappings,
}

impl SourceMaps {
    pub(super) fn new(files: Directories) -> Self {
        Self {
            files,
            known: Mutex::default(),
        }
    }

    /// An error's text, the places in its frames as the user knows them.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                out.push('\n');
            }
            match self.frame(line) {
                Some(frame) => out.push_str(&frame),
                None => out.push_str(line),
            }
        }
        out
    }

    /// A frame is `    at f (FILE:LINE:COLUMN)` or `    at FILE:LINE:COLUMN`.
    fn frame(&self, line: &str) -> Option<String> {
        let frame = line.trim_start().strip_prefix("at ")?;
        let (before, place, after) = match frame.rsplit_once('(') {
            Some((function, place)) => (format!("{function}("), place.strip_suffix(')')?, ")"),
            None => (String::new(), frame, ""),
        };
        let (rest, column) = place.rsplit_once(':')?;
        let (file, row) = rest.rsplit_once(':')?;
        let (row, column): (u32, u32) = (row.parse().ok()?, column.parse().ok()?);
        let map = self.map(file)?;
        let (row, column) = (row.checked_sub(1)?, column.saturating_sub(1));
        let (source, row, column) = map.mappings.find(row, column)?;
        let source = beside(&map.file, source);
        let (row, column) = (row + 1, column + 1);
        Some(format!("    at {before}{source}:{row}:{column}{after}"))
    }

    fn map(&self, file: &str) -> Option<Arc<Map>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = known.get(file) {
            return map.clone();
        }
        let map = self.read(file).map(Arc::new);
        if known.len() < FILES {
            known.insert(file.to_owned(), map.clone());
        }
        map
    }

    fn read(&self, file: &str) -> Option<Map> {
        let text = self.files.read(&format!("/{file}"), MAX).ok()?;
        let text = String::from_utf8(text).ok()?;
        let address = text
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix(MARK))?;
        if address.starts_with("data:") {
            return Some(Map {
                file: file.to_owned(),
                mappings: Mappings::from_url(address)?,
            });
        }
        let file = beside(file, address);
        let map = self.files.read(&format!("/{file}"), MAX).ok()?;
        Some(Map {
            file,
            mappings: Mappings::read(&map)?,
        })
    }
}

/// A path that stands in `file`, as seen from the project's root. What leads out of the project stays as it stands.
fn beside(file: &str, path: &str) -> String {
    if path.starts_with('/') || path.contains("://") {
        return path.trim_start_matches('/').to_owned();
    }
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_lead_to_the_source() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("api")).unwrap();
        // The second line of the output, from its third column, is the fifth of the source.
        let json = r#"{"version":3,"sources":["../src/a.ts"],"mappings":";EAIA"}"#;
        std::fs::write(dir.path().join("api/a.js.map"), json).unwrap();
        std::fs::write(
            dir.path().join("api/a.js"),
            "x\ny\n//# sourceMappingURL=a.js.map\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("plain.js"), "x\n").unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let maps = SourceMaps::new(Directories::new(vec![(root.into(), "/".into())]));
        assert_eq!(
            maps.apply("Error: a (b)\n    at f (api/a.js:2:3)\n    at api/a.js:2:9\n    at g (plain.js:1:1)\n    at h (native)"),
            "Error: a (b)\n    at f (src/a.ts:5:1)\n    at src/a.ts:5:1\n    at g (plain.js:1:1)\n    at h (native)"
        );
    }

    #[test]
    fn paths_are_seen_from_the_root() {
        assert_eq!(beside("a/b/c.js", "../d.ts"), "a/d.ts");
        assert_eq!(beside("c.js", "../src/d.ts"), "../src/d.ts");
        assert_eq!(beside("a/c.js", "./d.map"), "a/d.map");
    }
}
