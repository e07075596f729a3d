//! The interfaces that components import.
//!
//! WASI and `wasi:http` are wasmtime's; here is what they are given: the guest's variables,
//! directories and clocks, its log as standard streams, and the client for outgoing requests.

mod component_files;
mod config;
mod fields;
mod files;
mod held;
pub(crate) mod io;
mod keyvalue;
mod logging;
mod outgoing;
mod sockets;
mod stdio;
mod streams;
mod version;

use wasmtime::component::Linker;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::host::component::io::ComponentIo;
use crate::host::state::{Host, Io};

impl Host {
    /// The state of a component's instance.
    pub(crate) fn component(&mut self) -> &mut ComponentIo {
        match &mut self.io {
            Io::Component(component) => component,
            // Only components are linked with what calls this.
            Io::Command(_) | Io::Kit(_) => unreachable!("the guest is a module"),
        }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let component = self.component();
        WasiCtxView {
            ctx: &mut component.wasi,
            table: &mut component.table,
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let component = self.component();
        WasiHttpCtxView {
            ctx: &mut component.http,
            table: &mut component.table,
            hooks: &mut component.outgoing,
        }
    }
}

/// Adds what components can import.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    add_bounded_to_linker(linker)?;
    linker.allow_shadowing(true);
    streams::add_poll_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Adds what components of WASI 0.3 can import besides.
pub(crate) fn add_async_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    add_bounded_to_linker(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    linker.allow_shadowing(true);
    files::add_async_to_linker(linker)?;
    fields::add_async_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Adds the functions of WASI 0.2 and of the other proposals, and replaces those that would do or
/// hold more for a guest than is charged.
fn add_bounded_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    streams::add_to_linker(linker)?;
    files::add_to_linker(linker)?;
    fields::add_to_linker(linker)?;
    sockets::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    keyvalue::add_to_linker(linker)?;
    config::add_to_linker(linker)?;
    logging::add_to_linker(linker)
}
