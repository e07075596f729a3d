//! What the host keeps for an instance of a component, and the interfaces that components import.
//!
//! WASI and `wasi:http` are wasmtime's; here is what they are given: the guest's variables,
//! directories and clocks, its log as standard streams, and the client for outgoing requests.

mod config;
mod fields;
mod files;
mod keyvalue;
mod logging;
mod outgoing;
mod sockets;
mod stdio;
mod streams;

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::{HostIncomingBody, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::HostIncomingRequest;
use wasmtime_wasi_http::p3::Request;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::host::clocks::Clocks;
use crate::host::component::fields::HeldBytes;
use crate::host::component::files::ComponentFiles;
use crate::host::component::outgoing::OutgoingHttp;
use crate::host::component::stdio::{LogStream, PrintStream};
use crate::host::grants::GuestGrants;
use crate::host::log::GuestLog;
use crate::host::open_files::FileBudget;
use crate::host::report::CallTrace;
use crate::host::state::{Host, Io, NoMemory};
use crate::memory::account::{Account, Charge};

/// Most resources (streams, bodies, headers, files, pollables) that a guest can hold at once.
const MAX_RESOURCES: usize = 4096;

/// Most resources that an instance may hold when it waits for another request.
const MAX_LEFT_RESOURCES: u64 = 64;

/// What each of them is charged with: headers may be as large.
const LEFT_RESOURCE: u64 = MAX_FIELDS as u64;

/// The version of WASI 0.2 of whose functions some are replaced here.
const VERSION: &str = "0.2.12";

/// The version of WASI 0.3 of whose functions some are replaced here.
const ASYNC_VERSION: &str = "0.3.0";

/// Most random bytes at once.
const MAX_RANDOM: u64 = 64 << 10;

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
    files: ComponentFiles,
    held: HeldBytes,
    /// What a command prints.
    pub(crate) stdout: Option<PrintStream>,
}

/// What a component is started with.
pub(crate) struct ComponentStart {
    pub(crate) log: GuestLog,
    /// Standard input of a command, and how much it may print.
    pub(crate) command: Option<(Bytes, usize)>,
    /// The trace that the call belongs to.
    pub(crate) trace: Option<CallTrace>,
    /// Charged for what the host keeps.
    pub(crate) buffers: Account,
    /// Files that all guests together may hold open.
    pub(crate) files: FileBudget,
}

impl ComponentIo {
    pub(crate) fn new(grants: &Arc<GuestGrants>, start: ComponentStart) -> Self {
        let clocks = Clocks::new();
        let log = LogStream::new(start.log);
        let mut builder = WasiCtxBuilder::new();
        builder
            .monotonic_clock(clocks)
            .wall_clock(clocks)
            .max_random_size(MAX_RANDOM)
            .envs(&grants.variables)
            .args(&grants.arguments)
            .stderr(log.clone());
        let printed_log = log.clone();
        let stdout = match start.command {
            Some((input, output)) => {
                let pipe = PrintStream::new(output, start.buffers.nothing());
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
        let held = HeldBytes::new(start.buffers.nothing());
        let files = ComponentFiles::new(grants.limits.open_files, start.files);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS);
        Self {
            table,
            wasi,
            http,
            outgoing: OutgoingHttp::new(grants.clone(), start.buffers, start.trace),
            log,
            result,
            files,
            held,
            stdout,
        }
    }
}

impl ComponentIo {
    /// Whether the instance may answer another request: it holds little of the last one, and
    /// nothing of its connection.
    pub(crate) fn is_reusable(&mut self) -> bool {
        let mut left = 0;
        for resource in self.table.iter_mut() {
            // A body that the guest still writes belongs to the client of the last call.
            let is_of_call = resource.is::<HostIncomingRequest>()
                || resource.is::<HostIncomingBody>()
                || resource.is::<HostOutgoingBody>()
                || resource.is::<Request>();
            if is_of_call || left == MAX_LEFT_RESOURCES {
                return false;
            }
            left += 1;
        }
        self.held.renew(left * LEFT_RESOURCE)
    }

    /// Begins another call of the same instance, with another log and in another trace.
    pub(crate) fn renew(&mut self, log: GuestLog, trace: Option<CallTrace>) {
        self.log.replace(log);
        self.outgoing.renew(trace);
    }

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
