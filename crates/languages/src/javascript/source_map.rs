//! Maps places in the output of a bundler to places in its sources (ECMA-426).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use wws_engine::{Directories, SourcePos};

use super::mappings::Mappings;

/// The text before the address of a map, on its own line near the end of a file.
const MARK: &str = "//# sourceMappingURL=";

/// The maximum size of a file that is searched for a map, in bytes.
const MAX: u64 = 64 << 20;

/// The number of files whose maps are kept.
const FILES: usize = 64;

/// The maps of a worker's files, read when a place in one is first mapped.
pub(super) struct SourceMaps {
    files: Directories,
    known: Mutex<HashMap<String, Option<Arc<Map>>>>,
}

/// A map, and the file that contains it: sources are relative to that file.
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

    /// Maps the places in the frames of an error's text.
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
        let pos = self.original(&SourcePos {
            file: file.into(),
            line: row.parse().ok()?,
            column: Some(column.parse().ok()?),
        })?;
        Some(format!("    at {before}{pos}{after}"))
    }

    /// The original place, if a map has it.
    pub(super) fn original(&self, pos: &SourcePos) -> Option<SourcePos> {
        let map = self.map(pos.file.to_str()?)?;
        let (row, column) = (pos.line.checked_sub(1)?, pos.column?.saturating_sub(1));
        let (source, row, column) = map.mappings.find(row, column)?;
        Some(SourcePos {
            file: relative_to(&map.file, source).into(),
            line: row + 1,
            column: Some(column + 1),
        })
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
        let file = relative_to(file, address);
        let map = self.files.read(&format!("/{file}"), MAX).ok()?;
        Some(Map {
            file,
            mappings: Mappings::read(&map)?,
        })
    }
}

/// A path relative to `file`, as a path relative to the project's root. A path out of the project
/// is not changed.
fn relative_to(file: &str, path: &str) -> String {
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
            maps.apply(
                "Error: a (b)\n    at f (api/a.js:2:3)\n    at api/a.js:2:9\n    at g \
                (plain.js:1:1)\n    at h (native)"
            ),
            "Error: a (b)\n    at f (src/a.ts:5:1)\n    at src/a.ts:5:1\n    at g \
             (plain.js:1:1)\n    at h (native)"
        );
    }

    #[test]
    fn paths_are_seen_from_the_root() {
        assert_eq!(relative_to("a/b/c.js", "../d.ts"), "a/d.ts");
        assert_eq!(relative_to("c.js", "../src/d.ts"), "../src/d.ts");
        assert_eq!(relative_to("a/c.js", "./d.map"), "a/d.map");
    }
}
