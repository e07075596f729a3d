//! `import`: files beneath the project's root, and the kit's own modules.

use wws_engine::{
    Directories, Host, ProgramFailure, SourcePos,
    wasmtime::{AsContextMut, Caller, Extern, Linker, Memory, Result, error::Context as _},
};

use super::state::CallState;

/// The maximum size of a module, in bytes.
pub(super) const MAX_MODULE: u64 = 64 << 20;

/// The names of the module for files of the worker's directories, as in Node.
const FILES: [&str; 4] = ["node:fs/promises", "fs/promises", "node:fs", "fs"];

/// The module of [`FILES`]. The kit keeps the functions where only this module finds them.
const FILES_SOURCE: &str = r#"
const files = globalThis[Symbol.for("wws.files")];
export const { readFile, writeFile, appendFile, readdir, stat, lstat, access, mkdir, unlink, rmdir, rm, rename } = files;
export const promises = files;
export default { ...files, promises };
"#;

/// Defines the imports.
pub(super) fn define(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap_async(
        "env",
        "host_module_normalize",
        |mut caller: Caller<'_, Host>, (base, name): (u32, u32)| {
            Box::new(async move {
                let base = c_string(&mut caller, base)?;
                let name = c_string(&mut caller, name)?;
                let resolved = resolve(CallState::of(caller.data_mut())?, &base, &name);
                give(&mut caller, resolved, None).await
            })
        },
    )?;
    linker.func_wrap_async(
        "env",
        "host_module_load",
        |mut caller: Caller<'_, Host>, (name, len): (u32, u32)| {
            Box::new(async move {
                let name = c_string(&mut caller, name)?;
                let source = load(CallState::of(caller.data_mut())?, &name);
                give(&mut caller, source, Some(len)).await
            })
        },
    )?;
    Ok(())
}

fn failed<T>(message: String) -> Result<T, ProgramFailure> {
    Err(ProgramFailure::new(message))
}

/// Resolves `name` in the module `base` to a path beneath the root.
fn resolve(state: &CallState, base: &str, name: &str) -> Result<String, ProgramFailure> {
    if FILES.contains(&name) {
        return Ok(name.to_owned());
    }
    let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
    let joined = match name {
        _ if name.starts_with("./") || name.starts_with("../") => format!("{directory}/{name}"),
        _ if name.starts_with('/') => name.to_owned(),
        _ => {
            return failed(format!(
                "{base} imports '{name}': only files ('./{name}') and node:fs/promises can be \
                 imported; bundle packages into the worker"
            ));
        }
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return failed(format!(
                        "{base} imports '{name}', which is outside of the project"
                    ));
                }
            }
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    ["", ".js", ".mjs", "/index.js"]
        .iter()
        .map(|end| format!("{path}{end}"))
        .find(|path| {
            state
                .modules
                .stat(&format!("/{path}"))
                .is_ok_and(|stat| !stat.is_directory)
        })
        .ok_or_else(|| {
            ProgramFailure::new(format!("{base} imports '{name}': there is no file {path}"))
        })
}

fn load(state: &CallState, name: &str) -> Result<String, ProgramFailure> {
    if FILES.contains(&name) {
        return Ok(FILES_SOURCE.to_owned());
    }
    let source = read(state, name)?;
    if name.ends_with(".json") {
        return json(name, &source);
    }
    Ok(source)
}

/// A module with the value of a JSON text, which is parsed and not run.
fn json(name: &str, text: &str) -> Result<String, ProgramFailure> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        // Nested deeper than this library allows; the interpreter reports errors itself.
        let is_deep = error.to_string().starts_with("recursion limit exceeded");
        if !is_deep {
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            return Err(ProgramFailure {
                pos: Some(SourcePos {
                    file: name.into(),
                    line: count(error.line()),
                    column: Some(count(error.column())),
                }),
                message: format!("not JSON: {error}"),
            });
        }
    }
    // JSON strings are JavaScript strings.
    let literal = serde_json::to_string(text)
        .map_err(|error| ProgramFailure::new(format!("{name}: {error}")))?;
    Ok(format!("export default JSON.parse({literal});"))
}

/// Reads the text of a file of the project.
pub(super) fn read(state: &CallState, name: &str) -> Result<String, ProgramFailure> {
    read_up_to(&state.modules, name, MAX_MODULE)
}

/// Reads the text of a file of the project of up to `limit` bytes.
pub(super) fn read_up_to(
    modules: &Directories,
    name: &str,
    limit: u64,
) -> Result<String, ProgramFailure> {
    let bytes = modules
        .read(&format!("/{name}"), limit)
        .map_err(|error| ProgramFailure::new(format!("cannot read {name}: {error}")))?;
    let Ok(text) = String::from_utf8(bytes) else {
        return failed(format!("{name} is not UTF-8"));
    };
    // In the C interface, NUL ends a text.
    if text.contains('\0') {
        return failed(format!("{name} has a NUL character"));
    }
    Ok(text)
}

/// Passes a text to the interpreter, and its length if it asks for it; a failure is kept for the
/// operator.
async fn give(
    caller: &mut Caller<'_, Host>,
    text: Result<String, ProgramFailure>,
    len_at: Option<u32>,
) -> Result<u32> {
    match text {
        Ok(mut text) => {
            let js = CallState::of(caller.data_mut())?.exports.clone();
            let len = u32::try_from(text.len())?;
            text.push('\0');
            let at = js.put(caller.as_context_mut(), text.as_bytes()).await?;
            if let Some(len_at) = len_at {
                js.memory
                    .write(caller, len_at as usize, &len.to_le_bytes())?;
            }
            Ok(at.unwrap_or(0))
        }
        Err(problem) => {
            CallState::of(caller.data_mut())?.import_problem = Some(problem);
            Ok(0)
        }
    }
}

/// The memory of a caller whose state may not be set yet.
fn memory(caller: &mut Caller<'_, Host>) -> Result<Memory> {
    caller
        .get_export("memory")
        .and_then(Extern::into_memory)
        .context("the interpreter exports no memory")
}

fn c_string(caller: &mut Caller<'_, Host>, at: u32) -> Result<String> {
    let memory = memory(caller)?;
    let bytes = memory
        .data(&*caller)
        .get(at as usize..)
        .context("the interpreter names memory that it does not have")?;
    let len = bytes
        .iter()
        .position(|byte| *byte == 0)
        .context("a text without end")?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}
