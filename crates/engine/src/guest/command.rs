//! Guests that are WASI commands: each call runs the program once, which reads its request from
//! standard input and prints the response.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{InstancePre, Store};

use crate::engine::Engine;
use crate::error::{CallError, LoadError, Stop};
use crate::guest::instance::{
    GuestContext, InstanceConfig, PrintedOutput, STACK_COST, check_minimum_memory,
};
use crate::guest::prestart::ParkedInstance;
use crate::guest::protocol;
use crate::host::state::{Host, Io};
use crate::host::stdio::{AwaitedInput, PrestartInput, Stdin};
use crate::memory::account::Charge;
use crate::memory::pool::with_image;
use crate::memory::quota::FREE_OUTPUT;
use crate::module::{Module, instantiable};
use crate::schedule::cpu::CpuUsage;
use crate::spec::{Call, GuestLimits};

/// The response that a command printed. Applies what it changed of its key/value namespace, which
/// was as `before`.
pub(crate) async fn respond(
    guest: &GuestContext,
    printed: PrintedOutput,
    before: Option<wws_kv::Map>,
) -> Result<http::Response<Bytes>, CallError> {
    let PrintedOutput { bytes, mut charge } = printed;
    let (response, after) = protocol::decode_output(&bytes)?;
    drop(bytes);
    if let Some(charge) = &mut charge {
        charge.shrink_to(response.body().len() as u64);
    }
    let response = match charge {
        Some(charge) => response.map(|body| charge.hold(body)),
        None => response,
    };
    if let (Some((store, namespace)), Some(before), Some(after)) = (&guest.grants.kv, before, after)
    {
        let changes = wws_kv::diff(&before, after);
        if !changes.is_empty() {
            store.apply(namespace, changes).await?;
        }
    }
    Ok(response)
}

/// A command or reactor: `_start` or `_initialize` of a new instance.
pub(crate) struct Command {
    pre: InstancePre<Host>,
    module: Module,
}

impl Command {
    /// Links a module. Rejects one that could not be instantiated within `limits`.
    pub(crate) fn new(
        engine: &Engine,
        module: &Module,
        limits: &GuestLimits,
    ) -> Result<Self, LoadError> {
        instantiable::check_tables(&module.code, limits.table_elements)?;
        check_minimum_memory("module", module.minimum_memory, engine, limits)?;
        Ok(Self {
            pre: engine.link(module)?,
            module: module.clone(),
        })
    }

    /// Answers a request, in the `parked` instance if there is one.
    pub(crate) async fn answer(
        &self,
        guest: &GuestContext,
        call: Call,
        parked: Option<ParkedInstance>,
        usage: Arc<CpuUsage>,
    ) -> Result<http::Response<Bytes>, CallError> {
        let before = guest.kv_snapshot().await?;
        let empty = wws_kv::Map::default();
        let input = protocol::RequestInput::new(&call, before.as_ref().unwrap_or(&empty));
        let input_len = input.max_len();
        let printed = match parked {
            Some(ParkedInstance {
                run, input: waits, ..
            }) => {
                let charge = guest.reserve_in_time(input_len).await?;
                let stdin = input.encode(input_len)?;
                let request_id = call.request_id;
                let trace = guest.trace(call.request.headers());
                // The request's memory is free while the guest runs.
                drop(call.request);
                let _running = guest.engine.ticker().run();
                // Fails only if the instance has ended, which `run` reports.
                let _ = waits.send(PrestartInput {
                    stdin,
                    charge,
                    request_id,
                    trace,
                });
                run.await?
            }
            None => {
                let cost = self.instance_cost() + input_len;
                let charge = guest.reserve_in_time(cost).await?;
                let stdin = Stdin::new(input.encode(input_len)?);
                let request_id = call.request_id;
                let trace = guest.trace(call.request.headers());
                drop(call.request);
                let _running = guest.engine.ticker().run();
                let mut store = self.store(guest, charge, usage, stdin, request_id);
                store.data_mut().trace = trace;
                self.print(guest, store).await?
            }
        };
        respond(guest, printed, before).await
    }

    /// Runs an instance that waits for its input.
    pub(crate) async fn run_prestarted(
        &self,
        guest: &GuestContext,
        awaited: AwaitedInput,
        usage: Arc<CpuUsage>,
    ) -> Result<PrintedOutput, CallError> {
        let charge = guest.reserve(self.instance_cost()).await?;
        let stdin = Stdin::awaited(awaited);
        let store = self.store(guest, charge, usage, stdin, String::new());
        self.print(guest, store).await
    }

    /// What an instance costs before it has run: memory, the instance itself, its stack, a little
    /// output.
    pub(crate) fn instance_cost(&self) -> u64 {
        self.module.minimum_memory + self.module.instance_size + STACK_COST + FREE_OUTPUT
    }

    fn store(
        &self,
        guest: &GuestContext,
        charge: Charge,
        usage: Arc<CpuUsage>,
        stdin: Stdin,
        request_id: String,
    ) -> Store<Host> {
        guest.store(InstanceConfig {
            charge,
            memory: self.module.minimum_memory,
            cpu_time: guest.grants.limits.cpu_time,
            usage,
            request_id,
            trace: None,
            io: Io::Command(stdin),
        })
    }

    /// Runs the program of a fresh instance and returns what it printed.
    async fn print(
        &self,
        guest: &GuestContext,
        mut store: Store<Host>,
    ) -> Result<PrintedOutput, CallError> {
        let limits = &guest.grants.limits;
        if let Err(error) = self.start(&mut store).await
            && !matches!(error.downcast_ref(), Some(Stop::Exit(0)))
        {
            let refused = store.data().quota.refused;
            return Err(guest.failure(error, refused, limits.cpu_time));
        }
        let host = store.data_mut();
        let bytes = std::mem::take(&mut host.stdout);
        let charge = host
            .quota
            .take_output(protocol::decoding_cost(bytes.len()))
            .map_err(|_| CallError::NoMemory {
                buffers: limits.buffers,
            })?;
        Ok(PrintedOutput { bytes, charge })
    }

    async fn start(&self, store: &mut Store<Host>) -> wasmtime::Result<()> {
        let instance = {
            let charge = store.data().quota.charge().clone();
            let mut making = pin!(self.pre.instantiate_async(&mut *store));
            std::future::poll_fn(|context| {
                with_image(&self.module.image, &charge, || {
                    making.as_mut().poll(context)
                })
            })
            .await?
        };
        let start = instance.get_typed_func::<(), ()>(&mut *store, self.module.entry)?;
        start.call_async(store, ()).await
    }
}
