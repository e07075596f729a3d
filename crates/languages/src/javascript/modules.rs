//! `import`: files beneath the project's root, and the kit's own modules.

use wws_engine::{
    Directories, Host,
    wasmtime::{AsContextMut, Caller, Linker, Result, error::Context as _},
};

use super::{host_calls::memory, state::State};

/// A larger module is not read, in bytes.
pub(super) const MAX_MODULE: u64 = 64 << 20;

/// Files of the worker's folders, as Node calls them.
const FILES: [&str; 4] = ["node:fs/promises", "fs/promises", "node:fs", "fs"];

/// The module of [`FILES`]. The kit keeps the functions where only this looks for them.
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
                let resolved = resolve(State::of(caller.data_mut())?, &base, &name);
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
                let source = load(State::of(caller.data_mut())?, &name);
                give(&mut caller, source, Some(len)).await
            })
        },
    )?;
    Ok(())
}

/// The name of the module that `name` means in the module `base`: its path beneath the root.
fn resolve(state: &State, base: &str, name: &str) -> Result<String, String> {
    if FILES.contains(&name) {
        return Ok(name.to_owned());
    }
    let folder = base.rsplit_once('/').map_or("", |(folder, _)| folder);
    let joined = match name {
        _ if name.starts_with("./") || name.starts_with("../") => format!("{folder}/{name}"),
        _ if name.starts_with('/') => name.to_owned(),
        _ => {
            return Err(format!(
                "{base} imports '{name}': only files ('./{name}') and node:fs/promises can be imported; bundle packages into the worker"
            ));
        }
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Err(format!(
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
        .ok_or_else(|| format!("{base} imports '{name}': there is no file {path}"))
}

fn load(state: &State, name: &str) -> Result<String, String> {
    if FILES.contains(&name) {
        return Ok(FILES_SOURCE.to_owned());
    }
    let source = read(state, name)?;
    if name.ends_with(".json") {
        return json(name, &source);
    }
    Ok(source)
}

/// A module whose value is that of a JSON text. It is parsed, not run.
fn json(name: &str, text: &str) -> Result<String, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        // Deeper than this library goes; the interpreter says so itself if it is wrong.
        let is_deep = error.to_string().starts_with("recursion limit exceeded");
        if !is_deep {
            let (line, column) = (error.line(), error.column());
            return Err(format!("{name}:{line}:{column}: not JSON: {error}"));
        }
    }
    // JSON's strings are JavaScript's as well.
    let literal = serde_json::to_string(text).map_err(|error| format!("{name}: {error}"))?;
    Ok(format!("export default JSON.parse({literal});"))
}

/// The text of a file of the project.
pub(super) fn read(state: &State, name: &str) -> Result<String, String> {
    read_up_to(&state.modules, name, MAX_MODULE)
}

/// The text of a file of the project that has `limit` bytes at most.
pub(super) fn read_up_to(modules: &Directories, name: &str, limit: u64) -> Result<String, String> {
    let bytes = modules
        .read(&format!("/{name}"), limit)
        .map_err(|error| format!("cannot read {name}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8"))?;
    // The C interface ends texts with NUL.
    if text.contains('\0') {
        return Err(format!("{name} has a NUL character"));
    }
    Ok(text)
}

/// Gives a text to the interpreter, and its length if it asks for it; a problem is kept for the operator.
async fn give(
    caller: &mut Caller<'_, Host>,
    text: Result<String, String>,
    len_at: Option<u32>,
) -> Result<u32> {
    match text {
        Ok(mut text) => {
            let js = State::of(caller.data_mut())?.exports.clone();
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
            State::of(caller.data_mut())?.import_problem = Some(problem);
            Ok(0)
        }
    }
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
