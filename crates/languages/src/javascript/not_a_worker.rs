//! JavaScript files that are not workers, although their names look like it: libraries, and input
//! of build tools.

use std::path::Path;

/// Packages that run a build or a test, and never a request.
const TOOLS: [&str; 19] = [
    "@babel/core",
    "@playwright/test",
    "autoprefixer",
    "cypress",
    "esbuild",
    "eslint",
    "gulp",
    "jest",
    "k6",
    "mocha",
    "parcel",
    "postcss",
    "rollup",
    "tailwindcss",
    "terser",
    "tsup",
    "vite",
    "vitest",
    "webpack",
];

/// Why a file that could not be loaded is not a worker. `None` for a broken worker.
pub(super) fn reason(path: &Path, source: &str) -> Option<String> {
    let stem = path.file_stem()?.to_string_lossy();
    if stem.ends_with(".config") || stem.ends_with(".conf") {
        return Some("it configures a build tool".into());
    }
    if let Some(package) = imports(source).find(|name| is_of_tool(name)) {
        return Some(format!("it imports `{package}`, which no worker can have"));
    }
    let of_workers = ["addEventListener", "export", "import"];
    (!of_workers.iter().any(|word| has_word(source, word)))
        .then(|| "it has no handler: it exports nothing and adds no listener".into())
}

/// Whether a source has a whole word.
fn has_word(source: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    source.match_indices(word).any(|(at, _)| {
        !source[..at].ends_with(is_part) && !source[at + word.len()..].starts_with(is_part)
    })
}

fn is_of_tool(name: &str) -> bool {
    TOOLS.iter().any(|tool| {
        name.strip_prefix(tool)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// What a source probably imports; it is not parsed.
fn imports(source: &str) -> impl Iterator<Item = &str> {
    ["from", "import", "require("].into_iter().flat_map(|word| {
        source.match_indices(word).filter_map(|(at, _)| {
            let rest = source[at + word.len()..].trim_start();
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            rest[1..].split_once(quote).map(|(name, _)| name)
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn broken_workers_are_workers() {
        for source in [
            "export default { fetch() {} ",
            "import { Hono } from 'hono'; export default new Hono();",
            "addEventListener('fetch', ;",
            "import './app.js'",
            "import x from 'vite-plugin-of-mine'; export default x",
        ] {
            assert_eq!(reason(Path::new("index.js"), source), None, "{source}");
        }
    }

    #[test]
    fn recognizes_libraries_and_input_of_build_tools() {
        for (path, source, why) in [
            (
                "script.js",
                "import http from 'k6/http'; export default function () { http.get('/') }",
                "`k6/http`",
            ),
            ("build.js", "const b = require(\"esbuild\");", "`esbuild`"),
            ("esbuild.config.js", "require('x')", "build tool"),
            ("vite.config.mjs", "export default {}", "build tool"),
            ("seed.js", "const fs = require('fs');", "no handler"),
            ("lib.js", "module.exports = { important: 1 };", "no handler"),
        ] {
            let text = reason(Path::new(path), source).unwrap();
            assert!(text.contains(why), "{path}: {text}");
        }
    }
}
