//! Rejects modules whose instantiation would always fail, before a request does.

use std::collections::HashMap;

use wasmparser::{DataKind, ElementItems, ElementKind, Operator, Parser, Payload};

use crate::error::LoadError;
use crate::memory::page::WASM_PAGE;
use crate::memory::quota::MAX_TABLES;

/// Rejects a module with more or larger tables than its instances may have.
pub(crate) fn check_tables(
    module: &wasmtime::Module,
    table_elements: u32,
) -> Result<(), LoadError> {
    let needed = module.resources_required();
    if needed.num_tables as usize > MAX_TABLES {
        return Err(LoadError::limit(format!(
            "it has {} tables, and can have {MAX_TABLES}",
            needed.num_tables
        )));
    }
    match needed.max_initial_table_size {
        Some(elements) if elements > u64::from(table_elements) => Err(LoadError::limit(format!(
            "it starts with a table of {elements} elements, `limits.table_elements` allows \
             {table_elements}"
        ))),
        _ => Ok(()),
    }
}

/// Rejects a module whose segments do not fit into its initial memory or tables. Segments at
/// computed addresses are not checked.
pub(crate) fn check_segments(wasm: &[u8]) -> Result<(), LoadError> {
    // `None` for imported ones, whose size is not known. Their indices come first.
    let (mut memories, mut tables) = (Vec::new(), Vec::new());
    let mut known = HashMap::new();
    for payload in Parser::new(0).parse_all(wasm) {
        // The module was validated before.
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports().flatten() {
                    match import.ty {
                        wasmparser::TypeRef::Memory(_) => memories.push(None),
                        wasmparser::TypeRef::Table(_) => tables.push(None),
                        _ => {}
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section.into_iter().flatten() {
                    memories.push(memory.initial.checked_mul(WASM_PAGE));
                }
            }
            Payload::TableSection(section) => {
                for table in section.into_iter().flatten() {
                    tables.push(Some(table.ty.initial));
                }
            }
            Payload::DataSection(section) => {
                for (index, segment) in section.into_iter().flatten().enumerate() {
                    if let DataKind::Active {
                        memory_index,
                        offset_expr,
                    } = segment.kind
                        && let Some(Some(size)) = memories.get(memory_index as usize)
                        && let Some(at) = constant(&offset_expr)
                        && at + segment.data.len() as u64 > *size
                    {
                        return Err(LoadError::unsupported(format!(
                            "its data segment {index} of {} bytes at {at} is outside of its memory \
                             of {size} bytes",
                            segment.data.len()
                        )));
                    }
                }
            }
            Payload::ElementSection(section) => {
                for (index, segment) in section.into_iter().flatten().enumerate() {
                    let count = match &segment.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    if let ElementKind::Active {
                        table_index,
                        offset_expr,
                    } = segment.kind
                        && let Some(at) = constant(&offset_expr)
                    {
                        let table = table_index.unwrap_or(0) as usize;
                        known.insert(index, (table, at + u64::from(count)));
                    }
                }
            }
            _ => {}
        }
    }
    for (index, (table, end)) in known {
        if let Some(Some(size)) = tables.get(table)
            && end > *size
        {
            return Err(LoadError::unsupported(format!(
                "its element segment {index}, which ends at {end}, is outside of its table of \
                 {size} elements"
            )));
        }
    }
    Ok(())
}

/// The value of an expression that is a 32-bit constant.
fn constant(expression: &wasmparser::ConstExpr<'_>) -> Option<u64> {
    let mut operators = expression.get_operators_reader();
    let Ok(Operator::I32Const { value }) = operators.read() else {
        return None;
    };
    matches!(operators.read(), Ok(Operator::End)).then(|| u64::from(value.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn segments(text: &str) -> Result<(), String> {
        let wasm = wat::parse_str(text).unwrap();
        check_segments(&wasm).map_err(|error| error.to_string())
    }

    #[test]
    fn rejects_segments_outside_of_memory_or_table() {
        for (text, part) in [
            (
                r#"(module (memory 1) (data (i32.const 0) "") (data (i32.const 65535) "ab"))"#,
                "data segment 1 of 2 bytes at 65535 is outside of its memory of 65536 bytes",
            ),
            (
                r#"(module (memory 1) (data (i32.const -1) "a"))"#,
                "at 4294967295",
            ),
            (
                r#"(module (memory 0) (data (i32.const 1) ""))"#,
                "memory of 0 bytes",
            ),
            (
                "(module (table 2 funcref) (func $f) (elem (i32.const 1) $f $f))",
                "element segment 0, which ends at 3, is outside of its table of 2 elements",
            ),
        ] {
            let message = segments(text).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn rejects_tables_beyond_the_limits() {
        let engine = wasmtime::Engine::default();
        let tables = |text: &str| {
            let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
            check_tables(&module, 1000).map_err(|error| error.to_string())
        };
        tables("(module (table 1000 funcref))").unwrap();
        let message = tables("(module (table 1 funcref) (table 1001 funcref))").unwrap_err();
        assert_eq!(
            message,
            "it starts with a table of 1001 elements, `limits.table_elements` allows 1000"
        );
        let many = format!("(module {})", "(table 1 funcref)".repeat(MAX_TABLES + 1));
        assert_eq!(
            tables(&many).unwrap_err(),
            "it has 17 tables, and can have 16"
        );
    }

    #[test]
    fn accepts_segments_that_fit_or_are_not_known() {
        for text in [
            r#"(module (memory 1) (data (i32.const 65534) "ab") (data (i32.const 65536) ""))"#,
            r#"(module (memory 1) (data "passive and longer than nothing"))"#,
            r#"(module (import "a" "m" (memory 1)) (data (i32.const 999999) "a"))"#,
            r#"(module (import "a" "g" (global $g i32)) (memory 1) (data (global.get $g) "a"))"#,
            "(module (table 2 funcref) (func $f) (elem (i32.const 0) $f $f) (elem func $f $f $f))",
            "(module)",
        ] {
            segments(text).unwrap();
        }
    }
}
