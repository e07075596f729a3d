//! Instances of a guest: what each is made with, and why it failed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use wasmtime::{Store, UpdateDeadline};

use crate::engine::Engine;
use crate::error::{CallError, LoadError, MemoryRefusal, Stop, WasmError};
use crate::host::grants::GuestGrants;
use crate::host::log::GuestLog;
use crate::host::open_files::OpenFiles;
use crate::host::report::CallTrace;
use crate::host::state::{Host, Io};
use crate::memory::account::Charge;
use crate::memory::quota::{Parts, Quota, QuotaLimits};
use crate::memory::stack::WASM_STACK;
use crate::schedule::cpu::{CpuMeter, CpuUsage};
use crate::spec::GuestLimits;

/// Initialisation may use so much CPU time, or a call's own limit if that is more.
pub(crate) const INITIALISATION_TIME: Duration = Duration::from_secs(10);

/// Initialisation may take so much time, or a call's own limit if that is more: a project that is
/// loaded again beside requests gets a small part of a CPU.
pub(crate) const INITIALISATION_WALL_TIME: Duration = Duration::from_secs(60);

/// What a call is charged for its native stack and its state in the host, in bytes: a guest may use
/// as much stack.
pub(crate) const STACK_COST: u64 = WASM_STACK as u64 + (64 << 10);

/// What all instances of a guest share.
#[derive(Clone)]
pub(crate) struct GuestContext {
    pub(crate) engine: Engine,
    pub(crate) grants: Arc<GuestGrants>,
}

/// What one instance is made with.
pub(crate) struct InstanceConfig {
    /// What was reserved for the instance: `memory`, and its fixed cost.
    pub(crate) charge: Charge,
    /// Linear memory that the instance starts with, in bytes.
    pub(crate) memory: u64,
    pub(crate) cpu_time: Duration,
    pub(crate) usage: Arc<CpuUsage>,
    pub(crate) request_id: String,
    /// The trace that the call belongs to.
    pub(crate) trace: Option<CallTrace>,
    pub(crate) io: Io,
}

/// What a command printed, and the memory that is charged for it.
pub(crate) struct PrintedOutput {
    pub(crate) bytes: Vec<u8>,
    pub(crate) charge: Option<Charge>,
}

/// A key/value namespace that a call reads as a whole.
pub(crate) struct KvInput {
    before: wws_kv::Map,
    /// Held until what the call changed is stored.
    turn: Option<wws_kv::Turn>,
}

impl KvInput {
    /// The entries that a call reads; none without a namespace.
    pub(crate) fn entries(input: Option<&Self>) -> wws_kv::Map {
        input.map(|input| input.before.clone()).unwrap_or_default()
    }

    /// Stores what a call changed: its namespace is `after`.
    pub(crate) async fn store(
        self,
        guest: &GuestContext,
        after: HashMap<String, String>,
    ) -> Result<(), CallError> {
        let changes = wws_kv::diff(&self.before, after);
        if let (Some(grant), false) = (&guest.grants.kv, changes.is_empty()) {
            let (store, namespace) = (&grant.store, &grant.namespace);
            match &self.turn {
                Some(turn) => store.apply_in(namespace, changes, turn).await?,
                None => store.apply(namespace, changes).await?,
            }
        }
        Ok(())
    }
}

/// Rejects code whose instances start with more memory than they may have. `what` it is, for the
/// message.
pub(crate) fn check_minimum_memory(
    what: &str,
    minimum: u64,
    engine: &Engine,
    limits: &GuestLimits,
) -> Result<(), LoadError> {
    if minimum > limits.memory {
        return Err(LoadError::limit(format!(
            "the {what} starts with {minimum} bytes of memory, `limits.memory` allows {}",
            limits.memory
        )));
    }
    if minimum > engine.memory() {
        return Err(LoadError::limit(format!(
            "the {what} starts with {minimum} bytes of memory, all guests together may use {} \
             (`server.memory`)",
            engine.memory()
        )));
    }
    Ok(())
}

impl GuestContext {
    /// Reserves memory for an instance, as soon as there is enough.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<Charge, CallError> {
        let charge = self.engine.calls().reserve(bytes).await;
        charge.ok_or(CallError::NoRoom {
            needed: bytes,
            total: self.engine.memory(),
        })
    }

    /// Reserves memory for a call, which waits for memory no longer than for its turn.
    pub(crate) async fn reserve_in_time(&self, bytes: u64) -> Result<Charge, CallError> {
        // Most calls need not wait.
        if let Some(charge) = self.engine.calls().charge(bytes) {
            return Ok(charge);
        }
        let limit = self.engine.queue_timeout();
        tokio::time::timeout(limit, self.reserve(bytes))
            .await
            .unwrap_or(Err(CallError::Busy(limit)))
    }

    /// The guest's key/value namespace as it is now, if it has one; in its turn, if the guest's
    /// calls run one after another.
    pub(crate) async fn kv_input(&self) -> Result<Option<KvInput>, CallError> {
        let Some(grant) = &self.grants.kv else {
            return Ok(None);
        };
        let turn = match grant.serial {
            true => Some(grant.store.serial(&grant.namespace).await?),
            false => None,
        };
        let before = grant.store.snapshot(&grant.namespace).await?;
        Ok(Some(KvInput { before, turn }))
    }

    /// The trace of a call, for its log and its outgoing requests.
    pub(crate) fn trace(&self, headers: &HeaderMap) -> Option<CallTrace> {
        CallTrace::of(headers, self.grants.http.is_some())
    }

    /// Makes the store of one instance of a module.
    pub(crate) fn store(&self, config: InstanceConfig) -> Store<Host> {
        self.store_in(self.engine.wasmtime(), config, Parts::MODULE)
    }

    /// Makes the store of one instance.
    pub(crate) fn store_in(
        &self,
        engine: &wasmtime::Engine,
        config: InstanceConfig,
        parts: Parts,
    ) -> Store<Host> {
        let limits = &self.grants.limits;
        let InstanceConfig {
            charge,
            memory,
            cpu_time,
            usage,
            request_id,
            trace,
            io,
        } = config;
        let quota_limits = QuotaLimits {
            memory: limits.memory,
            table_elements: limits.table_elements,
            buffers: limits.buffers,
            parts,
        };
        let quota = Quota::new(self.engine.account(), charge, memory, &quota_limits);
        let log = GuestLog::new(self.grants.clone(), request_id, limits.log);
        let cpu = CpuMeter::new(usage, cpu_time);
        let files = OpenFiles::new(self.engine.files().clone(), limits.open_files);
        let mut host = Host::new(self.grants.clone(), io, log, quota, files, cpu);
        host.begin_trace(trace);
        let mut store = Store::new(engine, host);
        store.limiter(|host| &mut host.quota);
        // The first tick may be about to come: a guest has at least one whole tick before it is
        // measured.
        store.set_epoch_deadline(2);
        store.epoch_deadline_callback(|mut store| {
            let cpu = &mut store.data_mut().cpu;
            let gives_way = cpu.tick();
            if cpu.is_over() {
                return Err(wasmtime::Error::new(Stop::CpuTime));
            }
            Ok(if gives_way {
                UpdateDeadline::Yield(1)
            } else {
                UpdateDeadline::Continue(1)
            })
        });
        store
    }

    /// Begins another call of an instance, which has waited for it. Its times are counted anew.
    pub(crate) fn renew(&self, store: &mut Store<Host>, usage: Arc<CpuUsage>, waited: Duration) {
        let cpu = CpuMeter::new(usage, self.grants.limits.cpu_time);
        store.data_mut().renew(cpu, waited);
        store.set_epoch_deadline(2);
    }

    /// Why an instance stopped with `error`, after it was `refused` memory.
    pub(crate) fn failure(
        &self,
        error: wasmtime::Error,
        refused: Option<MemoryRefusal>,
        cpu_time: Duration,
    ) -> CallError {
        if let Some(error) = error.downcast_ref::<wws_kv::Error>() {
            return CallError::Kv(error.clone());
        }
        match error.downcast_ref::<Stop>() {
            Some(Stop::Exit(code)) => CallError::Exit {
                refused,
                code: *code,
            },
            Some(Stop::CpuTime) => CallError::CpuTime(cpu_time),
            Some(Stop::Output) => CallError::TooMuchOutput(self.grants.limits.output),
            Some(Stop::Memory) => CallError::NoMemory {
                buffers: self.grants.limits.buffers,
            },
            // Only while a snapshot is made, and handled by who suspended the instance.
            Some(Stop::Suspended) | None => CallError::Trap {
                refused,
                source: WasmError::new(error),
            },
        }
    }
}
