//! Exports the state of an instance besides its memory, so that a snapshot can read it, or rejects
//! a module whose state no snapshot can hold.

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{ExportKind, ExportSection, RawSection};
use wasmparser::{CompositeInnerType, Operator, Parser, Payload, SubType, TypeRef};

use crate::error::{LoadError, LoadErrorKind};

/// Start of the names of exported globals; the global's index follows.
pub(crate) const GLOBAL: &str = "wws.global.";

/// Name of the exported first table, into which function pointers lead.
pub(crate) const TABLE: &str = "wws.table";

/// Adds exports of a module's mutable globals and of its first table, and removes sections for
/// debuggers. Rejects a module that changes its tables: a snapshot does not hold them.
pub(crate) fn expose(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let invalid = |error: wasmparser::BinaryReaderError| invalid_module().caused_by(error);
    let mut count = 0u32;
    let mut mutable = Vec::new();
    let mut exports = None;
    let mut has_table = false;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    match import.map_err(invalid)?.ty {
                        TypeRef::Global(ty) if ty.mutable => {
                            return Err(LoadError::unsupported(
                                "it imports a mutable global: no snapshot can hold it",
                            ));
                        }
                        TypeRef::Global(_) => count += 1,
                        TypeRef::Memory(_) | TypeRef::Table(_) => {
                            return Err(LoadError::unsupported(
                                "it imports its memory or a table: no snapshot can hold them",
                            ));
                        }
                        _ => {}
                    }
                }
            }
            Payload::TypeSection(groups) => {
                for group in groups {
                    let group = group.map_err(invalid)?;
                    if group.types().any(is_object) {
                        return Err(LoadError::unsupported(
                            "it has garbage-collected objects: no snapshot can hold them",
                        ));
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    if memory.map_err(invalid)?.initial == 0 {
                        return Err(LoadError::unsupported(
                            "its memory starts without a page: no snapshot can hold it",
                        ));
                    }
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let ty = global.map_err(invalid)?.ty;
                    if ty.mutable {
                        if ty.content_type.is_reference_type() {
                            return Err(LoadError::unsupported(
                                "a global of it holds a reference: no snapshot can hold it",
                            ));
                        }
                        if ty.content_type == wasmparser::ValType::V128 {
                            return Err(LoadError::unsupported(
                                "a global of it holds a vector: no snapshot can hold it",
                            ));
                        }
                        mutable.push(count);
                    }
                    count += 1;
                }
            }
            Payload::TableSection(tables) => has_table = tables.count() > 0,
            Payload::ExportSection(section) => exports = Some(section),
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().map_err(invalid)? {
                    if matches!(
                        operator.map_err(invalid)?,
                        Operator::TableSet { .. }
                            | Operator::TableGrow { .. }
                            | Operator::TableFill { .. }
                            | Operator::TableCopy { .. }
                            | Operator::TableInit { .. }
                    ) {
                        return Err(LoadError::unsupported(
                            "it changes its tables: no snapshot can hold them",
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    let Some(exports) = exports else {
        return Err(LoadError::unsupported("it exports nothing"));
    };
    let mut exported = ExportSection::new();
    RoundtripReencoder
        .parse_export_section(&mut exported, exports)
        .map_err(|error| invalid_module().caused_by(error))?;
    for index in mutable {
        exported.export(&format!("{GLOBAL}{index}"), ExportKind::Global, index);
    }
    if has_table {
        exported.export(TABLE, ExportKind::Table, 0);
    }
    let mut module = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(invalid)?;
        match &payload {
            Payload::CustomSection(section) if section.name() != "name" => {}
            Payload::ExportSection(_) => {
                module.section(&exported);
            }
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    let data = wasm.get(range).ok_or_else(invalid_module)?;
                    module.section(&RawSection { id, data });
                }
            }
        }
    }
    Ok(module.finish())
}

/// Whether values of a type are objects of the garbage collector: even a global that never changes
/// leads to fields that do.
fn is_object(ty: &SubType) -> bool {
    matches!(
        ty.composite_type.inner,
        CompositeInnerType::Struct(_) | CompositeInnerType::Array(_)
    )
}

fn invalid_module() -> LoadError {
    LoadError::new(LoadErrorKind::InvalidModule, "not a valid module")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn expose(text: &str) -> Result<Vec<u8>, LoadError> {
        super::expose(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn exports_mutable_globals() {
        let exposed = expose(
            r#"(module (import "a" "b" (global i32)) (global $c i32 (i32.const 1)) (global (mut i64) (i64.const 2))
                 (global (mut f64) (f64.const 3)) (table 1 funcref) (memory (export "memory") 1) (func (export "f"))
                 (@custom ".debug_info" "for debuggers"))"#,
        )
        .unwrap();
        wasmparser::validate(&exposed).unwrap();
        let text = String::from_utf8_lossy(&exposed);
        assert!(text.contains("wws.global.2") && text.contains("wws.global.3"));
        assert!(text.contains("wws.table"));
        assert!(!text.contains("for debuggers"));
    }

    #[test]
    fn rejects_state_that_no_snapshot_holds() {
        for (text, why) in [
            (
                r#"(module (import "a" "b" (global (mut i32))) (func (export "f")))"#,
                "mutable global",
            ),
            (
                r#"(module (import "a" "b" (memory 1)) (func (export "f")))"#,
                "imports its memory",
            ),
            (
                r#"(module (global (mut funcref) (ref.null func)) (func (export "f")))"#,
                "holds a reference",
            ),
            (
                r#"(module (table 1 funcref) (func (export "f") (table.set (i32.const 0) (ref.null func))))"#,
                "changes its tables",
            ),
            (
                r#"(module (type $t (struct (field (mut i32)))) (global (ref $t) (struct.new $t (i32.const 1))) (func (export "f")))"#,
                "garbage-collected objects",
            ),
            (
                r#"(module (rec (type (func)) (type (array (mut i8)))) (func (export "f")))"#,
                "garbage-collected objects",
            ),
            (
                r#"(module (memory (export "memory") 0) (func (export "f")))"#,
                "starts without a page",
            ),
            ("(module)", "exports nothing"),
        ] {
            let error = expose(text).err().unwrap().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    /// The text of a module with globals, a table and sections for debuggers.
    fn module_text() -> impl Strategy<Value = String> {
        let global = prop_oneof![
            Just("(global (mut i32) (i32.const 7))"),
            Just("(global (mut i64) (i64.const 7))"),
            Just("(global f32 (f32.const 7))"),
            Just("(global (mut f64) (f64.const 7))"),
        ];
        let globals = prop::collection::vec(global, 0..5);
        (globals, 0u32..3, any::<bool>(), any::<bool>()).prop_map(
            |(globals, imports, has_table, has_custom)| {
                let mut text = String::from("(module ");
                for import in 0..imports {
                    text += &format!("(import \"a\" \"{import}\" (global i32))");
                }
                text += &globals.concat();
                text += if has_table { "(table 1 funcref)" } else { "" };
                text += "(memory (export \"memory\") 1) (func (export \"f\"))";
                text += if has_custom {
                    "(@custom \".debug_info\" \"bytes\")"
                } else {
                    ""
                };
                text + ")"
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn exposed_module_validates_iff_the_module_does(
            text in module_text(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut wasm = wat::parse_str(text).unwrap();
            for (at, byte) in changes {
                let at = at.index(wasm.len());
                wasm[at] = byte;
            }
            let is_valid = wasmparser::validate(&wasm).is_ok();
            match super::expose(&wasm) {
                Ok(exposed) => {
                    prop_assert_eq!(is_valid, wasmparser::validate(&exposed).is_ok(), "{:?}", wasm);
                }
                // Rejected for its state, or because it is not valid.
                Err(error) => prop_assert!(
                    !is_valid || error.kind() == LoadErrorKind::Unsupported,
                    "{error}: {wasm:?}"
                ),
            }
        }

        #[test]
        fn every_mutable_global_is_exported(text in module_text()) {
            let engine = wasmtime::Engine::default();
            let exposed = expose(&text).unwrap();
            let module = wasmtime::Module::new(&engine, exposed).unwrap();
            let exported = module.exports().filter(|export| export.name().starts_with(GLOBAL));
            prop_assert_eq!(exported.count(), text.matches("(mut ").count());
        }
    }
}
