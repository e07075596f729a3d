//! Locates the interpreters that become part of the binary, or says how to fetch them, and widens
//! QuickJS's stack frames.

use std::{
    env, fs,
    ops::Range,
    path::{Path, PathBuf},
    process::exit,
};

use wasmparser::{BinaryReaderError, ExternalKind, FunctionBody, Operator, Parser, Payload};

const QUICKJS: &str = "quickjs/quickjs.wasm";
const FILES: [&str; 2] = [QUICKJS, "web-streams/polyfill.js"];

/// Bytes by which each frame on the stack in QuickJS's memory is widened; a multiple of its
/// alignment.
///
/// QuickJS measures the depth of calls by that stack. Its own recursive functions (the parser,
/// JSON) use little of it and much more of the native stack, which would overflow first: that is a
/// trap, and not an error that a program can catch.
const WIDER: i32 = 128;

/// If fewer functions have a frame of the known form, the compiler has generated other ones than
/// before.
const MIN_FRAMES: usize = 400;

fn main() {
    let crate_directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let directory = Path::new(&crate_directory).join("../../target/interpreters");
    println!("cargo:rerun-if-changed=build.rs");
    for file in FILES {
        let path = directory.join(file);
        println!("cargo:rerun-if-changed={}", path.display());
        if !path.is_file() {
            eprintln!("target/interpreters/{file} is not there: run scripts/interpreters.sh first");
            exit(1);
        }
    }
    println!("cargo:rustc-env=WWS_INTERPRETERS={}", directory.display());
    let out = PathBuf::from(env::var("OUT_DIR").unwrap_or_default()).join("quickjs.wasm");
    let written = fs::read(directory.join(QUICKJS))
        .map_err(|error| error.to_string())
        .and_then(|wasm| widen_frames(&wasm))
        .and_then(|wasm| fs::write(out, wasm).map_err(|error| error.to_string()));
    if let Err(error) = written {
        eprintln!("target/interpreters/{QUICKJS}: {error}");
        exit(1);
    }
}

/// A module whose functions have frames that are [`WIDER`] bytes wider.
fn widen_frames(wasm: &[u8]) -> Result<Vec<u8>, String> {
    let invalid = |error: BinaryReaderError| error.to_string();
    let (mut pointer, mut section, mut bodies) = (None, None, Vec::new());
    let (mut frames, mut count) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    if export.kind == ExternalKind::Global && export.name == "__stack_pointer" {
                        pointer = Some(export.index);
                    }
                }
            }
            Payload::CodeSectionStart {
                range, count: all, ..
            } => {
                section = Some(range);
                count = all;
            }
            Payload::CodeSectionEntry(body) => {
                let pointer = pointer.ok_or("it does not export its stack pointer")?;
                let sizes = frame_sizes(&body, pointer).map_err(invalid)?;
                frames += usize::from(!sizes.is_empty());
                let mut bytes = Vec::new();
                let mut from = body.range().start;
                for (range, size) in sizes {
                    bytes.extend_from_slice(&wasm[from..range.start]);
                    bytes.push(0x41);
                    signed_leb128(&mut bytes, size + size.signum() * WIDER);
                    from = range.end;
                }
                bytes.extend_from_slice(&wasm[from..body.range().end]);
                leb128(&mut bodies, bytes.len());
                bodies.extend(bytes);
            }
            _ => {}
        }
    }
    if frames < MIN_FRAMES {
        return Err(format!(
            "only {frames} functions have frames of the known shape"
        ));
    }
    let section = section.ok_or("it has no code")?;
    // The number and size of the section precede it.
    let header = (1..=6)
        .find(|back| {
            let mut size = Vec::new();
            leb128(&mut size, section.len());
            size.insert(0, 10);
            wasm.get(section.start - back..section.start) == Some(&size)
        })
        .ok_or("its code section does not begin as it should")?;
    let mut content = Vec::new();
    leb128(&mut content, count as usize);
    content.extend(bodies);
    let mut out = wasm[..section.start - header].to_vec();
    out.push(10);
    leb128(&mut out, content.len());
    out.extend(content);
    out.extend_from_slice(&wasm[section.end..]);
    Ok(out)
}

/// The places where a function names the size of its frame (when it allocates the frame, and each
/// time it frees it), and that size. Nothing if it has no frame, or one of variable size.
fn frame_sizes(
    body: &FunctionBody<'_>,
    pointer: u32,
) -> Result<Vec<(Range<usize>, i32)>, BinaryReaderError> {
    let mut operators = Vec::new();
    for operator in body.get_operators_reader()?.into_iter_with_offsets() {
        operators.push(operator?);
    }
    let at = |index: usize| operators.get(index).map(|(operator, _)| operator);
    // A number and whether it is added or subtracted: the change of the stack pointer.
    let moves = |index: usize| match (at(index)?, at(index + 1)?) {
        (Operator::I32Const { value }, Operator::I32Add) => Some((*value, *value)),
        (Operator::I32Const { value }, Operator::I32Sub) => Some((*value, -*value)),
        _ => None,
    };
    let place = |index: usize| operators[index].1..operators[index + 1].1;
    let (
        Some(Operator::GlobalGet { global_index }),
        Some((first, by)),
        Some(Operator::LocalTee { local_index: frame }),
    ) = (at(0), moves(1), at(3))
    else {
        return Ok(Vec::new());
    };
    let is_set = |index| match at(index) {
        Some(Operator::GlobalSet { global_index }) => *global_index == pointer,
        _ => false,
    };
    if *global_index != pointer || by >= 0 || !is_set(4) {
        return Ok(Vec::new());
    }
    let mut sizes = vec![(place(1), first)];
    for index in 5..operators.len() {
        match at(index) {
            Some(Operator::LocalSet { local_index } | Operator::LocalTee { local_index })
                if local_index == frame =>
            {
                return Ok(Vec::new());
            }
            _ if is_set(index) => {
                let is_frame = match at(index - 3) {
                    Some(Operator::LocalGet { local_index }) => local_index == frame,
                    _ => false,
                };
                match moves(index - 2) {
                    Some((number, back)) if is_frame && back == -by => {
                        sizes.push((place(index - 2), number));
                    }
                    _ => return Ok(Vec::new()),
                }
            }
            _ => {}
        }
    }
    Ok(sizes)
}

fn leb128(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn signed_leb128(out: &mut Vec<u8>, mut number: i32) {
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        let is_last = (number == 0 && byte & 0x40 == 0) || (number == -1 && byte & 0x40 != 0);
        out.push(if is_last { byte } else { byte | 0x80 });
        if is_last {
            return;
        }
    }
}
