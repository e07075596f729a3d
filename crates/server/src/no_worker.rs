//! Files that are plainly no workers, though their names look like it: libraries, and what build
//! tools are told.
//!
//! A project of Wasm Workers Server 1.x may have them beside its workers, where they cost their own
//! route and nothing else. So they are left out with a warning. A *broken* worker is another
//! matter: a rollout with one of these must fail at once.

use std::path::Path;

use wasmparser::{Encoding, ExternalKind, Parser, Payload};

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

/// Modules from which only code for browsers imports.
const OF_BROWSERS: [&str; 4] = ["wbg", "__wbindgen_placeholder__", "gojs", "go"];

/// Why a module is no worker; none where it may be one, good or broken.
pub(crate) fn of_wasm(wasm: &[u8]) -> Option<String> {
    let mut is_program = false;
    let mut of_browsers = None;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => return None,
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let module = import.ok()?.module;
                    let is_glue = module.starts_with("./") && module.ends_with(".js");
                    if OF_BROWSERS.contains(&module) || is_glue {
                        of_browsers.get_or_insert_with(|| module.to_owned());
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.ok()?;
                    is_program |= export.kind == ExternalKind::Func
                        && matches!(export.name, "_start" | "_initialize");
                }
            }
            _ => {}
        }
    }
    match of_browsers {
        Some(module) => Some(format!(
            "it is built for browsers: it imports from `{module}`, which no worker can have"
        )),
        None if is_program => None,
        None => Some(
            "it is a library: it exports no function `_start`; a worker is a WASI command (a \
             program with `main`)"
                .into(),
        ),
    }
}

/// Why a JavaScript file that cannot be loaded is no worker; none where it is a broken worker.
pub(crate) fn of_javascript(path: &Path, source: &str) -> Option<String> {
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

/// Why a source for an interpreter that cannot be loaded is no worker; none where it is a broken
/// worker.
pub(crate) fn of_source(source: &str) -> Option<String> {
    (!source.contains("worker")).then(|| "it defines no `worker`".into())
}

/// Whether a source has a word as such, and not as a part of another one.
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

/// What a source imports, as far as that is seen at a glance.
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

    fn wasm(text: &str) -> Option<String> {
        of_wasm(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn libraries_are_no_workers() {
        assert!(wasm("(module)").unwrap().contains("library"));
        assert!(
            wasm(r#"(module (func (export "add")))"#)
                .unwrap()
                .contains("library")
        );
        let glue = r#"(module (import "./app_bg.js" "x" (func)) (func (export "_start")))"#;
        assert!(wasm(glue).unwrap().contains("browsers"));
    }

    #[test]
    fn broken_workers_are_not_passed_over() {
        for text in [
            r#"(module (func (export "_start")))"#,
            r#"(module (func (export "_initialize")))"#,
            r#"(module (import "env" "x" (func)) (func (export "_start")))"#,
            "(component)",
        ] {
            assert_eq!(wasm(text), None, "{text}");
        }
        assert_eq!(of_wasm(b"not Wasm"), None);
        assert_eq!(of_wasm(b""), None);
        for source in [
            "export default { fetch() {} ",
            "import { Hono } from 'hono'; export default new Hono();",
            "addEventListener('fetch', ;",
            "import './app.js'",
            "import x from 'vite-plugin-of-mine'; export default x",
        ] {
            assert_eq!(
                of_javascript(Path::new("index.js"), source),
                None,
                "{source}"
            );
        }
        assert_eq!(of_source("def worker(request): retrun"), None);
    }

    #[test]
    fn what_tools_are_told_is_no_worker() {
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
            let reason = of_javascript(Path::new(path), source).unwrap();
            assert!(reason.contains(why), "{path}: {reason}");
        }
        assert!(of_source("import os\nprint(os)").is_some());
    }
}
