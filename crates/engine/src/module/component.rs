//! Components: what they are called as, compiled, and split into code and the images of the
//! memories of the modules in them.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use wasm_encoder::RawSection;
use wasmparser::{CanonicalFunction, CanonicalOption, Encoding, Parser, Payload};

use crate::error::{LoadError, LoadErrorKind, WasmError};
use crate::memory::image::MemoryImage;
use crate::memory::page::WASM_PAGE;
use crate::memory::pool::{ExpectedMemory, PooledImage};
use crate::module::data_segments;
use crate::module::instance_size::instance_size;

/// How deep components may contain components.
const MAX_DEPTH: usize = 16;

/// Bytes that an instance of a component costs besides its modules' instances.
const COMPONENT_INSTANCE: u64 = 64 << 10;

/// What a component is called as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// It exports `wasi:http/incoming-handler` 0.2.
    Http,
    /// It exports `wasi:http/handler` 0.3.
    AsyncHttp,
    /// It exports `wasi:cli/run` 0.2: a program that speaks the worker protocol.
    Command,
}

/// A compiled component. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Component {
    pub(crate) code: wasmtime::component::Component,
    pub(crate) world: World,
    /// Whether it runs in the engine for functions that run at once ([`is_async`]).
    pub(crate) is_async: bool,
    /// The memories of its modules.
    pub(crate) memories: Arc<[ExpectedMemory]>,
    /// Bytes of memory that an instance starts with.
    pub(crate) minimum_memory: u64,
    /// What an instance costs besides its memories and tables, in bytes.
    pub(crate) instance_size: u64,
    /// Whether texts are copied when a function of the host is called, before they are charged.
    pub(crate) copies_texts: bool,
}

impl Component {
    /// Compiles a component, or takes its `code` if that was compiled before.
    pub(crate) fn new(
        engine: &wasmtime::Engine,
        wasm: &[u8],
        code: Option<wasmtime::component::Component>,
    ) -> Result<Self, LoadError> {
        let (world, is_async) = (world(wasm)?, is_async(wasm));
        let modules = modules(wasm);
        let split = splits(&modules);
        let code = match code {
            Some(code) => code,
            None => {
                let stripped = stripped(wasm, &split, 0);
                let wasm = stripped.as_deref().unwrap_or(wasm);
                wasmtime::component::Component::new(engine, wasm).map_err(invalid)?
            }
        };
        let mut memories = Vec::new();
        for module in &split {
            let image = match &module.split {
                Some(split) => MemoryImage::new(split.start, &split.memory).map_err(|error| {
                    LoadError::host("no memory for the component's data").caused_by(error)
                })?,
                None => MemoryImage::zero(),
            };
            memories.push(ExpectedMemory {
                minimum: module.minimum,
                image: Arc::new(PooledImage::new(image)),
            });
        }
        let instances: u64 = modules.iter().map(|module| instance_size(module)).sum();
        Ok(Self {
            code,
            world,
            is_async,
            minimum_memory: split.iter().map(|module| module.minimum as u64).sum(),
            memories: memories.into(),
            instance_size: instances + COMPONENT_INSTANCE,
            copies_texts: is_async || has_other_encodings(wasm),
        })
    }
}

/// Compiles a component to what a code cache keeps.
pub(crate) fn precompile(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let modules = modules(wasm);
    let stripped = stripped(wasm, &splits(&modules), 0);
    engine
        .precompile_component(stripped.as_deref().unwrap_or(wasm))
        .map_err(invalid)
}

/// Whether `wasm` begins as a component.
pub(crate) fn is_component(wasm: &[u8]) -> bool {
    matches!(wasm, [0, b'a', b's', b'm', _, 0, 1, 0, ..])
}

/// Whether a component imports or exports interfaces of WASI 0.3, whose functions are asynchronous.
pub(crate) fn is_async(wasm: &[u8]) -> bool {
    let names = interface_names(wasm);
    names
        .iter()
        .any(|name| name.name.starts_with("wasi:") && name.name.contains("@0.3."))
}

/// The name of something that a component imports or exports.
struct InterfaceName {
    name: String,
    is_export: bool,
}

/// What a component imports and exports.
fn interface_names(wasm: &[u8]) -> Vec<InterfaceName> {
    let mut names = Vec::new();
    for payload in sections(wasm).map_while(|payload| payload) {
        match payload {
            Payload::ComponentImportSection(imports) => {
                names.extend(imports.into_iter().flatten().map(|import| InterfaceName {
                    name: import.name.name.to_owned(),
                    is_export: false,
                }));
            }
            Payload::ComponentExportSection(exports) => {
                names.extend(exports.into_iter().flatten().map(|export| InterfaceName {
                    name: export.name.name.to_owned(),
                    is_export: true,
                }));
            }
            _ => {}
        }
    }
    names
}

/// The sections of a component, without those of what is nested in it. `None` where it is not
/// valid.
fn sections(wasm: &[u8]) -> impl Iterator<Item = Option<Payload<'_>>> {
    let mut parser = Parser::new(0);
    let mut at = Some(0);
    iter::from_fn(move || {
        let begin = at.take()?;
        let parsed = wasm
            .get(begin..)
            .and_then(|rest| parser.parse(rest, true).ok());
        let Some(wasmparser::Chunk::Parsed { consumed, payload }) = parsed else {
            return Some(None);
        };
        at = match &payload {
            Payload::End(_) => None,
            // The parser goes on behind what is nested.
            Payload::ModuleSection {
                unchecked_range, ..
            }
            | Payload::ComponentSection {
                unchecked_range, ..
            } => Some(unchecked_range.end),
            _ => Some(begin + consumed),
        };
        Some(Some(payload))
    })
}

/// What a component is called as.
fn world(wasm: &[u8]) -> Result<World, LoadError> {
    let names = interface_names(wasm);
    let exports: Vec<&str> = names
        .iter()
        .filter(|name| name.is_export)
        .map(|name| name.name.as_str())
        .collect();
    let has = |interface: &str| exports.iter().any(|name| name.starts_with(interface));
    if has("wasi:http/incoming-handler@0.2.") {
        return Ok(World::Http);
    }
    if has("wasi:http/handler@0.3.") {
        return Ok(World::AsyncHttp);
    }
    if has("wasi:cli/run@0.2.") {
        return Ok(World::Command);
    }
    let found = match exports.as_slice() {
        [] => "it exports nothing".to_owned(),
        exports => format!("it exports {}", list(exports)),
    };
    Err(LoadError::unsupported(format!(
        "a component of another kind: {found}; a worker exports \
         `wasi:http/incoming-handler@0.2.x`, `wasi:http/handler@0.3.x`, or `wasi:cli/run@0.2.x` (a \
         program that prints a response)"
    )))
}

fn list(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Whether any texts are not UTF-8.
fn has_other_encodings(wasm: &[u8]) -> bool {
    let is_other = |option: &CanonicalOption| {
        matches!(
            option,
            CanonicalOption::UTF16 | CanonicalOption::CompactUTF16
        )
    };
    Parser::new(0)
        .parse_all(wasm)
        .map_while(Result::ok)
        .any(|payload| match payload {
            Payload::ComponentCanonicalSection(functions) => {
                functions
                    .into_iter()
                    .flatten()
                    .any(|function| match function {
                        CanonicalFunction::Lift { options, .. }
                        | CanonicalFunction::Lower { options, .. } => options.iter().any(is_other),
                        _ => false,
                    })
            }
            _ => false,
        })
}

/// The modules in a component and in the components in it.
fn modules(wasm: &[u8]) -> Vec<&[u8]> {
    let mut modules = Vec::new();
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        if let Payload::ModuleSection {
            unchecked_range, ..
        } = payload
            && let Some(module) = wasm.get(unchecked_range)
        {
            modules.push(module);
        }
    }
    modules
}

/// A module in a component that has a memory.
struct ModuleMemory<'w> {
    module: &'w [u8],
    /// Bytes that the memory starts with.
    minimum: usize,
    /// `None` if the data segments stay in the module.
    split: Option<data_segments::SplitModule<'w>>,
}

/// The modules with a memory, and how they are split. An instance's memories are told apart by the
/// size that they start with, so modules that start with the same size stay as they are.
fn splits<'w>(modules: &[&'w [u8]]) -> Vec<ModuleMemory<'w>> {
    let mut found: Vec<ModuleMemory<'w>> = Vec::new();
    for module in modules {
        let Some(minimum) = minimum_memory(module) else {
            continue;
        };
        match found.iter_mut().find(|found| found.minimum == minimum) {
            // The very same module gives the very same memory.
            Some(same) if same.module == *module => {}
            Some(same) => same.split = None,
            None => found.push(ModuleMemory {
                module,
                minimum,
                split: data_segments::split(module),
            }),
        }
    }
    found
}

/// Bytes that a module's own memory starts with.
fn minimum_memory(module: &[u8]) -> Option<usize> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::MemorySection(memories) = payload.ok()? {
            let memory = memories.into_iter().next()?.ok()?;
            let bytes = memory.initial.checked_mul(WASM_PAGE)?;
            return usize::try_from(bytes).ok();
        }
    }
    None
}

/// A component without the data segments of the modules that were split. `None` if it is as it was,
/// or is not valid.
fn stripped(wasm: &[u8], split: &[ModuleMemory<'_>], depth: usize) -> Option<Vec<u8>> {
    const MODULE: u8 = 1;
    const COMPONENT: u8 = 4;
    if depth > MAX_DEPTH {
        return None;
    }
    let mut out = wasm_encoder::Component::new();
    let mut changed = false;
    let nested = |range: &Range<usize>| wasm.get(range.clone());
    for payload in sections(wasm) {
        match &payload? {
            Payload::Version { encoding, .. } if *encoding != Encoding::Component => return None,
            Payload::Version { .. } | Payload::End(_) => {}
            Payload::ModuleSection {
                unchecked_range, ..
            } => {
                let module = nested(unchecked_range)?;
                let split = split
                    .iter()
                    .filter_map(|found| found.split.as_ref().map(|split| (found.module, split)))
                    .find(|(found, _)| *found == module);
                let data = split.and_then(|(_, split)| split.stripped());
                changed |= data.is_some();
                out.section(&RawSection {
                    id: MODULE,
                    data: data.as_deref().unwrap_or(module),
                });
            }
            Payload::ComponentSection {
                unchecked_range, ..
            } => {
                let component = nested(unchecked_range)?;
                let data = stripped(component, split, depth + 1);
                changed |= data.is_some();
                out.section(&RawSection {
                    id: COMPONENT,
                    data: data.as_deref().unwrap_or(component),
                });
            }
            other => {
                let (id, range) = other.as_section()?;
                out.section(&RawSection {
                    id,
                    data: nested(&range)?,
                });
            }
        }
    }
    changed.then(|| out.finish())
}

fn invalid(error: wasmtime::Error) -> LoadError {
    LoadError::new(
        LoadErrorKind::InvalidModule,
        "not a valid WebAssembly component",
    )
    .caused_by(WasmError::in_order(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::page::page_size;

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    /// A module with a memory of so many pages and `data` at its second page.
    fn module(pages: u32, data: &str) -> String {
        format!(
            r#"(core module $m (memory (export "memory") {pages}) (data (i32.const 65536) "{data}")
                 (func (export "run") (result i32) (i32.const 0)))"#
        )
    }

    /// A command whose modules lie in components that it consists of.
    fn nested(outer: &str, inner: &str) -> Vec<u8> {
        wasm(&format!(
            r#"(component
                 (component $one
                   (component $two {inner} (core instance (instantiate $m)))
                   (instance (instantiate $two))
                   {outer}
                   (core instance $i (instantiate $m))
                   (func (export "run") (result (result)) (canon lift (core func $i "run"))))
                 (instance $one (instantiate $one))
                 (instance $cli (export "run" (func $one "run")))
                 (export "wasi:cli/run@0.2.0" (instance $cli)))"#
        ))
    }

    fn engine() -> wasmtime::Engine {
        wasmtime::Engine::default()
    }

    /// Whether the bytes of `data` are part of `wasm`.
    fn has(wasm: &[u8], data: &str) -> bool {
        wasm.windows(data.len()).any(|part| part == data.as_bytes())
    }

    #[test]
    fn moves_data_of_nested_components_to_images() {
        let wasm = nested(&module(2, "outer data"), &module(3, "inner data"));
        let modules = modules(&wasm);
        let stripped = stripped(&wasm, &splits(&modules), 0).unwrap();
        wasmparser::validate(&stripped).unwrap();
        assert!(has(&wasm, "outer data") && has(&wasm, "inner data"));
        assert!(!has(&stripped, "outer data") && !has(&stripped, "inner data"));
        let component = Component::new(&engine(), &wasm, None).unwrap();
        let sizes: Vec<_> = component.memories.iter().map(|of| of.minimum).collect();
        assert_eq!(sizes, [3 << 16, 2 << 16]);
        assert_eq!(component.minimum_memory, 5 << 16);
        for (memory, data) in component.memories.iter().zip(["inner data", "outer data"]) {
            let image = memory.image.image();
            assert_eq!(image.range().start(), 1 << 16);
            assert_eq!(image.range().end(), (1 << 16) + page_size());
            let bytes = image.bytes(1 << 16, (1 << 16) + page_size());
            assert!(bytes.starts_with(data.as_bytes()));
        }
    }

    #[test]
    fn memories_that_cannot_be_told_apart_keep_their_data() {
        let wasm = nested(&module(2, "outer data"), &module(2, "inner data"));
        let modules = modules(&wasm);
        assert!(stripped(&wasm, &splits(&modules), 0).is_none());
        let component = Component::new(&engine(), &wasm, None).unwrap();
        assert_eq!(component.memories.len(), 1);
        assert!(component.memories[0].image.image().file().is_none());
        // The very same module twice is no such case.
        let same = nested(&module(2, "same data"), &module(2, "same data"));
        let modules = self::modules(&same);
        let stripped = stripped(&same, &splits(&modules), 0).unwrap();
        assert!(!has(&stripped, "same data"));
    }

    #[test]
    fn lists_what_another_component_exports() {
        let refused = |functions: u32| {
            let exports: String = (0..functions)
                .map(|number| format!(r#"(export "f{number}" (func $f))"#))
                .collect();
            let text = format!(
                r#"(component
                     (core module $m (func (export "f")))
                     (core instance $i (instantiate $m))
                     (func $f (canon lift (core func $i "f")))
                     (instance $sums (export "sum" (func $f)))
                     (export "acme:math/sums@1.0.0" (instance $sums))
                     {exports})"#
            );
            let error = Component::new(&engine(), &wasm(&text), None).err().unwrap();
            assert_eq!(error.kind(), LoadErrorKind::Unsupported);
            error.to_string()
        };
        let few = refused(2);
        assert!(
            few.contains("it exports `acme:math/sums@1.0.0`, `f0`, `f1`; a worker exports"),
            "{few}"
        );
        assert!(few.contains("`wasi:http/incoming-handler@0.2.x`"), "{few}");
        let many = refused(10);
        assert!(
            many.contains("`f5`, `f6` and 3 more; a worker exports"),
            "{many}"
        );
    }
}
