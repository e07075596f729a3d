//! Entries that are added to `.wws.toml` and removed again: nothing else of it changes.
#![no_main]

use std::{path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use wws_project::Runtime;

// Of the crate without what fetches: no TLS is compiled for it.
#[allow(dead_code)]
#[path = "../../crates/runtimes/src/edit.rs"]
mod edit;
#[allow(dead_code)]
#[path = "../../crates/runtimes/src/entry.rs"]
mod entry;
#[allow(dead_code)]
#[path = "../../crates/runtimes/src/error.rs"]
mod error;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let index = format!(
        "version = 1\n[[runtimes]]\nname = \"python\"\nversion = \"1\"\ntags = [\"latest\"]\n\
         extensions = [\"py\"]\n\
         binary = {{ url = \"x\", filename = \"p.wasm\", checksum = {{ type = \"sha256\", value = \
         \"{:064}\" }} }}\n",
        7
    );
    wws_project::repository_index("new", Path::new("index"), index)
        .expect("an index")
        .remove(0)
});

fuzz_target!(|text: &str| {
    let others = |text: &str| {
        // White space alone is an empty file, whatever TOML says of its characters.
        let text = if text.trim().is_empty() { "" } else { text };
        let mut table: toml::Table = text.parse().expect("TOML");
        table.remove("repositories");
        // What is written where there was nothing.
        table.remove("version");
        table
    };
    if let Ok(added) = edit::add(text, Some("u"), &RUNTIME) {
        assert!(added.starts_with(text.trim_end()), "{added}");
        assert_eq!(others(text), others(&added));
        if let Ok(left) = edit::remove(&added, &RUNTIME) {
            assert_eq!(others(text), others(&left));
        }
    }
    if let Ok(left) = edit::remove(text, &RUNTIME) {
        assert_eq!(others(text), others(&left));
    }
});
