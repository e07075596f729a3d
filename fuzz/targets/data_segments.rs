//! Modules whose data segments become a memory image, and whose state is exported: the memory stays
//! the same, and what comes out is valid if and only if what went in is.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use wasm_smith::{Config, Module};
use wasmparser::{DataKind, Operator, Parser, Payload};

// Of the engine without wasmtime.
/// What modules are refused with. (The engine's own error holds wasmtime's.)
mod error {
    use std::error::Error;

    pub(crate) enum LoadErrorKind {
        InvalidModule,
    }
    pub(crate) struct LoadError;

    impl LoadError {
        pub(crate) fn new(_: LoadErrorKind, _: impl Into<String>) -> Self {
            Self
        }

        pub(crate) fn unsupported(_: impl Into<String>) -> Self {
            Self
        }

        pub(crate) fn caused_by(self, _: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
            self
        }
    }
}
#[allow(dead_code)]
#[path = "../../crates/engine/src/memory"]
mod memory {
    pub(crate) mod page;
}
#[path = "../../crates/engine/src/module"]
mod module {
    pub(crate) mod data_segments;
    pub(crate) mod export_state;
}

fuzz_target!(|bytes: &[u8]| {
    let _ = check(bytes);
});

fn check(bytes: &[u8]) -> Result<()> {
    // A module as it is, or one that the bytes choose, with some of its bytes changed.
    let wasm = if bytes.starts_with(b"\0asm") {
        bytes.to_vec()
    } else {
        let mut choices = Unstructured::new(bytes);
        let config = Config {
            bulk_memory_enabled: choices.ratio(3, 4)?,
            exceptions_enabled: false,
            gc_enabled: false,
            max_memories: choices.int_in_range(1..=2)?,
            memory64_enabled: false,
            min_memories: 1,
            max_memory32_bytes: 2 << 16,
            min_data_segments: 1,
            reference_types_enabled: choices.arbitrary()?,
            shared_everything_threads_enabled: false,
            threads_enabled: choices.ratio(1, 8)?,
            ..Config::default()
        };
        let mut wasm = Module::new(config, &mut choices)?.to_bytes();
        for _ in 0..choices.int_in_range(0..=2)? {
            let at = choices.choose_index(wasm.len())?;
            wasm[at] = choices.arbitrary()?;
        }
        wasm
    };
    let is_valid = wasmparser::validate(&wasm).is_ok();
    if let Some(split) = module::data_segments::split(&wasm)
        && let Some(stripped) = split.stripped()
    {
        assert_eq!(is_valid, wasmparser::validate(&stripped).is_ok(), "valid");
        let mut left = memory_of(&stripped, split.start + split.memory.len());
        left[split.start..].copy_from_slice(&split.memory);
        assert!(left == memory_of(&wasm, left.len()), "memory");
    }
    if let Ok(exposed) = module::export_state::expose(&wasm)
        && !contains(&wasm, b"wws.")
    {
        assert_eq!(is_valid, wasmparser::validate(&exposed).is_ok(), "exports");
    }
    Ok(())
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The first bytes of memory after the active segments of a module were copied.
fn memory_of(wasm: &[u8], len: usize) -> Vec<u8> {
    let mut memory = vec![0; len];
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(Payload::DataSection(segments)) = payload else {
            continue;
        };
        for segment in segments {
            let segment = segment.expect("a segment");
            let DataKind::Active { offset_expr, .. } = segment.kind else {
                continue;
            };
            let offset = offset_expr.get_operators_reader().read();
            let Ok(Operator::I32Const { value }) = offset else {
                panic!("an address that is not known");
            };
            let at = usize::try_from(value.cast_unsigned()).expect("64 bits");
            if !segment.data.is_empty() {
                memory[at..at + segment.data.len()].copy_from_slice(segment.data);
            }
        }
    }
    memory
}
