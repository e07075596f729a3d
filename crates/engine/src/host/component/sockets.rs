//! `wasi:sockets` is denied. wasmtime-wasi denies to create sockets; looking up names as well fails
//! as if none existed, which no guest can tell from a name that is wrong.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, WasmStr};
use wasmtime_wasi::p2::Network;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::ResolveAddressStream;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use crate::host::component::version::VERSION;
use crate::host::state::Host;

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/ip-name-lookup@{VERSION}"))?
        .func_wrap(
            "resolve-addresses",
            |_: StoreContextMut<'_, Host>, _: (Resource<Network>, WasmStr)| {
                let denied: Result<Resource<ResolveAddressStream>, _> =
                    Err(ErrorCode::AccessDenied);
                Ok((denied,))
            },
        )
}
