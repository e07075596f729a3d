//! A module linked with what it was given, and calls of it: a fresh instance for each.

use std::{future::Future, os::fd::OwnedFd, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use wasmtime::{InstancePre, Store, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, filesystem::WasiFilesystemCtx};

use crate::{
    CallError, LoadError,
    account::Charge,
    ahead::{Ahead, Awaited, Input, Parked},
    budget::{FREE_GROWTH, FREE_OUTPUT, Quota, QuotaLimits, Refused},
    engine::{Engine, Module, WASM_STACK},
    error::{Stop, one_line},
    folders::Folders,
    guest_log::GuestLog,
    host::Host,
    kv_view::KvView,
    lane::{CpuMeter, Habit, Laned, Usage},
    memory::with_image,
    open_files::OpenFiles,
    protocol,
    snapshot::{Boxed, ProgramError, Snapshot},
};

/// What a guest is given, beside its code.
pub struct GuestSpec {
    /// Name in logs.
    pub name: String,
    /// WASI environment.
    pub env: Vec<(String, String)>,
    /// WASI arguments; the first is the program's name.
    pub args: Vec<String>,
    /// Folders that the guest sees.
    pub folders: Vec<PreopenedFolder>,
    /// Key/value store and the namespace in it.
    pub kv: Option<(Arc<dyn wws_kv::Store>, String)>,
    /// Outgoing HTTP: the policy and the client, or none.
    pub http: Option<(wws_outbound::Policy, wws_outbound::Client)>,
    /// Bounds of one call.
    pub limits: GuestLimits,
}

/// A folder of the host that a guest sees.
pub struct PreopenedFolder {
    /// The opened folder.
    pub dir: std::fs::File,
    /// Where the guest sees it; absolute.
    pub to: String,
}

/// What a call is charged for its native stack and its state in the host, in bytes: a guest may use as much stack.
pub(crate) const STACK_COST: u64 = WASM_STACK as u64 + (64 << 10);

/// Bounds of one call.
#[derive(Clone, Debug)]
pub struct GuestLimits {
    /// Linear memory in bytes.
    pub memory: u64,
    /// Elements of a table.
    pub table_elements: u32,
    /// CPU time.
    pub cpu_time: Duration,
    /// Wall-clock time.
    pub wall_time: Duration,
    /// Bytes of standard output.
    pub output: u64,
    /// Bytes that the host keeps for the call beside the guest's memory and its input: its output, messages, contents of files.
    pub buffers: u64,
    /// Bytes of standard error that reach the log.
    pub log: u64,
    /// Outgoing HTTP requests.
    pub http_calls: u32,
    /// Files that are open at once.
    pub open_files: u32,
}

/// One call of a guest.
pub struct Call {
    /// The request; its URI is the full URL.
    pub request: http::Request<Bytes>,
    /// Parameters of the route.
    pub params: Vec<(String, String)>,
    /// For logs.
    pub request_id: String,
}

/// A module linked with what it was given: ready to be called. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    engine: Engine,
    inner: Arc<Inner>,
    code: Code,
    ahead: Option<Arc<Ahead>>,
    /// Dropped with the last clone.
    _kept: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// How a call begins.
#[derive(Clone)]
enum Code {
    /// A WASI command or reactor: `_start` or `_initialize` of a new instance.
    Command {
        pre: Arc<InstancePre<Host>>,
        module: Module,
    },
    /// A program that goes on where its snapshot ended.
    Snapshot(Arc<Snapshot>),
}

/// What all calls of a guest share.
pub(crate) struct Inner {
    name: Arc<str>,
    pub(crate) env: Vec<Box<[u8]>>,
    pub(crate) args: Vec<Box<[u8]>>,
    folder_names: Vec<String>,
    pub(crate) folders: Folders,
    /// All preopened directories, in the order of their descriptors.
    pub(crate) preopened: Vec<OwnedFd>,
    pub(crate) files: WasiFilesystemCtx,
    kv: Option<(Arc<dyn wws_kv::Store>, String)>,
    pub(crate) http: Option<(wws_outbound::Policy, wws_outbound::Client)>,
    pub(crate) limits: GuestLimits,
    habit: Habit,
}

/// What one instance is made with.
pub(crate) struct InstanceConfig {
    /// What was reserved for it: `memory`, and its fixed cost.
    pub(crate) charge: Charge,
    /// Linear memory that it starts with, in bytes.
    pub(crate) memory: u64,
    pub(crate) cpu_time: Duration,
    pub(crate) usage: Arc<Usage>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) request_id: String,
}

/// What a guest printed, and the memory that is charged for it.
pub(crate) struct Printed {
    bytes: Vec<u8>,
    charge: Option<Charge>,
}

/// Reserves memory for an instance, as soon as there is enough.
pub(crate) async fn reserve(engine: &Engine, bytes: u64) -> Result<Charge, CallError> {
    let charge = engine.calls().reserve(bytes).await;
    charge.ok_or(CallError::NoRoom {
        needed: bytes,
        total: engine.memory(),
    })
}

/// Reserves memory for a call, which waits for it no longer than for its turn.
async fn reserve_in_time(engine: &Engine, bytes: u64) -> Result<Charge, CallError> {
    // Most need not wait.
    if let Some(charge) = engine.calls().charge(bytes) {
        return Ok(charge);
    }
    let time = engine.queue_timeout();
    tokio::time::timeout(time, reserve(engine, bytes))
        .await
        .unwrap_or(Err(CallError::Busy(time)))
}

impl Inner {
    pub(crate) fn new(spec: GuestSpec, read_only: Vec<PreopenedFolder>) -> Result<Self, LoadError> {
        let mut wasi = WasiCtxBuilder::new();
        let mut folder_names = Vec::with_capacity(spec.folders.len());
        let mut folders = Vec::with_capacity(spec.folders.len());
        let mut preopened = Vec::with_capacity(spec.folders.len());
        let all = read_only
            .into_iter()
            .map(|folder| (folder, FsPerms::ReadOnly, false))
            .chain(spec.folders.into_iter().map(|folder| {
                let permissions = permissions(&folder.dir);
                (folder, permissions, true)
            }));
        for (folder, permissions, is_given) in all {
            use std::os::fd::AsRawFd;
            // wasmtime-wasi opens folders by path; the descriptor's own path names the very folder that was checked.
            let path = format!("/proc/self/fd/{}", folder.dir.as_raw_fd());
            wasi.preopened_dir(path, &folder.to, permissions)
                .map_err(|error| {
                    LoadError(format!("cannot open the folder for {}: {error}", folder.to))
                })?;
            folder_names.push(folder.to.clone());
            preopened.push(folder.dir.try_clone().map(OwnedFd::from).map_err(|error| {
                LoadError(format!("cannot open the folder for {}: {error}", folder.to))
            })?);
            if is_given {
                folders.push((folder.dir.into(), folder.to));
            }
        }
        Ok(Self {
            name: spec.name.into(),
            env: spec
                .env
                .into_iter()
                .map(|(name, value)| c_string("a variable", format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            args: spec
                .args
                .into_iter()
                .map(|arg| c_string("an argument", arg))
                .collect::<Result<_, _>>()?,
            folder_names,
            folders: Folders::new(folders),
            preopened,
            files: wasi.build().filesystem().clone(),
            kv: spec.kv,
            http: spec.http,
            limits: spec.limits,
            habit: Habit::default(),
        })
    }

    /// A store for one instance.
    pub(crate) fn store(
        self: &Arc<Self>,
        engine: &Engine,
        instance: InstanceConfig,
    ) -> Store<Host> {
        let limits = &self.limits;
        let InstanceConfig {
            charge,
            memory,
            cpu_time,
            usage,
            stdin,
            request_id,
        } = instance;
        let quota_limits = QuotaLimits {
            memory: limits.memory,
            table_elements: limits.table_elements,
            buffers: limits.buffers,
        };
        let quota = Quota::new(engine.account(), charge, memory, &quota_limits);
        let log = GuestLog::new(self.name.clone(), request_id, limits.log);
        let cpu = CpuMeter::new(usage, cpu_time);
        let files = OpenFiles::new(engine.files().clone(), limits.open_files);
        let host = Host::new(self.clone(), stdin, log, quota, files, cpu);
        let mut store = Store::new(engine.wasmtime(), host);
        store.limiter(|host| &mut host.quota);
        // The first tick may be about to come: a guest has at least one whole tick before it is looked at.
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

    /// What ended an instance.
    pub(crate) fn failure(
        &self,
        error: &wasmtime::Error,
        refused: Option<Refused>,
        cpu_time: Duration,
    ) -> CallError {
        match error.downcast_ref::<Stop>() {
            // Some interpreters end like this where they get no memory.
            Some(Stop::Exit(code)) if refused.is_some() => {
                CallError::Failed(format!("{}exited with code {code}", refusal(refused)))
            }
            Some(Stop::Exit(code)) => CallError::Exit(*code),
            Some(Stop::CpuTime) => CallError::CpuTime(cpu_time),
            Some(Stop::Output) => CallError::TooMuchOutput(self.limits.output),
            Some(Stop::Memory) => CallError::NoMemory {
                buffers: self.limits.buffers,
            },
            // Only while a snapshot is made, by who asked for it.
            Some(Stop::Suspended) | None => {
                CallError::Trap(format!("{}{}", refusal(refused), one_line(error)))
            }
        }
    }

    /// Where the guest sees the folder of a descriptor; they begin at 3.
    pub(crate) fn folder_name(&self, fd: i32) -> Option<&str> {
        self.folder_names
            .get(self.folder_index(fd)?)
            .map(String::as_str)
    }

    /// The number of the preopened directory that had this descriptor at the start.
    pub(crate) fn folder_index(&self, fd: i32) -> Option<usize> {
        let index = usize::try_from(fd).ok()?.checked_sub(3)?;
        (index < self.folder_names.len()).then_some(index)
    }
}

/// What a guest may do in a folder: on a file system that is mounted read-only, wasmtime-wasi says so better than the kernel's error,
/// for which WASI's table has no place.
fn permissions(dir: &std::fs::File) -> FsPerms {
    match rustix::fs::fstatvfs(dir) {
        Ok(status)
            if status
                .f_flag
                .contains(rustix::fs::StatVfsMountFlags::RDONLY) =>
        {
            FsPerms::ReadOnly
        }
        _ => FsPerms::ReadWrite,
    }
}

fn c_string(what: &str, text: String) -> Result<Box<[u8]>, LoadError> {
    if text.contains('\0') {
        return Err(LoadError(format!("{what} has a NUL character")));
    }
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Ok(bytes.into())
}

/// Memory that was refused, as the start of a log line.
fn refusal(refused: Option<Refused>) -> &'static str {
    match refused {
        Some(Refused::Limit) => "out of memory (`limits.memory`): ",
        Some(Refused::Budget) => "out of memory (`server.memory`): ",
        Some(Refused::Table) => "table too large (`limits.table_elements`): ",
        Some(Refused::Buffers) => "no memory to keep more for the call (`limits.buffers`): ",
        None => "",
    }
}

impl Guest {
    pub(crate) fn new(
        engine: &Engine,
        module: &Module,
        spec: GuestSpec,
        read_only: Vec<PreopenedFolder>,
    ) -> Result<Self, LoadError> {
        if module.minimum_memory > spec.limits.memory {
            return Err(LoadError(format!(
                "the module starts with {} bytes of memory, `limits.memory` allows {}",
                module.minimum_memory, spec.limits.memory
            )));
        }
        if module.minimum_memory > engine.memory() {
            return Err(LoadError(format!(
                "the module starts with {} bytes of memory, all guests together may use {} (`server.memory`)",
                module.minimum_memory,
                engine.memory()
            )));
        }
        let pre = engine.link(module)?;
        Ok(Self {
            engine: engine.clone(),
            inner: Arc::new(Inner::new(spec, read_only)?),
            code: Code::Command {
                pre: Arc::new(pre),
                module: module.clone(),
            },
            ahead: None,
            _kept: None,
        })
    }

    /// Keeps something that is dropped with the last clone of the guest.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn std::any::Any + Send + Sync>) -> Self {
        self._kept = Some(kept);
        self
    }

    /// Starts instances before requests come, each for one request: for programs that do much before they read their standard input.
    /// What they do until then is not seen by any other instance.
    #[must_use]
    pub fn started_ahead(mut self) -> Self {
        let ahead = Arc::new(Ahead::default());
        self.engine.keep_ahead(&ahead);
        ahead.begin(&self);
        self.ahead = Some(ahead);
        self
    }

    pub(crate) fn without_ahead(mut self) -> Self {
        self.ahead = None;
        self
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn of_snapshot(engine: Engine, inner: Arc<Inner>, snapshot: Snapshot) -> Self {
        Self {
            engine,
            inner,
            code: Code::Snapshot(Arc::new(snapshot)),
            ahead: None,
            _kept: None,
        }
    }

    /// Memory that a call begins with, without its input, and what it may grow by in any case, in bytes.
    #[must_use]
    pub fn call_cost(&self) -> u64 {
        let cost = match &self.code {
            Code::Command { module, .. } => self.instance_cost(module),
            Code::Snapshot(snapshot) => snapshot_cost(snapshot),
        };
        cost + FREE_GROWTH
    }

    /// Calls the guest in a fresh instance. Dropping the future ends the call.
    ///
    /// # Errors
    /// Whatever the guest did wrong, and each limit that it met; see [`CallError`].
    pub async fn call(&self, call: Call) -> Result<http::Response<Bytes>, CallError> {
        let parked = self.ahead.as_ref().and_then(|ahead| ahead.take(self));
        let usage = match &parked {
            Some(parked) => parked.usage.clone(),
            None => Arc::default(),
        };
        let run = Box::pin(self.clone().run(call, parked, usage.clone()));
        let laned = Laned::new(run, &usage, self.engine.slow_lane(), &self.inner.habit);
        let limit = self.inner.limits.wall_time;
        match tokio::time::timeout(limit, laned).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(CallError::Engine("the call panicked".into())),
            Err(_) => Err(CallError::WallTime(limit)),
        }
    }

    async fn run(
        self,
        call: Call,
        parked: Option<Parked>,
        usage: Arc<Usage>,
    ) -> Result<http::Response<Bytes>, CallError> {
        match &self.code {
            Code::Command { pre, module } => {
                self.run_command(pre, module, call, parked, usage).await
            }
            Code::Snapshot(snapshot) => self.run_snapshot(snapshot, call, usage).await,
        }
    }

    async fn run_command(
        &self,
        pre: &InstancePre<Host>,
        module: &Module,
        call: Call,
        parked: Option<Parked>,
        usage: Arc<Usage>,
    ) -> Result<http::Response<Bytes>, CallError> {
        let before = match &self.inner.kv {
            Some((store, namespace)) => Some(store.snapshot(namespace).await?),
            None => None,
        };
        let empty = wws_kv::Map::default();
        let input = protocol::Input::new(&call, before.as_ref().unwrap_or(&empty));
        let input_len = input.max_len();
        let printed = match parked {
            Some(Parked {
                run, input: waits, ..
            }) => {
                let charge = reserve_in_time(&self.engine, input_len).await?;
                let stdin = input.encode(input_len)?;
                let request_id = call.request_id;
                // Its memory is free while the guest runs.
                drop(call.request);
                let _running = self.engine.ticker().run();
                // It waits for this, or has ended, which it says itself.
                let _ = waits.send(Input {
                    stdin,
                    charge,
                    request_id,
                });
                run.await?
            }
            None => {
                let cost = self.instance_cost(module) + input_len;
                let charge = reserve_in_time(&self.engine, cost).await?;
                let stdin = input.encode(input_len)?;
                let request_id = call.request_id;
                drop(call.request);
                let _running = self.engine.ticker().run();
                let store = self.store_of(module, charge, usage, stdin, request_id);
                self.print(pre, module, store).await?
            }
        };
        let Printed { bytes, mut charge } = printed;
        let (response, after) = protocol::output(&bytes)?;
        drop(bytes);
        if let Some(charge) = &mut charge {
            charge.shrink_to(response.body().len() as u64);
        }
        let response = match charge {
            Some(charge) => response.map(|body| charge.hold(body)),
            None => response,
        };
        if let (Some((store, namespace)), Some(before), Some(after)) =
            (&self.inner.kv, before, after)
        {
            let changes = wws_kv::diff(&before, after);
            if !changes.is_empty() {
                store.apply(namespace, changes).await?;
            }
        }
        Ok(response)
    }

    /// What an instance of a command costs before it has run: memory, the instance itself, its stack, a little output.
    fn instance_cost(&self, module: &Module) -> u64 {
        module.minimum_memory + module.instance_size + STACK_COST + FREE_OUTPUT
    }

    fn store_of(
        &self,
        module: &Module,
        charge: Charge,
        usage: Arc<Usage>,
        stdin: Vec<u8>,
        request_id: String,
    ) -> Store<Host> {
        let instance = InstanceConfig {
            charge,
            memory: module.minimum_memory,
            cpu_time: self.inner.limits.cpu_time,
            usage,
            stdin,
            request_id,
        };
        self.inner.store(&self.engine, instance)
    }

    /// Runs an instance that waits for its input.
    pub(crate) fn print_ahead(
        self,
        awaited: Awaited,
        usage: Arc<Usage>,
    ) -> Boxed<'static, Result<Printed, CallError>> {
        Box::pin(async move {
            let Code::Command { pre, module } = &self.code else {
                return Err(CallError::Engine("no command".into()));
            };
            let charge = reserve(&self.engine, self.instance_cost(module)).await?;
            let mut store = self.store_of(module, charge, usage, Vec::new(), String::new());
            store.data_mut().awaited = Some(awaited);
            self.print(pre, module, store).await
        })
    }

    /// Runs the program of a fresh instance and returns what it printed.
    async fn print(
        &self,
        pre: &InstancePre<Host>,
        module: &Module,
        mut store: Store<Host>,
    ) -> Result<Printed, CallError> {
        let limits = &self.inner.limits;
        if let Err(error) = start(&mut store, pre, module).await
            && !matches!(error.downcast_ref(), Some(Stop::Exit(0)))
        {
            let refused = store.data().quota.refused;
            return Err(self.inner.failure(&error, refused, limits.cpu_time));
        }
        let host = store.data_mut();
        let bytes = std::mem::take(&mut host.stdout);
        let charge = host
            .quota
            .take_output(protocol::decoding_cost(bytes.len()))
            .map_err(|_| CallError::NoMemory {
                buffers: limits.buffers,
            })?;
        Ok(Printed { bytes, charge })
    }

    async fn run_snapshot(
        &self,
        snapshot: &Snapshot,
        call: Call,
        usage: Arc<Usage>,
    ) -> Result<http::Response<Bytes>, CallError> {
        let limits = &self.inner.limits;
        let cost = snapshot_cost(snapshot);
        let instance = InstanceConfig {
            charge: reserve_in_time(&self.engine, cost).await?,
            memory: snapshot.memory,
            cpu_time: limits.cpu_time,
            usage: usage.clone(),
            stdin: Vec::new(),
            request_id: call.request_id.clone(),
        };
        let mut store = self.inner.store(&self.engine, instance);
        store.data_mut().clocks.resume(snapshot.clocks);
        if let Some((kv, namespace)) = &self.inner.kv {
            let buffers = store.data_mut().quota.buffers().clone();
            let view = KvView::new(kv, namespace, limits.output, &buffers).await?;
            store.data_mut().kv = Some(view);
        }
        let _running = self.engine.ticker().run();
        let answered = match snapshot.restore(store, usage).await {
            Ok(mut vm) => {
                let result = snapshot.program.answer(&mut vm, call).await;
                let host = vm.host();
                result
                    .map(|response| (held(host, response), host.kv.take()))
                    .map_err(|error| (error, host.quota.refused))
            }
            Err(error) => Err((error.into(), None)),
        };
        match answered {
            Ok((response, kv)) => {
                if let Some(kv) = kv {
                    kv.commit().await?;
                }
                Ok(response)
            }
            Err((ProgramError::Failed(text), refused)) => {
                Err(CallError::Failed(format!("{}{text}", refusal(refused))))
            }
            Err((ProgramError::Wasm(error), refused)) => {
                Err(self.inner.failure(&error, refused, limits.cpu_time))
            }
        }
    }
}

/// What an instance of a snapshot costs before it has run.
fn snapshot_cost(snapshot: &Snapshot) -> u64 {
    snapshot.memory + snapshot.instance_size() + STACK_COST + FREE_OUTPUT
}

/// A program's answer, whose body is charged until it was sent.
fn held(host: &mut Host, response: http::Response<Bytes>) -> http::Response<Bytes> {
    let len = response.body().len() as u64;
    if len <= FREE_OUTPUT {
        return response;
    }
    match host.hold(len) {
        Ok(charge) => response.map(|body| charge.hold(body)),
        // It is there already; what follows is refused.
        Err(_) => response,
    }
}

async fn start(
    store: &mut Store<Host>,
    pre: &InstancePre<Host>,
    module: &Module,
) -> wasmtime::Result<()> {
    let instance = {
        let charge = store.data().quota.charge().clone();
        let mut making = pin!(pre.instantiate_async(&mut *store));
        std::future::poll_fn(|context| {
            with_image(&module.image, &charge, || making.as_mut().poll(context))
        })
        .await?
    };
    let start = instance.get_typed_func::<(), ()>(&mut *store, module.entry)?;
    start.call_async(store, ()).await
}
