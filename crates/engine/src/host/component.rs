//! What the host keeps for an instance of a component, and the interfaces that components import.
//!
//! WASI and `wasi:http` are wasmtime's; here is what they are given: the guest's variables,
//! directories and clocks, its log as standard streams, and the client for outgoing requests.

mod config;
mod keyvalue;
mod logging;
mod outgoing;
mod stdio;

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::host::clocks::Clocks;
use crate::host::component::outgoing::OutgoingHttp;
use crate::host::component::stdio::LogStream;
use crate::host::grants::GuestGrants;
use crate::host::log::GuestLog;
use crate::host::state::{Host, Io, NoMemory};
use crate::memory::account::{Account, Charge};

/// Most resources (streams, bodies, headers, files, pollables) that a guest can hold at once.
const MAX_RESOURCES: usize = 4096;

/// Bytes of names and values in one set of headers.
const MAX_FIELDS: usize = 64 << 10;

/// What the host keeps for an instance of a component.
pub(crate) struct ComponentIo {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: OutgoingHttp,
    log: LogStream,
    /// Charged for the last result that was too large for the fixed cost of a call.
    result: Charge,
    /// What a command prints.
    pub(crate) stdout: Option<MemoryOutputPipe>,
}

/// What a component is started with.
pub(crate) struct ComponentStart {
    pub(crate) log: GuestLog,
    /// Standard input of a command, and how much it may print.
    pub(crate) command: Option<(Bytes, usize)>,
    /// Charged for what the host keeps.
    pub(crate) buffers: Account,
}

impl ComponentIo {
    pub(crate) fn new(grants: &Arc<GuestGrants>, start: ComponentStart) -> Self {
        let clocks = Clocks::new();
        let log = LogStream::new(start.log);
        let mut builder = WasiCtxBuilder::new();
        builder
            .monotonic_clock(clocks)
            .wall_clock(clocks)
            .envs(&grants.variables)
            .args(&grants.arguments)
            .stderr(log.clone());
        let printed_log = log.clone();
        let stdout = match start.command {
            Some((input, output)) => {
                let pipe = MemoryOutputPipe::new(output);
                builder.stdin(MemoryInputPipe::new(input));
                builder.stdout(pipe.clone());
                Some(pipe)
            }
            None => {
                builder.stdout(printed_log);
                None
            }
        };
        let mut wasi = builder.build();
        // The directories were opened once, when the guest was linked.
        *wasi.filesystem() = grants.files.clone();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let result = start.buffers.nothing();
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS);
        Self {
            table,
            wasi,
            http,
            outgoing: OutgoingHttp::new(grants.clone(), start.buffers),
            log,
            result,
            stdout,
        }
    }
}

impl ComponentIo {
    /// Charges `bytes` for what a function returns. The guest takes them right after, and the
    /// charge stays until the next result.
    fn hold_result(&mut self, bytes: u64) -> Result<(), NoMemory> {
        self.result.shrink_to(bytes);
        if self.result.grow_to(bytes) {
            Ok(())
        } else {
            Err(NoMemory(bytes))
        }
    }
}

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
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    keyvalue::add_to_linker(linker)?;
    config::add_to_linker(linker)?;
    logging::add_to_linker(linker)
}

/// Adds what components of WASI 0.3 can import besides.
pub(crate) fn add_async_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    add_to_linker(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)
}
