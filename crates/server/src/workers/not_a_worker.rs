//! Wasm modules that are not workers, although their names look like it: libraries, and code for
//! browsers.
//!
//! A project of Wasm Workers Server 1.x may have them next to its workers, where they cost their
//! own route and nothing else. They are left out with a warning. A *broken* worker is different: a
//! rollout with one must fail at once.

use wasmparser::{Encoding, ExternalKind, Parser, Payload};

/// Modules that only code for browsers imports.
const BROWSER_MODULES: [&str; 4] = ["wbg", "__wbindgen_placeholder__", "gojs", "go"];

/// Why a module is not a worker. `None` if it may be one, intact or broken.
pub(crate) fn reason(wasm: &[u8]) -> Option<String> {
    let mut is_program = false;
    let mut browser_module = None;
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
                    if BROWSER_MODULES.contains(&module) || is_glue {
                        browser_module.get_or_insert_with(|| module.to_owned());
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
    match browser_module {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wasm(text: &str) -> Option<String> {
        reason(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn recognizes_libraries() {
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
    fn broken_workers_are_workers() {
        for text in [
            r#"(module (func (export "_start")))"#,
            r#"(module (func (export "_initialize")))"#,
            r#"(module (import "env" "x" (func)) (func (export "_start")))"#,
            "(component)",
        ] {
            assert_eq!(wasm(text), None, "{text}");
        }
        assert_eq!(reason(b"not Wasm"), None);
        assert_eq!(reason(b""), None);
    }
}
