//! The state of a call, on which the functions that a guest imports work.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Response;
use tokio::sync::oneshot;
use wasmtime::{AsContextMut, Caller, Memory};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxBuilder, WasiView};
use wws_outbound::MemoryCharge;
use wws_websocket::End;

use crate::body::{BegunBody, BodySender};
use crate::error::{MemoryRefusal, Stop};
use crate::host::clocks::{ClockId, Clocks};
use crate::host::component::io::ComponentIo;
use crate::host::directories::Directories;
use crate::host::grants::GuestGrants;
use crate::host::kv::KvView;
use crate::host::log::GuestLog;
use crate::host::no_memory::NoMemory;
use crate::host::open_files::OpenFiles;
use crate::host::readdir::DirectoryPath;
use crate::host::report::CallTrace;
use crate::host::stdio::Stdin;
use crate::memory::account::Charge;
use crate::memory::quota::Quota;
use crate::schedule::cpu::{CpuMeter, Wait, measure_wait};
use crate::spec::GuestLimits;

/// The host's state of one call.
pub struct Host {
    pub(crate) grants: Arc<GuestGrants>,
    /// How the guest receives its request and answers.
    pub(crate) io: Io,
    pub(crate) stdout: Vec<u8>,
    pub(crate) log: GuestLog,
    /// Standard streams that the guest closed.
    pub(crate) closed: [bool; 3],
    /// The guest's memory, once it was looked up.
    pub(crate) memory: Option<Memory>,
    pub(crate) quota: Quota,
    pub(crate) open_files: OpenFiles,
    /// Whether the guest's allocator runs for an import. Meanwhile, it may not call that import.
    pub(crate) in_allocator: bool,
    /// Outgoing HTTP requests that are left.
    pub(crate) http_calls: u32,
    pub(crate) clocks: Clocks,
    pub(crate) cpu: CpuMeter,
    /// Whether what the call used was reported.
    is_reported: bool,
    /// The trace that the call belongs to.
    pub(crate) trace: Option<CallTrace>,
    wasi: Option<Box<WasiP1Ctx>>,
}

/// How a guest receives its request and answers.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one per call, in the allocation of its store"
)]
pub(crate) enum Io {
    /// A command reads the request from standard input and prints the response.
    Command(Stdin),
    /// A [`Program`](crate::interpreter::vm::Program) passes the request to an interpreter.
    Kit(Kit),
    /// A component has interfaces for it.
    Component(Box<ComponentIo>),
}

/// What a call of an interpreter has besides what every call has.
#[derive(Default)]
pub(crate) struct Kit {
    pub(crate) kv: Option<KvView>,
    /// The program's own state.
    state: Option<Box<dyn Any + Send>>,
    channel: Option<Arc<dyn Channel>>,
    /// Takes the head of a response that is sent while the program runs.
    head: Option<oneshot::Sender<Response<BegunBody>>>,
    /// Whether reading a clock stops the run.
    suspended: bool,
    /// Whether the key/value store may have changed since it was read.
    is_kv_stale: bool,
}

impl Kit {
    /// A call that may send its response while it runs.
    pub(crate) fn with_head(head: Option<oneshot::Sender<Response<BegunBody>>>) -> Self {
        Self {
            head,
            ..Self::default()
        }
    }
}

/// Answers an interpreter's kit, which writes messages and reads replies.
pub trait Channel: Send + Sync + 'static {
    /// Takes a message, or a part of one, that the kit wrote, and waits for what the kit waits for.
    fn written<'a>(
        &'a self,
        host: &'a mut Host,
        bytes: Vec<u8>,
    ) -> BoxFuture<'a, wasmtime::Result<()>>;

    /// Writes the next bytes of the reply to `to`. Returns their number; 0 at the reply's end.
    fn read(&self, host: &mut Host, to: &mut [u8]) -> usize;
}

/// Whether a call stopped because of [`Host::suspend`].
#[must_use]
pub fn is_suspended(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(Stop::Suspended))
}

/// Records that a guest waited; the time does not count as CPU time.
pub(crate) fn waited(mut context: impl AsContextMut<Data = Host>, wait: Option<Wait>) {
    let Some(wait) = wait else {
        return;
    };
    let mut store = context.as_context_mut();
    let host = store.data_mut();
    host.clocks.waited(wait.time);
    host.cpu.waited(&wait);
    // The guest runs for a whole tick before it is measured, unless it has to stop now.
    let ticks = if host.cpu.is_over() { 0 } else { 2 };
    store.set_epoch_deadline(ticks);
}

/// Waits within a function of the host. The time does not count as CPU time.
pub async fn wait_in<F: Future>(caller: &mut Caller<'_, Host>, future: F) -> F::Output {
    let (output, wait) = measure_wait(future).await;
    waited(caller, wait);
    output
}

/// The value of a key in the guest's namespace as [`Host::current_kv`] has it, while the guest's
/// time stands still. `None` without a namespace.
///
/// # Errors
/// The store failed.
pub async fn kv_value_in(
    caller: &mut Caller<'_, Host>,
    key: &str,
) -> Result<Option<Option<String>>, wws_kv::Error> {
    let reading = async {
        match caller.data_mut().current_kv().await? {
            Some(kv) => kv.get(key).await.map(Some),
            None => Ok(None),
        }
    };
    let (value, wait) = measure_wait(reading).await;
    waited(caller, wait);
    value
}

impl wws_websocket::MemoryCharge for Charge {
    fn resize(&mut self, bytes: u64) -> bool {
        self.shrink_to(bytes);
        self.grow_to(bytes)
    }
}

impl MemoryCharge for Charge {
    fn grow_to(&mut self, bytes: u64) -> bool {
        Charge::grow_to(self, bytes)
    }

    fn shrink_to(&mut self, bytes: u64) {
        Charge::shrink_to(self, bytes);
    }
}

impl Host {
    pub(crate) fn new(
        grants: Arc<GuestGrants>,
        io: Io,
        log: GuestLog,
        quota: Quota,
        open_files: OpenFiles,
        cpu: CpuMeter,
    ) -> Self {
        Self {
            open_files,
            http_calls: grants.limits.http_calls,
            grants,
            io,
            stdout: Vec::new(),
            log,
            closed: [false; 3],
            memory: None,
            quota,
            clocks: Clocks::new(),
            cpu,
            is_reported: false,
            trace: None,
            wasi: None,
            in_allocator: false,
        }
    }

    /// Begins another call of the same instance, which has waited for it. What the guest itself
    /// holds (memory, files) stays.
    pub(crate) fn renew(&mut self, cpu: CpuMeter, waited: Duration) {
        self.http_calls = self.grants.limits.http_calls;
        self.cpu = cpu;
        self.clocks.begin_call(waited);
        self.is_reported = false;
        self.quota.refused = None;
        self.in_allocator = false;
    }

    /// Begins another call of an instance that has `active` with it: they share what they may use.
    pub(crate) fn join_call(&mut self, active: u32) {
        self.cpu.extend(self.grants.limits.cpu_time, active);
    }

    /// Reports what the call used, once. An instance that was never given a request has no call.
    pub(crate) fn report_call(&mut self) {
        if let Io::Command(stdin) = &self.io
            && stdin.is_prestarted
        {
            return;
        }
        if !std::mem::replace(&mut self.is_reported, true)
            && let Some(series) = self.grants.series()
        {
            let cpu = self.cpu.used(self.clocks.ran());
            series.used(cpu, self.quota.linear());
        }
    }

    /// Begins another call of a command's instance, with its input.
    pub(crate) fn renew_command(&mut self, stdin: Vec<u8>, charge: Charge, request_id: String) {
        let mut input = Stdin::default();
        input.supply(stdin, charge);
        self.io = Io::Command(input);
        self.renew_log(request_id);
    }

    /// Sets the trace that the call belongs to.
    pub(crate) fn begin_trace(&mut self, trace: Option<CallTrace>) {
        self.log.set_trace(trace.as_ref().map(CallTrace::context));
        self.trace = trace;
    }

    /// Begins the log of another call.
    pub(crate) fn renew_log(&mut self, request_id: String) {
        let limit = self.grants.limits.log;
        self.log = GuestLog::new(self.grants.clone(), request_id, limit);
    }

    pub(crate) fn kit(&self) -> Option<&Kit> {
        match &self.io {
            Io::Kit(kit) => Some(kit),
            Io::Command(_) | Io::Component(_) => None,
        }
    }

    pub(crate) fn kit_mut(&mut self) -> Option<&mut Kit> {
        match &mut self.io {
            Io::Kit(kit) => Some(kit),
            Io::Command(_) | Io::Component(_) => None,
        }
    }

    /// The channel of the guest's kit, if it has one.
    pub(crate) fn channel(&self) -> Option<&Arc<dyn Channel>> {
        self.kit()?.channel.as_ref()
    }

    /// Whether [`Self::suspend`] was called.
    pub(crate) fn is_suspended(&self) -> bool {
        self.kit().is_some_and(|kit| kit.suspended)
    }

    /// Lets `channel` answer the guest's kit from now on. Commands have no kit.
    pub fn set_channel(&mut self, channel: Arc<dyn Channel>) {
        if let Some(kit) = self.kit_mut() {
            kit.channel = Some(channel);
        }
    }

    /// Stops the run of an interpreter when it next reads a clock, within that call. Its memory and
    /// globals stay as they are then, and its functions can be called on top of what was running;
    /// see [`is_suspended`].
    pub fn suspend(&mut self) {
        if let Some(kit) = self.kit_mut() {
            kit.suspended = true;
        }
    }

    /// The error of a guest that printed more than `limits.output`.
    #[must_use]
    pub fn too_much_output() -> wasmtime::Error {
        wasmtime::Error::new(Stop::Output)
    }

    /// The state of `wasmtime-wasi`, created on first use: most guests do not need it.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi.get_or_insert_with(|| {
            let mut wasi = WasiCtxBuilder::new()
                .monotonic_clock(self.clocks)
                .wall_clock(self.clocks)
                .build_p1();
            // The directories were opened once, when the guest was linked.
            *WasiView::ctx(&mut wasi).ctx.filesystem() = self.grants.files.clone();
            Box::new(wasi)
        })
    }

    /// The path of a descriptor's file, in case it is a directory.
    pub(crate) fn directory(&self, fd: i32) -> Option<DirectoryPath> {
        match self.open_files.path(fd) {
            Some(path) => path.cloned(),
            None => self
                .grants
                .directory_index(fd)
                .map(|directory| DirectoryPath {
                    directory,
                    path: String::new(),
                }),
        }
    }

    /// Whether `wasmtime-wasi` was used yet.
    pub(crate) fn has_wasi(&self) -> bool {
        self.wasi.is_some()
    }

    /// The state that a [`Program`](crate::Program) passed to [`Self::set_state`], if its type is
    /// `T`.
    pub fn state<T: 'static>(&mut self) -> Option<&mut T> {
        self.kit_mut()?.state.as_mut()?.downcast_mut()
    }

    /// Keeps a program's own state for this call. Commands have no program.
    pub fn set_state<T: Send + 'static>(&mut self, state: T) {
        if let Some(kit) = self.kit_mut() {
            kit.state = Some(Box::new(state));
        }
    }

    /// Bounds of the call.
    #[must_use]
    pub fn limits(&self) -> &GuestLimits {
        &self.grants.limits
    }

    /// Time since the call began, or, for a guest that starts from a snapshot, since its
    /// initialisation began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clocks.elapsed()
    }

    /// CPU time that the guest used, including its initialisation: the time in which it did not
    /// wait.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.clocks.time(ClockId::Cpu)
    }

    /// Yields to other guests during work that the host does for this one. Counts the work as the
    /// guest's CPU time.
    ///
    /// # Errors
    /// Returns an error if the guest used more CPU time than it may.
    pub async fn give_way(&mut self) -> wasmtime::Result<()> {
        self.cpu.worked();
        if self.cpu.is_over() {
            return Err(wasmtime::Error::new(Stop::CpuTime));
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Moves the call to the slow lane, before work that takes long and cannot be interrupted.
    pub async fn move_to_slow_lane(&mut self) {
        self.cpu.move_to_slow_lane();
        tokio::task::yield_now().await;
    }

    /// Writes to the guest's log. A call may write `limits.log` bytes.
    pub fn log(&mut self, level: tracing::Level, text: &str) {
        self.log.write_at(level, text);
    }

    /// Charges `bytes` that the host is about to keep for the call (a message, a response, the
    /// contents of a file) to `limits.buffers` and to the memory for all calls, until the charge is
    /// dropped. Call this before anything is copied.
    ///
    /// # Errors
    /// Returns an error if so much is not free. It may be passed to the guest; if the call fails,
    /// the log names the limit.
    pub fn hold(&mut self, bytes: u64) -> Result<Charge, NoMemory> {
        self.quota.hold(bytes).ok_or(NoMemory(bytes))
    }

    /// Clears a refusal of memory that was reported to the guest and that it has handled.
    pub fn refusal_was_handled(&mut self) {
        if self.quota.refused == Some(MemoryRefusal::Buffers) {
            self.quota.refused = None;
        }
    }

    /// The call's view of its key/value namespace; `None` if the worker has none.
    pub fn kv(&mut self) -> Option<&mut KvView> {
        self.kit_mut()?.kv.as_mut()
    }

    /// Begins the response of this call, whose body is sent while the program runs. Returns `None`
    /// if it was begun before, or if nobody waits for it.
    pub fn start_response(&mut self, head: Response<()>) -> Option<BodySender> {
        let sender = self.kit_mut()?.head.take()?;
        let (body, stream) = BodySender::new();
        let response = head.map(|()| BegunBody::Stream(stream));
        sender.send(response).is_ok().then_some(body)
    }

    /// Accepts the WebSocket that the request of this call asks for, with the head of the response,
    /// and returns the guest's end of it. Returns `None` if a response was begun before, or if
    /// nobody waits for it.
    pub fn accept_socket(&mut self, head: Response<()>) -> Option<End> {
        let sender = self.kit_mut()?.head.take()?;
        let (guest, connection) = self.socket_ends();
        let response = head.map(|()| BegunBody::Socket(connection));
        sender.send(response).is_ok().then_some(guest)
    }

    /// The two ends of a new socket: for the guest, and for a connection. What waits between them
    /// is charged to `limits.buffers`.
    pub fn socket_ends(&mut self) -> (End, End) {
        let limit = self.limits().stream.socket.queue;
        let buffers = self.quota.buffers();
        wws_websocket::pair(
            limit,
            [Box::new(buffers.nothing()), Box::new(buffers.nothing())],
        )
    }

    /// Records that the call has waited for an event of a socket: what it sees of its key/value
    /// namespace is read again when it is next used.
    pub fn kv_may_have_changed(&mut self) {
        if let Some(kit) = self.kit_mut() {
            kit.is_kv_stale = true;
        }
    }

    /// [`Self::kv`] as it is now, if it may have changed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn current_kv(&mut self) -> Result<Option<&mut KvView>, wws_kv::Error> {
        let Some(kit) = self.kit_mut() else {
            return Ok(None);
        };
        if std::mem::take(&mut kit.is_kv_stale)
            && let Some(view) = &mut kit.kv
        {
            view.renew().await?;
        }
        Ok(kit.kv.as_mut())
    }

    /// Writes what the call changed of its key/value namespace so far: before the end of a response
    /// that is sent while the program runs.
    ///
    /// # Errors
    /// The store failed.
    pub async fn commit_kv(&mut self) -> Result<(), wws_kv::Error> {
        match self.kv() {
            Some(view) => view.commit().await,
            None => Ok(()),
        }
    }

    /// The directories that the guest sees.
    #[must_use]
    pub fn directories(&self) -> &Directories {
        &self.grants.directories
    }
}

/// Reports what a call used that no instance has kept for another one.
impl Drop for Host {
    fn drop(&mut self) {
        self.report_call();
    }
}
