//! Splits a module into the image of its initial memory and a module without these bytes, so that
//! a fresh instance copies no data segments: its memory is the image, copy-on-write.

use wasm_encoder::{ConstExpr, DataSection, RawSection, SectionId};
use wasmparser::{Data, DataKind, DataSectionReader, Operator, Parser, Payload};

use crate::memory::page::WASM_PAGE;

/// A larger image stays in its segments: it would be held twice, in the file and in the process.
const MAX_IMAGE: u64 = 1 << 30;

/// Most bytes of whole pages that lie between a module's segments, besides as many as the segments
/// have. A guest that reads such a page makes it a page of the image's file, which is charged to no
/// call and stays.
const MAX_HOLES: u64 = 1 << 20;

/// A module and its initial memory.
pub(crate) struct SplitModule<'w> {
    wasm: &'w [u8],
    /// Where in linear memory the bytes begin.
    pub(crate) start: usize,
    /// Linear memory from there to the end of the last segment.
    pub(crate) memory: Vec<u8>,
    data: DataSectionReader<'w>,
}

/// An active segment: its address, and its bytes.
struct ActiveSegment<'w> {
    at: usize,
    bytes: &'w [u8],
}

/// Splits a validated module. Returns `None` if its memory cannot be known before it runs (several
/// memories, an imported one, segments at computed addresses), or if its segments are far apart;
/// such a module is instantiated segment by segment.
pub(crate) fn split(wasm: &[u8]) -> Option<SplitModule<'_>> {
    let (mut limit, mut data, mut count) = (None, None, None);
    let mut has_code = false;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if matches!(import.ok()?.ty, wasmparser::TypeRef::Memory(_)) {
                        return None;
                    }
                }
            }
            Payload::MemorySection(memories) => {
                if memories.count() != 1 {
                    return None;
                }
                let ty = memories.into_iter().next()?.ok()?;
                if ty.memory64 || ty.shared || ty.page_size_log2.is_some() {
                    return None;
                }
                limit = Some(ty.initial.checked_mul(WASM_PAGE)?);
            }
            // A module whose count is wrong, or in a wrong place, would become valid without it.
            Payload::DataCountSection { count: of, .. } => {
                let is_first = count.replace(of).is_none();
                if !is_first || has_code || data.is_some() {
                    return None;
                }
            }
            Payload::DataSection(segments) => {
                let is_first = data.replace(segments).is_none();
                if !is_first {
                    return None;
                }
            }
            Payload::CodeSectionStart { .. } => has_code = true,
            Payload::CodeSectionEntry(_) | Payload::CustomSection(_) | Payload::End(_) => {}
            _ if count.is_some() => return None,
            _ => {}
        }
    }
    let (data, limit) = (data?, limit?);
    if count.is_some_and(|count| count != data.count()) {
        return None;
    }
    let (mut start, mut end) = (usize::MAX, 0);
    let mut bytes = 0;
    for segment in data.clone() {
        if let Some(segment) = active(&segment.ok()?, limit).ok()? {
            start = start.min(segment.at);
            end = end.max(segment.at + segment.bytes.len());
            bytes += segment.bytes.len() as u64;
        }
    }
    // Segments may overlap.
    if end == 0 || (end - start) as u64 > 2 * bytes + MAX_HOLES {
        return None;
    }
    // Whole pages, as they are mapped, of whatever size the host's are.
    start -= start % WASM_PAGE as usize;
    let mut memory = vec![0; end - start];
    for segment in data.clone() {
        if let Some(ActiveSegment { at, bytes }) = active(&segment.ok()?, limit).ok()? {
            memory[at - start..at - start + bytes.len()].copy_from_slice(bytes);
        }
    }
    Some(SplitModule {
        wasm,
        start,
        memory,
        data,
    })
}

/// The address of a segment is not known before the module runs.
struct UnknownOffset;

/// Returns what instantiation copies of a segment; `None` if the segment is passive or empty.
fn active<'w>(segment: &Data<'w>, limit: u64) -> Result<Option<ActiveSegment<'w>>, UnknownOffset> {
    let DataKind::Active {
        memory_index,
        offset_expr,
    } = &segment.kind
    else {
        return Ok(None);
    };
    let mut operators = offset_expr.get_operators_reader();
    let Ok(Operator::I32Const { value }) = operators.read() else {
        return Err(UnknownOffset);
    };
    if *memory_index != 0 || !matches!(operators.read(), Ok(Operator::End)) {
        return Err(UnknownOffset);
    }
    let at = u64::from(value.cast_unsigned());
    let end = at.saturating_add(segment.data.len() as u64);
    // Instantiation must trap, so it is left to wasmtime.
    if end > limit || end > MAX_IMAGE {
        return Err(UnknownOffset);
    }
    Ok((!segment.data.is_empty()).then_some(ActiveSegment {
        at: usize::try_from(at).map_err(|_| UnknownOffset)?,
        bytes: segment.data,
    }))
}

impl SplitModule<'_> {
    /// Returns the module that is compiled: without data segments, or with empty active segments if
    /// instructions name segments by index.
    pub(crate) fn stripped(&self) -> Option<Vec<u8>> {
        let wasm = self.wasm;
        // Instantiation takes time for each segment that is left; interpreters have tens of
        // thousands.
        let keep = names_segments(wasm)?;
        let mut data = DataSection::new();
        for segment in self.data.clone().into_iter().filter(|_| keep) {
            let segment = segment.ok()?;
            match segment.kind {
                DataKind::Passive => data.passive(segment.data.iter().copied()),
                // Indices of later segments stay.
                DataKind::Active { .. } => data.active(0, &ConstExpr::i32_const(0), []),
            };
        }
        let mut module = wasm_encoder::Module::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.ok()?.as_section() {
                Some((id, _)) if id == SectionId::DataCount as u8 && !keep => {}
                Some((id, _)) if id == SectionId::Data as u8 => {
                    module.section(&data);
                }
                Some((id, range)) => {
                    module.section(&RawSection {
                        id,
                        data: wasm.get(range)?,
                    });
                }
                None => {}
            }
        }
        Some(module.finish())
    }
}

/// Whether `bytes`, which follow 0xfc, may continue an instruction that names a data segment: 8 or
/// 9 as LEB128, which may be padded.
fn may_name_segment(bytes: &[u8]) -> bool {
    match bytes {
        [0x08 | 0x09, ..] => true,
        [0x88 | 0x89, padding @ ..] => {
            let end = padding.iter().take(4).find(|byte| **byte != 0x80);
            end == Some(&0)
        }
        _ => false,
    }
}

/// Whether instructions of a module name data segments: `memory.init` and `data.drop`.
fn names_segments(wasm: &[u8]) -> Option<bool> {
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload.ok()? else {
            continue;
        };
        // Constants can look the same, so the function's instructions are read then.
        let bytes = body.as_bytes();
        if !memchr::memchr_iter(0xfc, bytes).any(|at| may_name_segment(&bytes[at + 1..])) {
            continue;
        }
        for operator in body.get_operators_reader().ok()? {
            if let Operator::MemoryInit { .. } | Operator::DataDrop { .. } = operator.ok()? {
                return Some(true);
            }
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn moves_active_segments_to_the_image() {
        let wasm = wasm(
            r#"(module (memory (export "memory") 3)
                 (data (i32.const 70000) "abc") (data $passive "keep me") (data (i32.const 140000) "end") (data (i32.const 0) "")
                 (func (export "f") (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 4))))"#,
        );
        let split = split(&wasm).unwrap();
        assert_eq!((split.start, split.memory.len()), (65536, 140003 - 65536));
        assert_eq!(&split.memory[70000 - 65536..][..3], b"abc");
        assert_eq!(&split.memory[140000 - 65536..], b"end");
        let stripped = split.stripped().unwrap();
        wasmparser::validate(&stripped).unwrap();
        let text = String::from_utf8_lossy(&stripped).into_owned();
        assert!(text.contains("keep me") && !text.contains("abc"));
    }

    #[test]
    fn removes_segments_that_no_instruction_names() {
        // 1148 looks like `memory.init`.
        let wasm = wasm(
            r#"(module (memory (export "memory") 1) (data (i32.const 10) "abc") (data (i32.const 20) "def") (data "passive")
                 (func (export "f") (memory.copy (i32.const 0) (i32.const 1148) (i32.const 4)))
                 (func (export "g") (result i32) (i32.const 1148)))"#,
        );
        let split = split(&wasm).unwrap();
        assert_eq!(
            (&split.memory[10..13], &split.memory[20..]),
            (&b"abc"[..], &b"def"[..])
        );
        let stripped = split.stripped().unwrap();
        wasmparser::validate(&stripped).unwrap();
        let mut segments = None;
        for payload in Parser::new(0).parse_all(&stripped) {
            match payload.unwrap() {
                Payload::DataSection(section) => segments = Some(section.count()),
                Payload::DataCountSection { .. } => panic!("the count is still there"),
                _ => {}
            }
        }
        assert_eq!(segments, Some(0));
    }

    #[test]
    fn keeps_segments_that_are_dropped_by_index() {
        let wasm =
            wasm(r#"(module (memory 1) (data $a (i32.const 0) "abc") (func (data.drop $a)))"#);
        let split = split(&wasm).unwrap();
        wasmparser::validate(&split.stripped().unwrap()).unwrap();
        assert_eq!(split.memory, b"abc");
    }

    #[test]
    fn overlapping_segments_apply_in_order() {
        let wasm =
            wasm(r#"(module (memory 1) (data (i32.const 0) "aaaa") (data (i32.const 2) "bb"))"#);
        let split = split(&wasm).unwrap();
        assert_eq!(split.memory, b"aabb");
    }

    #[test]
    fn does_not_split_data_that_is_far_apart() {
        let at = |end: u64| {
            let text = format!(
                r#"(module (memory 8000) (data (i32.const 100) "abc") (data (i32.const {}) "xyz"))"#,
                end - 3
            );
            split(&wasm(&text)).map(|split| split.memory.len() as u64)
        };
        // From the first page on.
        let most = 100 + 2 * 6 + MAX_HOLES;
        assert_eq!(at(most), Some(most));
        assert_eq!(at(most + 1), None);
        assert_eq!(at(500 << 20), None);
    }

    #[test]
    fn does_not_split_memory_that_is_not_known() {
        for text in [
            r#"(module (import "a" "m" (memory 1)) (data (i32.const 0) "a"))"#,
            r#"(module (memory 1) (memory 1) (data (i32.const 0) "a"))"#,
            r#"(module (import "a" "g" (global $g i32)) (memory 1) (data (global.get $g) "a"))"#,
            r#"(module (memory 1) (data (i32.const 65535) "abc"))"#,
            "(module (memory 1))",
            "(module)",
        ] {
            assert!(split(&wasm(text)).is_none(), "{text}");
        }
    }

    /// The text of a module with one memory, data segments, and instructions that may name these.
    fn module_text() -> impl Strategy<Value = String> {
        let segment = (
            0u32..140_000,
            prop::collection::vec(any::<u8>(), 0..40),
            any::<bool>(),
        );
        let segments = prop::collection::vec(segment, 0..6);
        (1u32..3, segments, 0u32..3).prop_map(|(pages, segments, use_of_segments)| {
            let mut text = format!("(module (memory (export \"memory\") {pages})");
            for (at, bytes, is_active) in &segments {
                let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
                let offset = if *is_active {
                    format!("(i32.const {at})")
                } else {
                    String::new()
                };
                text += &format!("(data {offset} \"{bytes}\")");
            }
            let body = match use_of_segments {
                1 if !segments.is_empty() => "(data.drop 0)",
                2 if !segments.is_empty() => {
                    "(memory.init 0 (i32.const 1148) (i32.const 0) (i32.const 0))"
                }
                _ => "(drop (i32.const 1148))",
            };
            text + &format!("(func (export \"f\") {body}))")
        })
    }

    /// The memory that instantiation of a module gives, page by page; `None` if it traps.
    fn instantiated(engine: &wasmtime::Engine, wasm: &[u8]) -> Option<Vec<u8>> {
        let module = wasmtime::Module::new(engine, wasm).unwrap();
        let mut store = wasmtime::Store::new(engine, ());
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).ok()?;
        let memory = instance.get_memory(&mut store, "memory")?;
        Some(memory.data(&store).to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn image_and_stripped_module_equal_the_module(text in module_text()) {
            let wasm = wasm(&text);
            let engine = wasmtime::Engine::default();
            let expected = instantiated(&engine, &wasm);
            let Some(split) = split(&wasm) else { return Ok(()) };
            let stripped = split.stripped().unwrap();
            let mut memory = instantiated(&engine, &stripped).unwrap();
            memory[split.start..][..split.memory.len()].copy_from_slice(&split.memory);
            prop_assert!(Some(memory) == expected, "{text}");
        }

        #[test]
        fn stripped_module_validates_iff_the_module_does(
            text in module_text(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut wasm = wasm(&text);
            for (at, byte) in changes {
                let at = at.index(wasm.len());
                wasm[at] = byte;
            }
            let is_valid = wasmparser::validate(&wasm).is_ok();
            if let Some(stripped) = split(&wasm).and_then(|split| split.stripped()) {
                let stripped_is_valid = wasmparser::validate(&stripped).is_ok();
                prop_assert_eq!(is_valid, stripped_is_valid, "{:?}", wasm);
            }
        }
    }
}
