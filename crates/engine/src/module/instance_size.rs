//! What an instance of a module costs the host.

use wasmparser::{Parser, Payload};

/// Upper bound of what an instance costs besides its memory and tables, in bytes: wasmtime's
/// `VMContext`.
pub(crate) fn instance_size(wasm: &[u8]) -> u64 {
    // Bytes of a global, of a function that may be pointed to, and of an import.
    const GLOBAL: u64 = 16;
    const FUNCTION: u64 = 32;
    const IMPORT: u64 = 64;
    let mut size = 16 << 10;
    for payload in Parser::new(0).parse_all(wasm) {
        size += match payload {
            Ok(Payload::ImportSection(imports)) => u64::from(imports.count()) * IMPORT,
            Ok(Payload::FunctionSection(functions)) => u64::from(functions.count()) * FUNCTION,
            Ok(Payload::GlobalSection(globals)) => u64::from(globals.count()) * GLOBAL,
            // No later section counts.
            Ok(Payload::CodeSectionStart { .. }) | Err(_) => break,
            Ok(_) => 0,
        };
    }
    size
}
