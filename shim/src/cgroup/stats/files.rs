//! The files of a cgroup: numbers, and tables of numbers.

use std::fs;
use std::path::Path;

/// Returns the text of a file; empty if the file is missing.
pub(super) fn text(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_default()
}

/// Returns the number in a file: the largest one for `max`, and 0 if the file is missing.
pub(super) fn number(directory: &Path, file: &str) -> u64 {
    parse(text(directory, file).trim())
}

/// Parses a number: `max` is the largest one, and a broken one is 0.
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
    /// Reads a file; empty if it is missing.
    pub(super) fn read(directory: &Path, file: &str) -> Self {
        Self(text(directory, file))
    }

    /// Returns the number of a name; 0 if the name is missing.
    pub(super) fn get(&self, name: &str) -> u64 {
        let numbers = self.0.lines().find_map(|line| {
            let (found, number) = line.split_once(' ')?;
            (found == name).then_some(number.trim())
        });
        numbers.map_or(0, parse)
    }

    /// Returns the sum of the numbers of several names.
    pub(super) fn sum<const N: usize>(&self, names: [&str; N]) -> u64 {
        let numbers = names.iter().map(|name| self.get(name));
        numbers.fold(0, u64::saturating_add)
    }
}

/// Returns the sizes of huge pages for which there are files `hugetlb.SIZE.SUFFIX`.
pub(super) fn huge_page_sizes(directory: &Path, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_any_text(text in any::<String>(), name in "[a-z_]{0,5}") {
            parse(&text);
            let table = Table(text);
            table.get(&name);
            table.sum([name.as_str(), "", name.as_str()]);
        }

        #[test]
        fn finds_each_number(
            values in prop::collection::btree_map("[a-z_]{1,8}", any::<u64>(), 0..8),
        ) {
            let line = |(name, value): (&String, &u64)| format!("{name} {value}\n");
            let table = Table(values.iter().map(line).collect());
            for (name, value) in &values {
                prop_assert_eq!(table.get(name), *value);
            }
            let names = ["a", "b"];
            let expected = names.iter().filter_map(|name| values.get(*name));
            let expected = expected.fold(0_u64, |sum, value| sum.saturating_add(*value));
            prop_assert_eq!(table.sum(names), expected);
        }
    }
}
