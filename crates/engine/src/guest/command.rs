//! Guests that are WASI commands: each call runs the program once, which reads its request from
//! standard input and prints the response.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{Instance, InstancePre, Store};

use crate::engine::Engine;
use crate::error::{CallError, LoadError, LoadErrorKind, Stop};
use crate::guest::instance::{
    GuestContext, INITIALISATION_TIME, INITIALISATION_WALL_TIME, InstanceConfig, KvInput,
    PrintedOutput, STACK_COST, check_minimum_memory,
};
use crate::guest::prestart::ParkedInstance;
use crate::guest::protocol;
use crate::guest::reuse::{Reuse, ReusedInstance};
use crate::host::clocks::SavedClocks;
use crate::host::state::{Host, Io};
use crate::host::stdio::{AwaitedInput, PrestartInput, Stdin};
use crate::interpreter::state::{ExposedGlobals, InstanceState};
use crate::memory::account::Charge;
use crate::memory::pool::with_image;
use crate::memory::quota::FREE_OUTPUT;
use crate::module::{INITIALIZE, Initialiser, Module, instantiable};
use crate::schedule::cpu::CpuUsage;
use crate::spec::{Call, GuestLimits};

/// The response that a command printed. Stores what it changed of its key/value namespace, which it
/// read as `input`.
pub(crate) async fn respond(
    guest: &GuestContext,
    printed: PrintedOutput,
    input: Option<KvInput>,
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
    if let (Some(input), Some(after)) = (input, after) {
        input.store(guest, after).await?;
    }
    Ok(response)
}

/// A command or reactor: `_start` or `_initialize` of a new instance.
pub(crate) struct Command {
    pre: InstancePre<Host>,
    module: Module,
    /// The state after `_initialize`, if instances start from there.
    initial: Option<InitialState>,
    /// Instances that have answered a request and may answer another one.
    pub(crate) reuse: Reuse<CommandInstance>,
}

/// An instance of a command.
pub(crate) struct CommandInstance {
    store: Store<Host>,
    /// `None` until it is instantiated.
    instance: Option<Instance>,
}

/// How a program ended that succeeded.
#[derive(Clone, Copy, PartialEq)]
enum ProgramEnd {
    Returned,
    /// It called `proc_exit`: its instance is in an unknown state.
    Exited,
}

/// The state in which instances start.
struct InitialState {
    state: InstanceState,
    clocks: SavedClocks,
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
            initial: None,
            reuse: Reuse::never(),
        })
    }

    /// Returns the pages of the code to the system.
    pub(crate) fn release_code(&self) {
        self.module.release_code();
    }

    /// Whether an instance can answer several requests.
    pub(crate) fn is_reusable(&self) -> bool {
        self.module.initialiser.is_some()
    }

    /// Rejects a module without a state after `_initialize` that can be kept.
    pub(crate) fn check_initialiser(&self) -> Result<(), LoadError> {
        let no_snapshot = "no snapshot can be taken (`instances.snapshot`)";
        match &self.module.initialiser {
            Some(Initialiser::Exposed) => Ok(()),
            Some(Initialiser::Hidden(error)) => {
                Err(LoadError::unsupported(no_snapshot).caused_by(error.clone()))
            }
            None => Err(LoadError::unsupported(format!(
                "{no_snapshot}: it does not export both `_initialize` and `wws_handle`"
            ))),
        }
    }

    /// Runs `_initialize` and keeps the state that it reached: every instance starts there.
    pub(crate) async fn initialise(&mut self, guest: &GuestContext) -> Result<(), LoadError> {
        let limits = &guest.grants.limits;
        let cpu_time = limits.cpu_time.max(INITIALISATION_TIME);
        let fail = |error: CallError| {
            LoadError::new(LoadErrorKind::Program, "while it was initialised").caused_by(error)
        };
        let charge = guest.reserve(self.instance_cost()).await.map_err(fail)?;
        let mut store = guest.store(InstanceConfig {
            charge,
            memory: self.module.minimum_memory,
            cpu_time,
            usage: Arc::default(),
            request_id: String::new(),
            trace: None,
            io: Io::Command(Stdin::new(Vec::new())),
        });
        let globals = ExposedGlobals::of(&self.module.code);
        let run = async |store: &mut Store<Host>| {
            let instance = self.instantiate(store).await?;
            let new = globals.values(store, &instance);
            let initialize = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)?;
            initialize.call_async(&mut *store, ()).await?;
            wasmtime::error::Ok((instance, new))
        };
        let _running = guest.engine.ticker().run();
        let time_limit = limits.wall_time.max(INITIALISATION_WALL_TIME);
        let (instance, new) = match tokio::time::timeout(time_limit, run(&mut store)).await {
            Err(_) => return Err(fail(CallError::WallTime(time_limit))),
            Ok(Err(error)) => {
                let refused = store.data().quota.refused;
                return Err(fail(guest.failure(error, refused, cpu_time)));
            }
            Ok(Ok(initialised)) => initialised,
        };
        let now = globals.values(&mut store, &instance);
        let instance = (&mut store, &instance);
        let state = InstanceState::take(&guest.engine, instance, new, now, limits.memory)?;
        let clocks = store.data().clocks.save();
        self.initial = Some(InitialState { state, clocks });
        Ok(())
    }

    /// Answers a request, in the `parked` instance if there is one.
    pub(crate) async fn answer(
        &self,
        guest: &GuestContext,
        call: Call,
        parked: Option<ParkedInstance>,
        usage: Arc<CpuUsage>,
    ) -> Result<http::Response<Bytes>, CallError> {
        let kv = guest.kv_input().await?;
        let entries = KvInput::entries(kv.as_ref());
        let input = protocol::RequestInput::new(&call, &entries);
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
                let trace = guest.trace(call.request.headers());
                let mut instance = match self.reuse.take() {
                    Some((mut instance, waited)) => {
                        let charge = guest.reserve_in_time(input_len).await?;
                        let stdin = input.encode(input_len)?;
                        let store = &mut instance.instance.store;
                        guest.renew(store, usage, waited);
                        store
                            .data_mut()
                            .renew_command(stdin, charge, call.request_id);
                        store.data_mut().begin_trace(trace);
                        instance
                    }
                    None => {
                        let cost = self.instance_cost() + input_len;
                        let charge = guest.reserve_in_time(cost).await?;
                        let stdin = Stdin::new(input.encode(input_len)?);
                        let mut store = self.store(guest, charge, usage, stdin, call.request_id);
                        store.data_mut().begin_trace(trace);
                        ReusedInstance::new(CommandInstance {
                            store,
                            instance: None,
                        })
                    }
                };
                drop(call.request);
                let _running = guest.engine.ticker().run();
                let (printed, end) = self.print(guest, &mut instance.instance).await?;
                let response = respond(guest, printed, kv).await?;
                if end == ProgramEnd::Returned {
                    instance.instance.store.data_mut().report_call();
                    self.reuse.put(instance);
                }
                return Ok(response);
            }
        };
        respond(guest, printed, kv).await
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
        let mut instance = CommandInstance {
            store: self.store(guest, charge, usage, stdin, String::new()),
            instance: None,
        };
        Ok(self.print(guest, &mut instance).await?.0)
    }

    /// What an instance costs before it has run: memory, the instance itself, its stack, a little
    /// output.
    pub(crate) fn instance_cost(&self) -> u64 {
        self.start_memory() + self.module.instance_size + STACK_COST + FREE_OUTPUT
    }

    /// Bytes of memory that an instance starts with.
    fn start_memory(&self) -> u64 {
        match &self.initial {
            Some(initial) => initial.state.memory,
            None => self.module.minimum_memory,
        }
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
            memory: self.start_memory(),
            cpu_time: guest.grants.limits.cpu_time,
            usage,
            request_id,
            trace: None,
            io: Io::Command(stdin),
        })
    }

    /// Runs the program of an instance and returns what it printed, and how it ended.
    async fn print(
        &self,
        guest: &GuestContext,
        instance: &mut CommandInstance,
    ) -> Result<(PrintedOutput, ProgramEnd), CallError> {
        let limits = &guest.grants.limits;
        let started = self.start(instance).await;
        let store = &mut instance.store;
        let end = match started {
            Ok(()) => ProgramEnd::Returned,
            Err(error) if matches!(error.downcast_ref(), Some(Stop::Exit(0))) => ProgramEnd::Exited,
            Err(error) => {
                let refused = store.data().quota.refused;
                return Err(guest.failure(error, refused, limits.cpu_time));
            }
        };
        let host = store.data_mut();
        let bytes = std::mem::take(&mut host.stdout);
        let charge = host
            .quota
            .take_output(protocol::decoding_cost(bytes.len()))
            .map_err(|_| CallError::NoMemory {
                buffers: limits.buffers,
            })?;
        Ok((PrintedOutput { bytes, charge }, end))
    }

    async fn start(&self, instance: &mut CommandInstance) -> wasmtime::Result<()> {
        let CommandInstance { store, instance } = instance;
        let instance = match instance {
            Some(instance) => *instance,
            None => *instance.insert(self.make(store).await?),
        };
        // By their indices: looking names up takes as long as a small guest's call of the host.
        let exported = |store: &mut Store<Host>, export| {
            let export = instance.get_module_export(store, export);
            export.ok_or_else(|| wasmtime::Error::msg("an export is missing"))
        };
        if store.data().memory.is_none() {
            store.data_mut().memory = exported(store, &self.module.memory)?.into_memory();
        }
        let start = exported(store, &self.module.entry)?.into_func();
        let start = start.ok_or_else(|| wasmtime::Error::msg("the entry is no function"))?;
        let start = start.typed::<(), ()>(&*store)?;
        start.call_async(store, ()).await
    }

    /// Makes an instance, in the state from which it answers.
    async fn make(&self, store: &mut Store<Host>) -> wasmtime::Result<Instance> {
        let instance = self.instantiate(store).await?;
        if let Some(initial) = &self.initial {
            initial.state.restore_globals(store, &instance)?;
            store.data_mut().clocks.resume(initial.clocks);
        } else if self.module.initialiser.is_some() {
            let initialize = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)?;
            initialize.call_async(&mut *store, ()).await?;
        }
        Ok(instance)
    }

    /// Makes an instance, whose memory starts as the image.
    async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Instance> {
        let image = match &self.initial {
            Some(initial) => &initial.state.image,
            None => &self.module.image,
        };
        let charge = store.data().quota.charge().clone();
        let mut making = pin!(self.pre.instantiate_async(&mut *store));
        let polled = std::future::poll_fn(|context| {
            with_image(image, &charge, || making.as_mut().poll(context))
        });
        polled.await
    }
}
