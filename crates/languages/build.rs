//! Says where the interpreters lie that go into the binary, or how to get them.

use std::{env, path::Path, process::exit};

const FILES: [&str; 2] = ["quickjs/quickjs.wasm", "web-streams/polyfill.js"];

fn main() {
    let crate_folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let folder = Path::new(&crate_folder).join("../../target/interpreters");
    for file in FILES {
        let path = folder.join(file);
        println!("cargo:rerun-if-changed={}", path.display());
        if !path.is_file() {
            eprintln!("target/interpreters/{file} is not there: run scripts/interpreters.sh first");
            exit(1);
        }
    }
    println!("cargo:rustc-env=WWS_INTERPRETERS={}", folder.display());
}
