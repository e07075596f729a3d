//! `.wws.toml`, a worker's TOML and an index of runtimes: any text is read, or reported at a place
//! that the file has.
#![no_main]

use std::{cell::OnceCell, collections::BTreeMap, fs, path::Path};

use libfuzzer_sys::fuzz_target;
use wws_project::{LoadOptions, Problems, load, repository_index, runtimes, server_settings};

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static DIRECTORY: OnceCell<tempfile::TempDir> = const { OnceCell::new() });
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // A form feed on a line of its own divides the two files.
    let (config, worker) = text.split_once("\n\u{c}\n").unwrap_or((text, ""));
    DIRECTORY.with(|directory| {
        let root = directory
            .get_or_init(|| {
                let directory = tempfile::tempdir().expect("a temporary directory");
                fs::write(directory.path().join("a.js"), "").expect("a worker");
                directory
            })
            .path();
        fs::write(root.join(".wws.toml"), config).expect("a configuration");
        fs::write(root.join("a.toml"), worker).expect("a worker's configuration");
        let texts = [(".wws.toml", config), ("a.toml", worker)];
        for problems in [
            load(root, &LoadOptions::default()).err(),
            runtimes(root).err(),
            server_settings(root, &BTreeMap::new()).err(),
            repository_index("r", Path::new(".wws.toml"), config.to_owned()).err(),
        ] {
            problems.iter().for_each(|problems| check(problems, &texts));
        }
    });
});

fn check(problems: &Problems, texts: &[(&str, &str)]) {
    for problem in problems.all() {
        let text = texts
            .iter()
            .find(|(name, _)| problem.file == Path::new(name));
        let (Some((_, text)), Some(line), Some(column)) = (text, problem.line, problem.column)
        else {
            continue;
        };
        let found = text.split('\n').nth(line as usize - 1);
        let length = found.map(|line| line.chars().count());
        assert!(
            length.is_some_and(|length| column as usize <= length + 1),
            "{problem}"
        );
    }
}
