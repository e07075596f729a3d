//! Guests of interpreters: each call runs an instance that is restored from a snapshot, unless the
//! guest's author wants instances to be reused.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::body::{BegunBody, RequestBody};
use crate::error::{CallError, LoadError, LoadErrorKind, WasmError};
use crate::guest::instance::{
    GuestContext, INITIALISATION_TIME, INITIALISATION_WALL_TIME, InstanceConfig, STACK_COST,
};
use crate::guest::reuse::{Reuse, ReusedInstance};
use crate::guest::run::RunEnd;
use crate::host::kv::KvView;
use crate::host::state::{Host, Io, Kit};
use crate::interpreter::Interpreter;
use crate::interpreter::snapshot::Snapshot;
use crate::interpreter::vm::{Program, ProgramError, Vm};
use crate::memory::quota::FREE_OUTPUT;
use crate::schedule::cpu::CpuUsage;
use crate::spec::Call;

/// A snapshot, and instances of it that may answer another request.
pub(crate) struct RestoredGuest {
    pub(crate) snapshot: Snapshot,
    pub(crate) reuse: Reuse<Vm>,
}

impl RestoredGuest {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            reuse: Reuse::never(),
        }
    }

    /// Takes an instance that waits, and begins a call of it.
    fn take_waiting(
        &self,
        guest: &GuestContext,
        usage: &Arc<CpuUsage>,
        call: &Call<RequestBody>,
    ) -> Option<ReusedInstance<Vm>> {
        let (mut reused, waited) = self.reuse.take()?;
        let vm = &mut reused.instance;
        vm.usage = usage.clone();
        guest.renew(&mut vm.store, usage.clone(), waited);
        let host = vm.host();
        host.renew_log(call.request_id.clone());
        host.begin_trace(guest.trace(call.request.headers()));
        Some(reused)
    }

    /// Keeps an instance that has answered a request, if it may answer more.
    fn keep(&self, mut reused: ReusedInstance<Vm>) {
        if !self.reuse.is_allowed() {
            return;
        }
        if self.snapshot.program.is_reusable(&mut reused.instance) {
            // Drops what the host has kept for the call.
            let host = reused.instance.host();
            host.io = Io::Kit(Kit::default());
            host.report_call();
            self.reuse.put(reused);
        }
    }
}

/// Runs a program's initialisation and keeps the state that it reached.
pub(crate) async fn initialise(
    interpreter: &Interpreter,
    guest: &GuestContext,
    program: Arc<dyn Program>,
) -> Result<Snapshot, LoadError> {
    let limits = &guest.grants.limits;
    let cpu_time = limits.cpu_time.max(INITIALISATION_TIME);
    let usage = Arc::new(CpuUsage::default());
    let fail = |error: CallError| {
        LoadError::new(LoadErrorKind::Program, "while it was loaded").caused_by(error)
    };
    let _running = guest.engine.ticker().run();
    let memory = interpreter.minimum_memory();
    let cost = memory + interpreter.instance_size() + STACK_COST + FREE_OUTPUT;
    let store = guest.store(InstanceConfig {
        charge: guest.reserve(cost).await.map_err(fail)?,
        memory,
        cpu_time,
        usage: usage.clone(),
        request_id: String::new(),
        trace: None,
        io: Io::Kit(Kit::default()),
    });
    let mut vm = interpreter
        .instantiate(store, interpreter.image(), usage)
        .await
        .map_err(|error| LoadError::host("cannot be started").caused_by(WasmError::new(error)))?;
    let new = interpreter.globals(&mut vm);
    let time_limit = limits.wall_time.max(INITIALISATION_WALL_TIME);
    match tokio::time::timeout(time_limit, program.initialise(&mut vm)).await {
        Err(_) => {
            return Err(LoadError::new(
                LoadErrorKind::Program,
                "did not end loading",
            ));
        }
        Ok(Err(ProgramError::Failed(failure))) => return Err(failure.into()),
        Ok(Err(ProgramError::NoHandler(failure))) => {
            let error = LoadError::new(LoadErrorKind::NoHandler, failure.message);
            return Err(error.at(failure.pos));
        }
        Ok(Err(ProgramError::Wasm(error))) => {
            let refused = vm.host().quota.refused;
            return Err(fail(guest.failure(error, refused, cpu_time)));
        }
        Ok(Ok(())) => {}
    }
    if let Some(sources) = program.sources() {
        sources.end_trace();
    }
    Snapshot::take(interpreter.clone(), &mut vm, new, program, limits.memory)
}

/// Answers a request in an instance that starts from the snapshot, or has answered others: through
/// `head`, or with a whole response.
pub(crate) async fn answer(
    restored: &RestoredGuest,
    guest: &GuestContext,
    call: Call<RequestBody>,
    usage: Arc<CpuUsage>,
    head: Option<oneshot::Sender<http::Response<BegunBody>>>,
) -> RunEnd {
    let limits = &guest.grants.limits;
    let snapshot = &restored.snapshot;
    let kit = Kit::with_head(head);
    let ticker = guest.engine.ticker();
    let waiting = restored.take_waiting(guest, &usage, &call);
    let instance = match waiting {
        Some(mut reused) => {
            let host = reused.instance.host();
            host.io = Io::Kit(kit);
            open_store(guest, host);
            Ok(reused)
        }
        None => {
            let mut store = guest.store(InstanceConfig {
                charge: guest.reserve_in_time(instance_cost(snapshot)).await?,
                memory: snapshot.state.memory,
                cpu_time: limits.cpu_time,
                usage: usage.clone(),
                request_id: call.request_id.clone(),
                trace: guest.trace(call.request.headers()),
                io: Io::Kit(kit),
            });
            let host = store.data_mut();
            host.clocks.resume(snapshot.clocks);
            open_store(guest, host);
            let restoring = snapshot.restore(store, usage);
            ticker
                .while_polled(restoring)
                .await
                .map(ReusedInstance::new)
        }
    };
    let answered = match instance {
        Ok(mut reused) => {
            let vm = &mut reused.instance;
            let answering = snapshot.program.answer(vm, call);
            let result = ticker.while_polled(answering).await;
            let host = vm.host();
            match result {
                Ok(response) => {
                    let kv = host.kit_mut().and_then(|kit| kit.kv.take());
                    let response = response.map(|response| charge_body(host, response));
                    Ok((response, kv, reused))
                }
                Err(error) => {
                    let kv = host.kit_mut().and_then(|kit| kit.kv.take());
                    match kv.as_ref().and_then(KvView::away) {
                        // The program did not handle it, or failed because of it.
                        Some(away) => return Err(away.clone().into()),
                        None => Err((error, host.quota.refused)),
                    }
                }
            }
        }
        Err(error) => Err((error.into(), None)),
    };
    match answered {
        Ok((response, kv, reused)) => {
            if let Some(mut kv) = kv {
                kv.commit().await?;
            }
            restored.keep(reused);
            Ok(response)
        }
        Err((ProgramError::Failed(failure) | ProgramError::NoHandler(failure), refused)) => {
            Err(CallError::Program { refused, failure })
        }
        Err((ProgramError::Wasm(error), refused)) => {
            Err(guest.failure(error, refused, limits.cpu_time))
        }
    }
}

/// Gives a call its view of the guest's key/value namespace.
fn open_store(guest: &GuestContext, host: &mut Host) {
    if let Some(grant) = &guest.grants.kv {
        let view = KvView::new(grant, guest.grants.limits.output, host.quota.buffers());
        if let Some(kit) = host.kit_mut() {
            kit.kv = Some(view);
        }
    }
}

/// What an instance of a snapshot costs before it has run.
pub(crate) fn instance_cost(snapshot: &Snapshot) -> u64 {
    snapshot.state.memory + snapshot.instance_size() + STACK_COST + FREE_OUTPUT
}

/// A program's response, whose body is charged until it was sent.
fn charge_body(host: &mut Host, response: http::Response<Bytes>) -> http::Response<Bytes> {
    let len = response.body().len() as u64;
    if len <= FREE_OUTPUT {
        return response;
    }
    match host.hold(len) {
        Ok(charge) => response.map(|body| charge.hold(body)),
        // The body is there already; what follows is refused.
        Err(_) => response,
    }
}
