//! Modules and components: checked, compiled, and split into code and the images of their initial
//! memories.

pub(crate) mod component;
pub(crate) mod data_segments;
pub(crate) mod export_state;
pub(crate) mod instance_size;
pub(crate) mod instantiable;

use std::sync::Arc;

use wasmparser::{Parser, Payload};
use wasmtime::ModuleExport;

use crate::error::{LoadError, LoadErrorKind, WasmError};
use crate::memory::image::MemoryImage;
use crate::memory::mapping::release_file_pages;
use crate::memory::page::WASM_PAGE;
use crate::memory::pool::PooledImage;
use crate::module::component::Component;
use crate::module::instance_size::instance_size;

/// Largest module that is compiled, in bytes.
const MAX_MODULE: usize = 512 << 20;

/// Most functions of a module. The compiler takes some kilobytes for each, even for an empty one;
/// Python's interpreter has 13,000.
const MAX_FUNCTIONS: u64 = 100_000;

/// The function that answers a request in a module that was initialised before.
const HANDLER: &str = "wws_handle";

/// The function that initialises a reactor.
pub(crate) const INITIALIZE: &str = "_initialize";

/// What a file was compiled to. Cheap to clone.
#[derive(Clone)]
pub struct Code(pub(crate) CodeKind);

/// What a file holds.
#[derive(Clone)]
pub(crate) enum CodeKind {
    Module(Module),
    Component(Component),
}

impl Code {
    /// Whether the file is a component.
    #[must_use]
    pub fn is_component(&self) -> bool {
        matches!(self.0, CodeKind::Component(_))
    }
}

/// Bytes of memory that compiling a module, or all modules of a component, with so many threads
/// takes at most: an estimate, from what the interpreters and workers of the tests take. Register
/// allocation of a large function takes more than in proportion to its size.
#[must_use]
pub fn compile_memory(wasm: &[u8], threads: usize) -> u64 {
    const BASE: u64 = 8 << 20;
    const PER_BYTE: u64 = 28;
    const PER_SQUARE: u64 = 60;
    let (mut code, mut functions) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::CodeSectionEntry(body)) => {
                let size = body.range().len() as u64;
                code += size;
                functions.push(size);
            }
            Ok(_) => {}
            // The compiler reports what it is.
            Err(_) => break,
        }
    }
    functions.sort_unstable_by(|one, other| other.cmp(one));
    let largest = functions.iter().take(threads);
    let large: u64 = largest.map(|size| size * size / PER_SQUARE).sum();
    BASE + wasm.len() as u64 + PER_BYTE * code + large
}

/// A compiled module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Module {
    pub(crate) code: wasmtime::Module,
    code_place: CodePlace,
    pub(crate) image: Arc<PooledImage>,
    /// The first size of the memory, in bytes.
    pub(crate) minimum_memory: u64,
    /// The exported function that runs the program.
    pub(crate) entry: ModuleExport,
    /// The exported memory.
    pub(crate) memory: ModuleExport,
    /// What an instance costs besides its memory and tables, in bytes.
    pub(crate) instance_size: u64,
    /// Whether `_initialize` runs before the entry, and whether its state can be kept.
    pub(crate) initialiser: Option<Initialiser>,
}

/// Where the machine code of a module lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodePlace {
    /// In a mapped file of the code cache.
    File,
    /// In memory of this process alone.
    Memory,
}

impl CodePlace {
    /// The place of code that was loaded from the code cache, or else compiled.
    pub(crate) fn of(cached: Option<&wasmtime::Module>) -> Self {
        match cached {
            Some(_) => Self::File,
            None => Self::Memory,
        }
    }

    /// Returns the pages of the code to the system, if the page cache has them as well.
    pub(crate) fn release(self, code: &wasmtime::Module) {
        if self == Self::File {
            // SAFETY: `release_file_pages` asks for pages of a file that is never written to. The
            // cache loads code by mapping its file, read-only from then on; nobody changes the
            // files of the cache.
            unsafe { release_file_pages(code.image_range()) };
        }
    }
}

/// What a module does before it answers a request.
#[derive(Clone)]
pub(crate) enum Initialiser {
    /// Its state can be kept: the mutable globals are exported.
    Exposed,
    /// A snapshot cannot hold its state.
    Hidden(Arc<LoadError>),
}

impl Module {
    /// Compiles a module, or takes its `code` if that was compiled before.
    pub(crate) fn new(
        engine: &wasmtime::Engine,
        wasm: &[u8],
        code: Option<wasmtime::Module>,
    ) -> Result<Self, LoadError> {
        check_header(wasm)?;
        let code_place = CodePlace::of(code.as_ref());
        let exposed = is_handler(wasm).then(|| export_state::expose(wasm));
        let source = match (&exposed, &code) {
            (Some(Ok(exposed)), None) => exposed.as_slice(),
            _ => wasm,
        };
        let (module, image) = compile(engine, source, code)?;
        instantiable::check_segments(wasm)?;
        let initialiser = exposed.map(|exposed| match exposed {
            Ok(_) => Initialiser::Exposed,
            Err(error) => Initialiser::Hidden(Arc::new(error)),
        });
        // Another reactor runs in `_initialize`: Zig's kit for Wasm Workers Server 0.x calls `main`
        // there.
        let entries = match initialiser {
            Some(_) => [HANDLER, HANDLER],
            None => ["_start", INITIALIZE],
        };
        let Some((name, ty, entry)) = entries.into_iter().find_map(|name| {
            let ty = module.get_export(name)?.func().cloned()?;
            Some((name, ty, module.get_export_index(name)?))
        }) else {
            return Err(LoadError::unsupported(
                "it exports no function `_start`: build it as a WASI command (a program with \
                 `main`), not as a library",
            ));
        };
        if ty.params().len() != 0 || ty.results().len() != 0 {
            return Err(LoadError::unsupported(format!(
                "its function `{name}` has parameters or results"
            )));
        }
        let exported_memory = || {
            let ty = module.get_export("memory")?.memory().cloned()?;
            Some((ty, module.get_export_index("memory")?))
        };
        let Some((memory, memory_export)) = exported_memory() else {
            return Err(LoadError::unsupported(
                "it exports no memory named `memory`",
            ));
        };
        if memory.is_shared() {
            return Err(LoadError::unsupported(
                "its memory is shared: threads are not supported",
            ));
        }
        Ok(Module {
            minimum_memory: memory.minimum().saturating_mul(WASM_PAGE),
            instance_size: instance_size(wasm),
            code: module,
            code_place,
            image,
            entry,
            memory: memory_export,
            initialiser,
        })
    }

    /// Returns the pages of the code to the system: they are mapped again when they run.
    pub(crate) fn release_code(&self) {
        self.code_place.release(&self.code);
    }
}

/// Whether a module has a function that answers a request after it was initialised.
fn is_handler(wasm: &[u8]) -> bool {
    let sections = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let exports = sections.filter_map(|payload| match payload {
        Payload::ExportSection(exports) => Some(exports),
        _ => None,
    });
    let names = exports.flat_map(|exports| exports.into_iter().flatten());
    let is_needed = |name: &str| name == HANDLER || name == INITIALIZE;
    names.filter(|export| is_needed(export.name)).count() == 2
}

/// Returns a module's code, compiled now if `code` is `None`, and the image of its initial memory.
pub(crate) fn compile(
    engine: &wasmtime::Engine,
    wasm: &[u8],
    code: Option<wasmtime::Module>,
) -> Result<(wasmtime::Module, Arc<PooledImage>), LoadError> {
    let split = data_segments::split(wasm);
    let module = match code {
        Some(code) => code,
        None => {
            let stripped = split
                .as_ref()
                .and_then(data_segments::SplitModule::stripped);
            wasmtime::Module::new(engine, stripped.as_deref().unwrap_or(wasm)).map_err(invalid)?
        }
    };
    let image = match &split {
        Some(split) => MemoryImage::new(split.start, &split.memory)
            .map_err(|error| LoadError::host("no memory for the module's data").caused_by(error))?,
        // Instantiation copies the data segments into zeros. Waiting slots need an image to wait
        // with.
        None => MemoryImage::zero(),
    };
    Ok((module, Arc::new(PooledImage::new(image))))
}

/// Compiles a module to what a code cache keeps.
pub(crate) fn precompile(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    check_header(wasm)?;
    let exposed = is_handler(wasm).then(|| export_state::expose(wasm).ok());
    let exposed = exposed.flatten();
    let wasm = exposed.as_deref().unwrap_or(wasm);
    let stripped = data_segments::split(wasm).and_then(|split| split.stripped());
    engine
        .precompile_module(stripped.as_deref().unwrap_or(wasm))
        .map_err(invalid)
}

/// Rejects a module whose functions would take gigabytes while they are compiled, however small
/// they are.
fn check_functions(wasm: &[u8]) -> Result<(), LoadError> {
    let functions = Parser::new(0).parse_all(wasm).map_while(Result::ok).fold(
        0u64,
        |sum, payload| match payload {
            Payload::FunctionSection(section) => sum + u64::from(section.count()),
            _ => sum,
        },
    );
    if functions > MAX_FUNCTIONS {
        return Err(LoadError::limit(format!(
            "it has {functions} functions, and can have {MAX_FUNCTIONS}: leave out what the worker \
             does not need"
        )));
    }
    Ok(())
}

fn invalid(error: wasmtime::Error) -> LoadError {
    LoadError::new(
        LoadErrorKind::InvalidModule,
        "not a valid WebAssembly module",
    )
    .caused_by(WasmError::in_order(error))
}

fn not_a_module(message: impl Into<String>) -> LoadError {
    LoadError::new(LoadErrorKind::NotAModule, message)
}

/// Rejects what is not WebAssembly, or too large to be compiled.
pub(crate) fn check_header(wasm: &[u8]) -> Result<(), LoadError> {
    if wasm.len() > MAX_MODULE {
        return Err(LoadError::limit(format!("larger than {MAX_MODULE} bytes")));
    }
    match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => check_functions(wasm),
        _ if component::is_component(wasm) => check_functions(wasm),
        [] => Err(not_a_module("an empty file, not WebAssembly")),
        _ => Err(not_a_module(format!(
            "not WebAssembly: a module begins with 00 61 73 6d 01 00 00 00, this file with {:02x?}",
            &wasm[..wasm.len().min(8)]
        ))),
    }
}
