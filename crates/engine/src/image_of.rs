//! Takes a module's initial memory out of it: an image, and the module without those bytes.
//!
//! A fresh instance then costs no copying of data segments: its memory is the image, copy-on-write.

use std::ops::Range;

use wasmparser::{Data, DataKind, DataSectionReader, Operator, Parser, Payload};

use crate::memory::PAGE;

/// Linear memory is counted in such pages.
pub(crate) const WASM_PAGE: u64 = 65_536;

/// An image larger than this stays in its segments; it would be held twice, in the file and in the process.
const MAX_IMAGE: u64 = 1 << 30;

/// What a module's memory starts with.
pub(crate) struct Split<'w> {
    wasm: &'w [u8],
    /// Where in linear memory the bytes begin.
    pub(crate) start: usize,
    /// Linear memory from there to the end of the last segment.
    pub(crate) memory: Vec<u8>,
    /// The body of the section of data segments, and of the one that counts them.
    data: DataSectionReader<'w>,
    count: Option<Range<usize>>,
}

/// An active segment: where it goes, and its bytes.
struct Segment<'w> {
    at: usize,
    bytes: &'w [u8],
}

/// Splits a validated module. `None`: its memory cannot be known before it runs (several memories, an imported one, segments
/// at addresses that are computed); such a module is instantiated segment by segment.
pub(crate) fn split(wasm: &[u8]) -> Option<Split<'_>> {
    let (mut limit, mut data, mut count) = (None, None, None);
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
            Payload::DataCountSection { range, .. } => count = Some(range),
            Payload::DataSection(segments) => data = Some(segments),
            _ => {}
        }
    }
    let data = data?;
    let limit = limit?;
    let (mut start, mut end) = (usize::MAX, 0);
    for segment in data.clone() {
        if let Some(segment) = active(&segment.ok()?, limit).ok()? {
            start = start.min(segment.at);
            end = end.max(segment.at + segment.bytes.len());
        }
    }
    if end == 0 {
        return None;
    }
    // Whole pages, as they are mapped.
    start = start / PAGE * PAGE;
    let mut memory = vec![0; end - start];
    for segment in data.clone() {
        if let Some(Segment { at, bytes }) = active(&segment.ok()?, limit).ok()? {
            memory[at - start..at - start + bytes.len()].copy_from_slice(bytes);
        }
    }
    Some(Split {
        wasm,
        start,
        memory,
        data,
        count,
    })
}

/// A segment whose place is not known before the module runs.
struct Unknown;

/// What instantiation copies of a segment, if it has bytes and is not passive.
fn active<'w>(segment: &Data<'w>, limit: u64) -> Result<Option<Segment<'w>>, Unknown> {
    let DataKind::Active {
        memory_index,
        offset_expr,
    } = &segment.kind
    else {
        return Ok(None);
    };
    let mut operators = offset_expr.get_operators_reader();
    let Ok(Operator::I32Const { value }) = operators.read() else {
        return Err(Unknown);
    };
    if *memory_index != 0 || !matches!(operators.read(), Ok(Operator::End)) {
        return Err(Unknown);
    }
    let at = u64::from(value.cast_unsigned());
    let end = at.saturating_add(segment.data.len() as u64);
    // Out of bounds: instantiation must trap, so leave it to wasmtime.
    if end > limit || end > MAX_IMAGE {
        return Err(Unknown);
    }
    Ok((!segment.data.is_empty()).then_some(Segment {
        at: usize::try_from(at).map_err(|_| Unknown)?,
        bytes: segment.data,
    }))
}

impl Split<'_> {
    /// The module without its active data segments, or with these emptied where instructions may name segments: what is compiled.
    pub(crate) fn stripped(&self) -> Option<Vec<u8>> {
        let wasm = self.wasm;
        // Instantiation spends time on each segment that is left, and interpreters have tens of thousands.
        let keep = names_segments(wasm)?;
        let mut body = Vec::new();
        leb128(
            &mut body,
            if keep {
                u64::from(self.data.count())
            } else {
                0
            },
        );
        for segment in self.data.clone().into_iter().filter(|_| keep) {
            let segment = segment.ok()?;
            match segment.kind {
                DataKind::Passive => body.extend_from_slice(wasm.get(segment.range)?),
                // Active, memory 0, `i32.const 0 end`, no bytes: indices of later segments stay.
                DataKind::Active { .. } => body.extend_from_slice(&[0x00, 0x41, 0x00, 0x0b, 0x00]),
            }
        }
        // Everything but these two sections goes as it is, with the header of the data section written anew.
        let mut out = Vec::with_capacity(wasm.len());
        let mut copied = 0;
        if let Some(count) = self.count.clone().filter(|_| !keep) {
            let header = section_header_len(wasm, count.start, count.end, 12)?;
            out.extend_from_slice(wasm.get(..count.start - header)?);
            copied = count.end;
        }
        let data = self.data.range();
        let header = section_header_len(wasm, data.start, data.end, 11)?;
        out.extend_from_slice(wasm.get(copied..data.start - header)?);
        out.push(11);
        leb128(&mut out, body.len() as u64);
        out.extend_from_slice(&body);
        out.extend_from_slice(wasm.get(data.end..)?);
        Some(out)
    }
}

/// Whether these bytes may be the rest of an instruction that names a data segment: 8 or 9 as LEB128, which may be padded.
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
        // Numbers can look alike; then the function is read.
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

/// Bytes before a section's body: its id and its size as LEB128 of any allowed length.
pub(crate) fn section_header_len(wasm: &[u8], from: usize, to: usize, id: u8) -> Option<usize> {
    let size = to.checked_sub(from)? as u64;
    (2..=6).find(|len| {
        let Some(header) = from.checked_sub(*len).and_then(|at| wasm.get(at..from)) else {
            return false;
        };
        let mut value = 0u64;
        for (i, byte) in header[1..].iter().enumerate() {
            let last = i + 2 == *len;
            if (byte & 0x80 == 0) != last {
                return false;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
        }
        header[0] == id && value == size
    })
}

pub(crate) fn leb128(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn active_segments_become_the_image_and_the_module_stays_valid() {
        let wasm = wasm(
            r#"(module (memory (export "memory") 2)
                 (data (i32.const 5000) "abc") (data $passive "keep me") (data (i32.const 70000) "end") (data (i32.const 0) "")
                 (func (export "f") (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 4))))"#,
        );
        let split = split(&wasm).unwrap();
        assert_eq!((split.start, split.memory.len()), (4096, 70003 - 4096));
        assert_eq!(&split.memory[5000 - 4096..][..3], b"abc");
        assert_eq!(&split.memory[70000 - 4096..], b"end");
        let stripped = split.stripped().unwrap();
        wasmparser::validate(&stripped).unwrap();
        let text = String::from_utf8_lossy(&stripped).into_owned();
        assert!(text.contains("keep me") && !text.contains("abc"));
    }

    #[test]
    fn segments_that_nothing_names_are_left_out() {
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
    fn segments_that_are_dropped_by_name_stay() {
        let wasm =
            wasm(r#"(module (memory 1) (data $a (i32.const 0) "abc") (func (data.drop $a)))"#);
        let split = split(&wasm).unwrap();
        wasmparser::validate(&split.stripped().unwrap()).unwrap();
        assert_eq!(split.memory, b"abc");
    }

    #[test]
    fn later_segments_win_where_they_overlap() {
        let wasm =
            wasm(r#"(module (memory 1) (data (i32.const 0) "aaaa") (data (i32.const 2) "bb"))"#);
        let split = split(&wasm).unwrap();
        assert_eq!(split.memory, b"aabb");
    }

    #[test]
    fn memory_that_cannot_be_known_is_left_alone() {
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
}
