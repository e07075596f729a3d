//! Ruby's functions, as ruby.wasm exports them: the canonical ABI of wit-bindgen 0.2, in which a
//! text is an address and a length, and a Ruby object is a handle.
//! `packages/npm-packages/ruby-wasm-wasi/src/bindgen/rb-abi-guest.wit` of ruby.wasm has their
//! types.

use wws_engine::{
    Host, Vm,
    wasmtime::{Error, ExternType, Linker, Module, Result, TypedFunc, error::Context as _},
};

const INITIALIZE: &str = "_initialize";
const REALLOC: &str = "cabi_realloc";
const INIT: &str = "ruby-init: func(args: list<string>) -> ()";
const EVAL: &str = "rb-eval-string-protect: func(str: string) -> tuple<handle<rb-abi-value>, s32>";
const CALL: &str = "rb-funcallv-protect: func(recv: handle<rb-abi-value>, mid: u32, args: \
    list<handle<rb-abi-value>>) -> tuple<handle<rb-abi-value>, s32>";
const INTERN: &str = "rb-intern: func(name: string) -> u32";

/// Modules of imports that JavaScript would provide.
const JAVASCRIPT: [&str; 2] = ["rb-js-abi-host", "canonical_abi"];

/// Arguments of `ruby`: texts are UTF-8, and there is no main file. Features that explain errors by
/// reading source files cannot read the project's.
const ARGUMENTS: [&str; 4] = [
    "ruby",
    "-EUTF-8",
    "--disable=syntax_suggest,error_highlight",
    "-e_=0",
];

/// A method of an object in the guest.
#[derive(Clone, Copy)]
pub(super) struct Method {
    receiver: u32,
    id: u32,
}

/// Defines the imports of the module, except for WASI.
pub(super) fn define(linker: &mut Linker<Host>, module: &Module) -> Result<()> {
    for import in module.imports() {
        let (ExternType::Func(ty), true) = (import.ty(), JAVASCRIPT.contains(&import.module()))
        else {
            continue;
        };
        let name = import.name().to_owned();
        match import.name() {
            // A handle is the guest's address of the object.
            "resource_new_rb-abi-value" | "resource_get_rb-abi-value" => {
                linker.func_wrap(import.module(), &name, |object: i32| object)?;
            }
            _ => {
                let named = name.clone();
                linker.func_new(import.module(), &name, ty, move |_, _, _| {
                    Err(Error::msg(format!(
                        "there is no JavaScript here that Ruby could call ({named})"
                    )))
                })?;
            }
        }
    }
    Ok(())
}

/// Starts the interpreter.
pub(super) async fn start(vm: &mut Vm) -> Result<()> {
    let initialize: TypedFunc<(), ()> = function(vm, INITIALIZE)?;
    vm.call(&initialize, ()).await?;
    let init: TypedFunc<(u32, u32), ()> = function(vm, INIT)?;
    let mut list = Vec::with_capacity(ARGUMENTS.len() * 8);
    for argument in ARGUMENTS {
        let (at, len) = text(vm, argument).await?;
        list.extend_from_slice(&at.to_le_bytes());
        list.extend_from_slice(&len.to_le_bytes());
    }
    let at = put(vm, &list, 4).await?;
    vm.call(&init, (at, u32::try_from(ARGUMENTS.len())?)).await
}

/// Evaluates a text. `Ok(Err(state))`: it did not complete normally.
pub(super) async fn evaluate(vm: &mut Vm, source: &str) -> Result<std::result::Result<u32, i32>> {
    let eval: TypedFunc<(u32, u32), u32> = function(vm, EVAL)?;
    let source = text(vm, source).await?;
    let at = vm.call(&eval, source).await?;
    let (object, state) = outcome(vm, at)?;
    Ok(if state == 0 { Ok(object) } else { Err(state) })
}

/// Looks a method up.
pub(super) async fn method(vm: &mut Vm, receiver: &str, name: &str) -> Result<Method> {
    let receiver = evaluate(vm, receiver)
        .await?
        .map_err(|state| Error::msg(format!("there is no {receiver} (state {state})")))?;
    let intern: TypedFunc<(u32, u32), u32> = function(vm, INTERN)?;
    let name = text(vm, name).await?;
    let id = vm.call(&intern, name).await?;
    // Checks that the function exists, which requests need.
    let _: TypedFunc<(u32, u32, u32, u32), u32> = function(vm, CALL)?;
    Ok(Method { receiver, id })
}

impl Method {
    /// Calls the method without arguments. Returns the state: 0 is normal.
    pub(super) async fn call(self, vm: &mut Vm) -> Result<i32> {
        let call: TypedFunc<(u32, u32, u32, u32), u32> = function(vm, CALL)?;
        let at = vm.call(&call, (self.receiver, self.id, 0, 0)).await?;
        Ok(outcome(vm, at)?.1)
    }
}

fn function<P: wws_engine::wasmtime::WasmParams, R: wws_engine::wasmtime::WasmResults>(
    vm: &mut Vm,
    name: &str,
) -> Result<TypedFunc<P, R>> {
    vm.function(name)
        .with_context(|| format!("this is no Ruby of ruby.wasm: it has no function {name:?}"))
}

/// Writes bytes to newly allocated memory of the guest.
async fn put(vm: &mut Vm, bytes: &[u8], align: u32) -> Result<u32> {
    let realloc: TypedFunc<(u32, u32, u32, u32), u32> = function(vm, REALLOC)?;
    let len = u32::try_from(bytes.len())?;
    let at = vm.call(&realloc, (0, 0, align, len)).await?;
    vm.memory()?.write(vm.context(), at as usize, bytes)?;
    Ok(at)
}

/// Writes a text to newly allocated memory of the guest, with the NUL that Ruby expects.
async fn text(vm: &mut Vm, text: &str) -> Result<(u32, u32)> {
    let bytes = [text.as_bytes(), b"\0"].concat();
    let at = put(vm, &bytes, 1).await?;
    Ok((at, u32::try_from(bytes.len())?))
}

/// Reads an object and the state of the call.
fn outcome(vm: &mut Vm, at: u32) -> Result<(u32, i32)> {
    let mut bytes = [0; 8];
    vm.memory()?.read(vm.context(), at as usize, &mut bytes)?;
    let [a, b, c, d, e, f, g, h] = bytes;
    Ok((
        u32::from_le_bytes([a, b, c, d]),
        i32::from_le_bytes([e, f, g, h]),
    ))
}
