//! What a container uses, in the messages that containerd's clients read (`docker stats`, `ctr task metrics`, CRI).

mod v1;
mod v2;

use std::fs;
use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};

/// Reads the figures of a control group. What the kernel does not tell is 0.
///
/// # Errors
/// A message that cannot be written.
pub(crate) fn read(cgroup: &Cgroup) -> Result<Any> {
    let (name, value) = match cgroup {
        Cgroup::V1(_) => (
            "io.containerd.cgroups.v1.Metrics",
            v1::read(cgroup).write_to_bytes(),
        ),
        Cgroup::V2(folder) => (
            "io.containerd.cgroups.v2.Metrics",
            v2::read(folder).write_to_bytes(),
        ),
    };
    Ok(Any {
        type_url: name.to_owned(),
        value: value.map_err(|error| Error::Other(format!("figures of the container: {error}")))?,
        ..Any::default()
    })
}

/// The text of a file; empty if it is not there.
fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default()
}

/// The number in a file. `max` is the largest there is; 0 if it is not there.
fn number(folder: &Path, file: &str) -> u64 {
    parse(text(folder, file).trim())
}

fn parse(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        _ => text.parse().unwrap_or(0),
    }
}

/// A file of lines `name number`.
#[derive(Debug)]
struct Table(String);

impl Table {
    fn read(folder: &Path, file: &str) -> Self {
        Self(text(folder, file))
    }

    /// The number of a name; 0 if it is not there.
    fn get(&self, name: &str) -> u64 {
        let numbers = self.0.lines().find_map(|line| {
            let (found, number) = line.split_once(' ')?;
            (found == name).then_some(number.trim())
        });
        numbers.map_or(0, parse)
    }
}

/// The sizes of huge pages that a folder has files of, `hugetlb.SIZE.SUFFIX`.
fn huge_page_sizes(folder: &Path, suffix: &str) -> Vec<String> {
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
