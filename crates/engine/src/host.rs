//! A call's side of the host: what the functions that a guest imports work on.

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use wasmtime::{AsContextMut, Memory};
use wasmtime_wasi::{WasiCtxBuilder, WasiView, p1::WasiP1Ctx};
use wws_outbound::{ErrorKind, MemoryCharge};

use crate::{
    Channel, GuestLimits,
    account::Charge,
    ahead::Awaited,
    budget::{Quota, Refused},
    clocks::{ClockId, Clocks},
    error::Stop,
    folders::Folders,
    guest::Inner,
    guest_log::GuestLog,
    kv_view::KvView,
    lane::{CpuMeter, Wait},
    open_files::OpenFiles,
    readdir::DirectoryPath,
};

/// State of one call.
pub struct Host {
    pub(crate) guest: Arc<Inner>,
    pub(crate) stdin: Vec<u8>,
    /// Standard input is yet to come.
    pub(crate) awaited: Option<Awaited>,
    /// What is charged for input that came after the instance was made.
    pub(crate) input_charge: Option<Charge>,
    /// How much of `stdin` was read.
    pub(crate) read: usize,
    pub(crate) stdout: Vec<u8>,
    pub(crate) log: GuestLog,
    /// Standard streams that the guest closed.
    pub(crate) closed: [bool; 3],
    /// The guest's memory, once it was needed.
    pub(crate) memory: Option<Memory>,
    pub(crate) quota: Quota,
    pub(crate) open_files: OpenFiles,
    /// The guest's allocator runs for an import: it may call no import that calls it.
    pub(crate) in_allocator: bool,
    /// Outgoing HTTP requests that are left.
    pub(crate) http_calls: u32,
    pub(crate) clocks: Clocks,
    pub(crate) cpu: CpuMeter,
    wasi: Option<Box<WasiP1Ctx>>,
    pub(crate) kv: Option<KvView>,
    program: Option<Box<dyn Any + Send>>,
    pub(crate) channel: Option<Arc<dyn Channel>>,
    /// The next look at a clock ends the run.
    pub(crate) suspended: bool,
}

/// Notes that a guest waited: that time is no CPU time of its own.
pub(crate) fn waited(mut context: impl AsContextMut<Data = Host>, wait: Option<Wait>) {
    let Some(wait) = wait else {
        return;
    };
    let mut store = context.as_context_mut();
    let host = store.data_mut();
    host.clocks.waited(wait.time);
    host.cpu.waited(&wait);
    // It has a whole tick before it is looked at, unless it is to end now.
    let ticks = if host.cpu.is_over() { 0 } else { 2 };
    store.set_epoch_deadline(ticks);
}

/// An outgoing request that failed, as a guest may see it.
#[derive(Clone, Debug)]
pub struct HttpFailure {
    /// What went wrong, for programs.
    pub kind: ErrorKind,
    /// What went wrong, for people.
    pub message: String,
}

/// Memory that the host was to keep for a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory to keep {0} bytes for this call (`limits.buffers`, `server.memory`)")]
pub struct NoMemory(pub u64);

impl MemoryCharge for Charge {
    fn grow_to(&mut self, bytes: u64) -> bool {
        Charge::grow_to(self, bytes)
    }

    fn shrink_to(&mut self, bytes: u64) {
        Charge::shrink_to(self, bytes);
    }
}

impl HttpFailure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl Host {
    pub(crate) fn new(
        guest: Arc<Inner>,
        stdin: Vec<u8>,
        log: GuestLog,
        quota: Quota,
        open_files: OpenFiles,
        cpu: CpuMeter,
    ) -> Self {
        Self {
            open_files,
            http_calls: guest.limits.http_calls,
            guest,
            stdin,
            awaited: None,
            input_charge: None,
            read: 0,
            stdout: Vec::new(),
            log,
            closed: [false; 3],
            memory: None,
            quota,
            clocks: Clocks::new(),
            cpu,
            wasi: None,
            kv: None,
            program: None,
            channel: None,
            suspended: false,
            in_allocator: false,
        }
    }

    /// State of `wasmtime-wasi`, made when first asked for: most guests never do.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi.get_or_insert_with(|| {
            let mut wasi = WasiCtxBuilder::new()
                .monotonic_clock(self.clocks)
                .wall_clock(self.clocks)
                .build_p1();
            // The folders were opened once, at start.
            *WasiView::ctx(&mut wasi).ctx.filesystem() = self.guest.files.clone();
            Box::new(wasi)
        })
    }

    /// Where a descriptor's file is, should it be a directory.
    pub(crate) fn directory(&self, fd: i32) -> Option<DirectoryPath> {
        match self.open_files.path(fd) {
            Some(path) => path.cloned(),
            None => self.guest.folder_index(fd).map(|folder| DirectoryPath {
                folder,
                path: String::new(),
            }),
        }
    }

    /// Whether `wasmtime-wasi` was asked for anything yet.
    pub(crate) fn has_wasi(&self) -> bool {
        self.wasi.is_some()
    }

    /// What a [`Program`](crate::Program) keeps for this call: nothing but what [`Self::set_state`] was given.
    pub fn state<T: 'static>(&mut self) -> Option<&mut T> {
        self.program.as_mut()?.downcast_mut()
    }

    /// Keeps something of a program's for this call.
    pub fn set_state<T: Send + 'static>(&mut self, state: T) {
        self.program = Some(Box::new(state));
    }

    /// Bounds of the call.
    #[must_use]
    pub fn limits(&self) -> &GuestLimits {
        &self.guest.limits
    }

    /// Time since the call began; what was snapshotted continues the snapshot's own time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clocks.elapsed()
    }

    /// CPU time that the guest used, its loading included: the time in which it did not wait.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.clocks.time(ClockId::Cpu)
    }

    /// Lets other guests have a turn in the middle of work that is done for this one, and counts that work as its CPU time.
    ///
    /// # Errors
    /// It used more CPU time than it may.
    pub async fn give_way(&mut self) -> wasmtime::Result<()> {
        self.cpu.worked();
        if self.cpu.is_over() {
            return Err(wasmtime::Error::new(Stop::CpuTime));
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Goes on where long calls run: what follows takes long and cannot be interrupted.
    pub async fn move_to_slow_lane(&mut self) {
        self.cpu.move_to_slow_lane();
        tokio::task::yield_now().await;
    }

    /// Writes to the guest's log, of which a call may write `limits.log` bytes.
    pub fn log(&mut self, level: tracing::Level, text: &str) {
        self.log.write_at(level, text);
    }

    /// Charges `bytes` that the host is about to keep for the call (a message, an answer, the content of a file)
    /// to `limits.buffers` and to the memory for all calls, until the charge is dropped. Call it before anything is copied.
    ///
    /// # Errors
    /// So much is not free. A guest may be given the error; if the call fails, the log names the limit.
    pub fn hold(&mut self, bytes: u64) -> Result<Charge, NoMemory> {
        self.quota.hold(bytes).ok_or(NoMemory(bytes))
    }

    /// Forgets that memory was refused: the guest was told, and goes on without it.
    pub fn refusal_was_handled(&mut self) {
        if self.quota.refused == Some(Refused::Buffers) {
            self.quota.refused = None;
        }
    }

    /// The call's view of its key/value namespace; `None` where the worker has none.
    pub fn kv(&mut self) -> Option<&mut KvView> {
        self.kv.as_mut()
    }

    /// The folders that the guest sees.
    #[must_use]
    pub fn folders(&self) -> &Folders {
        &self.guest.folders
    }

    /// Sends a request if the guest may. The future does not borrow the call: several can run at once.
    ///
    /// # Errors
    /// It may not send any, or no more of them.
    pub fn send_http(
        &mut self,
        request: Request<Bytes>,
    ) -> Result<
        impl Future<Output = Result<Response<Bytes>, HttpFailure>> + Send + use<>,
        HttpFailure,
    > {
        self.may_send_http()?;
        Ok(self.send_allowed_http(request))
    }

    /// Counts a request, if the guest may send it: to be asked before anything of it is copied.
    pub(crate) fn may_send_http(&mut self) -> Result<(), HttpFailure> {
        if self.guest.http.is_none() {
            return Err(HttpFailure::new(
                ErrorKind::NotAllowed,
                "this worker may not send HTTP requests: its TOML has no [features.http_requests]",
            ));
        }
        let Some(left) = self.http_calls.checked_sub(1) else {
            return Err(HttpFailure::new(
                ErrorKind::NotAllowed,
                format!(
                    "more than {} requests in one call",
                    self.limits().http_calls
                ),
            ));
        };
        self.http_calls = left;
        Ok(())
    }

    /// Sends a request that was counted. Its body and its answer are charged as what the call makes the host keep.
    pub(crate) fn send_allowed_http(
        &mut self,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<Response<Bytes>, HttpFailure>> + Send + use<> {
        let guest = self.guest.clone();
        let charge = Box::new(self.quota.buffers().nothing());
        async move {
            let Some((policy, client)) = &guest.http else {
                return Err(HttpFailure::new(ErrorKind::NotAllowed, "not allowed"));
            };
            client
                .send_charged(policy, request, Some(charge))
                .await
                .map_err(|error| HttpFailure::new(error.kind, error.message))
        }
    }
}
