//! What of an instance changes while it runs, beside its memory: makes it readable, or says that it cannot be kept.

use wasmparser::{Operator, Parser, Payload, TypeRef};

use crate::{LoadError, image_of};

/// Exports of ours begin with this; the number of the global follows.
pub(crate) const GLOBAL: &str = "wws.global.";

/// The export of ours that is the module's first table: where pointers to functions lead.
pub(crate) const TABLE: &str = "wws.table";

/// Exports the mutable globals and the table of a module whose state is its memory and these globals, and leaves out what is there
/// for debuggers. A module that changes its tables is refused: a snapshot does not hold them.
pub(crate) fn expose(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let invalid =
        |error: wasmparser::BinaryReaderError| LoadError(format!("not a valid module: {error}"));
    let mut count = 0u32;
    let mut mutable = Vec::new();
    let mut exports = None;
    let mut has_table = false;
    // Ends of custom sections and where these begin, in the order of the file.
    let mut custom = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    match import.map_err(invalid)?.ty {
                        TypeRef::Global(ty) if ty.mutable => {
                            return Err(LoadError(
                                "it imports a mutable global: no snapshot can hold it".into(),
                            ));
                        }
                        TypeRef::Global(_) => count += 1,
                        TypeRef::Memory(_) | TypeRef::Table(_) => {
                            return Err(LoadError(
                                "it imports its memory or a table: no snapshot can hold them"
                                    .into(),
                            ));
                        }
                        _ => {}
                    }
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let ty = global.map_err(invalid)?.ty;
                    if ty.mutable {
                        if ty.content_type.is_reference_type() {
                            return Err(LoadError(
                                "a global of it holds a reference: no snapshot can hold it".into(),
                            ));
                        }
                        if ty.content_type == wasmparser::ValType::V128 {
                            return Err(LoadError(
                                "a global of it holds a vector: no snapshot can hold it".into(),
                            ));
                        }
                        mutable.push(count);
                    }
                    count += 1;
                }
            }
            Payload::TableSection(tables) => has_table = tables.count() > 0,
            Payload::CustomSection(section) if section.name() != "name" => {
                custom.push(section.range());
            }
            Payload::ExportSection(section) => {
                exports = Some((section.range(), section.count()));
            }
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
                        return Err(LoadError(
                            "it changes its tables: no snapshot can hold them".into(),
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    let Some((range, exported)) = exports else {
        return Err(LoadError("it exports nothing".into()));
    };
    let lost = || LoadError("not a valid module: its sections do not add up".into());
    let place = |range: &std::ops::Range<usize>, id| {
        let header = image_of::section_header_len(wasm, range.start, range.end, id)?;
        Some((range.start - header, range.start, range.end))
    };
    let (start, from, to) = place(&range, 7).ok_or_else(lost)?;
    // The old entries follow the old count.
    let entries = leb128_len(wasm.get(from..to).ok_or_else(lost)?).ok_or_else(lost)?;
    let mut body = Vec::with_capacity(to - from + mutable.len() * 24);
    let added = mutable.len() as u64 + u64::from(has_table);
    image_of::leb128(&mut body, u64::from(exported) + added);
    body.extend_from_slice(&wasm[from + entries..to]);
    let mut export = |name: &str, kind: u8, index: u32| {
        image_of::leb128(&mut body, name.len() as u64);
        body.extend_from_slice(name.as_bytes());
        body.push(kind);
        image_of::leb128(&mut body, u64::from(index));
    };
    for index in mutable {
        export(&format!("{GLOBAL}{index}"), 3, index);
    }
    if has_table {
        export(TABLE, 1, 0);
    }
    let mut out = Vec::with_capacity(wasm.len() + body.len());
    let mut copied = 0;
    let mut cuts = Vec::with_capacity(custom.len() + 1);
    for range in &custom {
        let (start, _, end) = place(range, 0).ok_or_else(lost)?;
        cuts.push((start, end, false));
    }
    cuts.push((start, to, true));
    cuts.sort_unstable();
    for (start, end, is_exports) in cuts {
        out.extend_from_slice(wasm.get(copied..start).ok_or_else(lost)?);
        if is_exports {
            out.push(7);
            image_of::leb128(&mut out, body.len() as u64);
            out.extend_from_slice(&body);
        }
        copied = end;
    }
    out.extend_from_slice(wasm.get(copied..).ok_or_else(lost)?);
    Ok(out)
}

/// Bytes of the LEB128 number at the start.
fn leb128_len(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|byte| byte & 0x80 == 0)? + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn expose(text: &str) -> Result<Vec<u8>, LoadError> {
        super::expose(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn mutable_globals_become_exports_and_the_module_stays_valid() {
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
    fn state_that_no_snapshot_holds_is_named() {
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
            ("(module)", "exports nothing"),
        ] {
            let error = expose(text).err().unwrap().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
