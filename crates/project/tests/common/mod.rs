//! Languages for tests, as a server has them.
#![allow(dead_code, unreachable_pub)]

use wws_project::{InterpreterOrigin, LanguageSpec, LoadOptions};

/// The options of a server with JavaScript, Python and Ruby.
pub fn options() -> LoadOptions {
    let runtime = |name, extensions| LanguageSpec {
        name,
        interpreter: InterpreterOrigin::Runtime,
        extensions,
        convertible: &[],
    };
    let javascript = LanguageSpec {
        name: "javascript",
        interpreter: InterpreterOrigin::BuiltIn,
        extensions: &["js", "mjs"],
        convertible: &[
            ("ts", COMPILE),
            ("mts", COMPILE),
            ("tsx", COMPILE),
            ("jsx", COMPILE),
        ],
    };
    LoadOptions {
        languages: vec![
            javascript,
            runtime("python", &["py"]),
            runtime("ruby", &["rb"]),
        ],
        ..LoadOptions::default()
    }
}

const COMPILE: &str = "compile it to JavaScript, as by `esbuild FILE --bundle --format=esm`";
