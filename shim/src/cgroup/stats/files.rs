//! The files of a cgroup: numbers, and tables of numbers.

use std::fs;
use std::path::Path;

/// The text of a file; empty if it is not there.
pub(super) fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default()
}

/// The number in a file. `max` is the largest there is; 0 if it is not there.
pub(super) fn number(folder: &Path, file: &str) -> u64 {
    parse(text(folder, file).trim())
}

pub(super) fn parse(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        _ => text.parse().unwrap_or(0),
    }
}

/// A file of lines `name number`.
#[derive(Debug)]
pub(super) struct Table(String);

impl Table {
    pub(super) fn read(folder: &Path, file: &str) -> Self {
        Self(text(folder, file))
    }

    /// The number of a name; 0 if it is not there.
    pub(super) fn get(&self, name: &str) -> u64 {
        let numbers = self.0.lines().find_map(|line| {
            let (found, number) = line.split_once(' ')?;
            (found == name).then_some(number.trim())
        });
        numbers.map_or(0, parse)
    }
}

/// The sizes of huge pages that a folder has files of, `hugetlb.SIZE.SUFFIX`.
pub(super) fn huge_page_sizes(folder: &Path, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            Some(size.strip_suffix('.')?.to_owned()).filter(|size| !size.contains('.'))
        })
        .collect();
    sizes.sort();
    sizes
}
