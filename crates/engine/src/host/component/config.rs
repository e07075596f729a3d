//! `wasi:config`: the variables of the worker, which are its environment as well.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, WasmStr};

use crate::host::state::Host;

/// The names under which toolchains import the interface. Its functions are the same in all.
const NAMES: [&str; 4] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/runtime@0.2.0-draft",
];

/// Why a value is not known. The variables of a worker always are.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
#[allow(
    dead_code,
    reason = "a variant of the interface that the host never returns"
)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    for name in NAMES {
        let mut instance = linker.instance(name)?;
        instance.func_wrap(
            "get",
            |store: StoreContextMut<'_, Host>, (key,): (WasmStr,)| {
                let key = key.to_str(&store)?;
                let variables = &store.data().grants.variables;
                let found = variables.iter().find(|(name, _)| *name == *key);
                let value = found.map(|(_, value)| value.clone());
                Ok((Ok::<_, ConfigError>(value),))
            },
        )?;
        instance.func_wrap("get-all", |store: StoreContextMut<'_, Host>, (): ()| {
            let variables = store.data().grants.variables.clone();
            Ok((Ok::<_, ConfigError>(variables),))
        })?;
    }
    Ok(())
}
