//! What the host keeps for an instance of a component.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;
use wasmtime_wasi_http::p2::body::{HostIncomingBody, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::HostIncomingRequest;
use wasmtime_wasi_http::p3::Request;

use crate::host::clocks::Clocks;
use crate::host::component::component_files::ComponentFiles;
use crate::host::component::held::HeldBytes;
use crate::host::component::outgoing::OutgoingHttp;
use crate::host::component::stdio::{LogStream, PrintStream};
use crate::host::grants::GuestGrants;
use crate::host::log::GuestLog;
use crate::host::no_memory::NoMemory;
use crate::host::open_files::FileBudget;
use crate::host::report::CallTrace;
use crate::memory::account::{Account, Charge};

/// Most resources (streams, bodies, headers, files, pollables) that a guest can hold at once.
const MAX_RESOURCES: usize = 4096;

/// Most resources that an instance may hold when it waits for another request.
const MAX_LEFT_RESOURCES: u64 = 64;

/// What each of them is charged with: headers may be as large.
const LEFT_RESOURCE: u64 = MAX_FIELDS as u64;

/// Most random bytes at once.
const MAX_RANDOM: u64 = 64 << 10;

/// Bytes of names and values in one set of headers.
pub(super) const MAX_FIELDS: usize = 64 << 10;

/// What the host keeps for an instance of a component.
pub(crate) struct ComponentIo {
    pub(super) table: ResourceTable,
    pub(super) wasi: WasiCtx,
    pub(super) http: WasiHttpCtx,
    pub(super) outgoing: OutgoingHttp,
    pub(super) log: LogStream,
    /// Charged for the last result that was too large for the fixed cost of a call.
    pub(super) result: Charge,
    pub(super) files: ComponentFiles,
    pub(super) held: HeldBytes,
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

    /// Begins another call of an instance that has `active` with it.
    pub(crate) fn join(&mut self, log: GuestLog, trace: Option<CallTrace>, active: u32) {
        self.log.replace(log);
        self.outgoing.join(trace, active);
    }

    /// Charges `bytes` for what a function returns. The guest takes them right after, and the
    /// charge stays until the next result.
    pub(super) fn hold_result(&mut self, bytes: u64) -> Result<(), NoMemory> {
        self.result.shrink_to(bytes);
        if self.result.grow_to(bytes) {
            Ok(())
        } else {
            Err(NoMemory(bytes))
        }
    }
}
