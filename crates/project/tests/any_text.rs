//! Whatever a project's files hold, loading it ends, and says what is wrong at a place that the
//! file has.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::select};
use wws_project::{LoadOptions, Problems, load, repository_index, runtimes, server_settings};

/// Parts of both formats, well and badly written.
const PARTS: [&str; 58] = [
    "\n",
    "\n",
    "\n",
    " ",
    "=",
    " = ",
    ".",
    ",",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "#",
    "\\",
    "\u{0}",
    "\u{feff}",
    "\u{fc}",
    "name",
    "version = 1\n",
    "version = \"1\"\n",
    "[server]\n",
    "port = 80\n",
    "port = -1\n",
    "[limits]\n",
    "memory = \"1MiB\"\n",
    "memory = 99999999999999999999\n",
    "timeout = \"1s\"\n",
    "timeout = 1979-05-27\n",
    "[[repositories]]\n",
    "[[repositories.runtimes]]\n",
    "name = \"python\"\n",
    "extensions = [\"py\"]\n",
    "tags = [\"latest\"]\n",
    "binary = { filename = \"p.wasm\" }\n",
    "checksum = { type = \"sha256\", value = \"00\" }\n",
    "status = \"active\"\n",
    "args = [\"--\"]\n",
    "[vars]\n",
    "A = \"$B\"\n",
    "[data]\n",
    "[data.kv]\n",
    "namespace = \"n\"\n",
    "[[folders]]\n",
    "from = \"./_libs\"\n",
    "to = \"/lib\"\n",
    "[features]\n",
    "[features.http_requests]\n",
    "allowed_hosts = [\"a.example\", 7]\n",
    "allowed_methods = [\"GET\"]\n",
    "1e999",
    "nan",
    "true",
    "0x7f",
];

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => select(&PARTS[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    vec(part, 0..40).prop_map(|parts| parts.concat())
}

/// Every problem stands at a line and column of its file.
fn check(problems: &Problems, texts: &[(&str, &str)]) {
    for problem in problems.all() {
        let Some((_, text)) = texts
            .iter()
            .find(|(name, _)| problem.file == Path::new(name))
        else {
            continue;
        };
        let (Some(line), Some(column)) = (problem.line, problem.column) else {
            continue;
        };
        let found = text.split('\n').nth(line as usize - 1);
        let length = found.map(|line| line.chars().count());
        assert!(
            length.is_some_and(|length| column as usize <= length + 1),
            "{problem} of {text:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_is_read_or_reported(config in text(), worker in text()) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join(".wws.toml"), &config).unwrap();
        fs::write(root.join("a.toml"), &worker).unwrap();
        fs::write(root.join("a.js"), "").unwrap();
        let texts = [(".wws.toml", config.as_str()), ("a.toml", worker.as_str())];
        for problems in [
            load(root, &LoadOptions::default()).err(),
            runtimes(root).err(),
            server_settings(root, &BTreeMap::new()).err(),
        ] {
            problems.iter().for_each(|problems| check(problems, &texts));
        }
        let index = repository_index("r", Path::new(".wws.toml"), config.clone());
        index.iter().for_each(|_| ());
        index.err().iter().for_each(|problems| check(problems, &texts));
    }
}
