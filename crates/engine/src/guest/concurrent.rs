//! Components of WASI 0.3 whose instances answer several requests at once, where a worker's author
//! has asked for it: the requests share the instance, its limits and its failures.
//!
//! A run is the time in which an instance has requests. A task of its own polls the instance then,
//! since none of its requests may slow it down or end it. When the last request and what the guest
//! does after it have ended, the instance waits in the pool of those that are reused.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p3::bindings::Service;

use crate::body::RequestBody;
use crate::error::CallError;
use crate::guest::component::{
    ComponentGuest, Head, HttpInstance, PIECES, failure, guest_log, request, respond,
};
use crate::guest::instance::GuestContext;
use crate::guest::response::{FailureFlag, RaisedOnDrop};
use crate::guest::reuse::ReusedInstance;
use crate::guest::run::RunEnd;
use crate::guest::severed::SeveredBody;
use crate::host::state::Host;
use crate::memory::account::Charge;
use crate::memory::quota::FREE_OUTPUT;
use crate::schedule::cpu::{CpuUsage, MeasuredPolls};
use crate::schedule::lane::{CallHabit, LanedCall};
use crate::spec::Call;

/// An instance that has not taken a call for so long computes, or waits in a function of the host:
/// it gets no further one meanwhile.
const STUCK: Duration = Duration::from_secs(1);

/// The instances of a guest that have requests, and how many they may have.
pub(crate) struct ConcurrentRuns {
    /// Requests that an instance answers at once.
    at_once: u32,
    /// Requests that an instance answers before it is discarded.
    requests: u32,
    runs: Mutex<RunList>,
}

#[derive(Default)]
struct RunList {
    last_id: u64,
    /// Runs that take further requests, the oldest first.
    open: Vec<OpenRun>,
}

impl RunList {
    fn get(&mut self, id: u64) -> Option<&mut OpenRun> {
        self.open.iter_mut().find(|run| run.id == id)
    }

    /// Passes a call to an instance that has room for it.
    fn join(
        &mut self,
        call: Box<JoiningCall>,
        runs: &ConcurrentRuns,
    ) -> Result<(), Box<JoiningCall>> {
        let room = |run: &&mut OpenRun| {
            let is_stuck = run.untaken_since.is_some_and(|at| at.elapsed() >= STUCK);
            run.active < runs.at_once && run.begun < runs.requests && !is_stuck
        };
        let Some(run) = self.open.iter_mut().find(room) else {
            return Err(call);
        };
        run.joining.send(call).map_err(|refused| refused.0)?;
        run.active += 1;
        run.begun += 1;
        run.untaken_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Opens a run with a call, of an instance that was given `begun` requests before.
    fn open(&mut self, call: Box<JoiningCall>, begun: u32) -> OpenedRun {
        let (sender, joining) = mpsc::unbounded_channel();
        // The receiver is there.
        let _ = sender.send(call);
        self.last_id += 1;
        self.open.push(OpenRun {
            id: self.last_id,
            joining: sender,
            active: 1,
            begun: begun + 1,
            untaken_since: Some(Instant::now()),
        });
        OpenedRun {
            id: self.last_id,
            joining,
        }
    }
}

/// The end of an open run at which its calls come.
struct OpenedRun {
    id: u64,
    joining: mpsc::UnboundedReceiver<Box<JoiningCall>>,
}

/// A run that takes further requests.
struct OpenRun {
    id: u64,
    joining: mpsc::UnboundedSender<Box<JoiningCall>>,
    /// Requests in flight.
    active: u32,
    /// Requests that the instance has been given in its life.
    begun: u32,
    /// Since when calls wait for the instance.
    untaken_since: Option<Instant>,
}

/// A call on its way to an instance.
struct JoiningCall {
    call: Call<RequestBody>,
    head: oneshot::Sender<Head>,
    raised: RaisedOnDrop,
    end: CallEnd,
    /// Closed when the caller is gone.
    gone: oneshot::Receiver<()>,
    /// What the call costs besides the instance.
    charge: Charge,
}

/// Tells who waits for a call how it ended, once.
#[derive(Clone)]
struct CallEnd(Arc<Mutex<Option<oneshot::Sender<EndOfCall>>>>);

/// The failure of a call, if it has failed.
type EndOfCall = Option<Arc<CallError>>;

impl CallEnd {
    fn new() -> (Self, oneshot::Receiver<EndOfCall>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    fn set(&self, error: EndOfCall) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(error);
        }
    }
}

/// A request that an instance has.
struct CallInFlight {
    number: u64,
    raised: RaisedOnDrop,
    end: CallEnd,
    _charge: Charge,
}

/// What a run and the calls within it share.
#[derive(Default)]
struct RunState {
    in_flight: Mutex<Vec<CallInFlight>>,
    /// Heads that are passed on when the instance waits: what it has made of a body until then is
    /// sent with it.
    heads: Mutex<Vec<(oneshot::Sender<Head>, Head)>>,
}

impl RunState {
    fn in_flight(&self) -> MutexGuard<'_, Vec<CallInFlight>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, call: CallInFlight) {
        self.in_flight().push(call);
    }

    /// A call has ended well, or nobody waits for it.
    fn remove(&self, number: u64) {
        let mut calls = self.in_flight();
        if let Some(index) = calls.iter().position(|call| call.number == number) {
            let call = calls.swap_remove(index);
            drop(calls);
            call.raised.succeeded();
            call.end.set(None);
        }
    }

    fn pass_on(&self, head: oneshot::Sender<Head>, response: Head) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.push((head, response));
    }

    fn send_heads(&self) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        for (sender, head) in heads.drain(..) {
            // A client that is gone needs no response.
            let _ = sender.send(head);
        }
    }

    /// Fails all calls: their bodies are marked before the instance is dropped, with which they
    /// would seem to end.
    fn fail(&self, error: &Arc<CallError>) -> usize {
        let calls = std::mem::take(&mut *self.in_flight());
        let count = calls.len();
        for call in calls {
            drop(call.raised);
            call.end.set(Some(error.clone()));
        }
        count
    }
}

/// How a run ended, if the guest has not failed.
#[derive(Clone, Copy)]
enum RunOutcome {
    /// All calls and what followed them. The instance was given so many requests in its life.
    Finished { begun: u32 },
    /// All calls of an instance that is not to answer more.
    Discarded,
    /// All calls; the guest goes on for too long after them.
    GoesOn,
}

/// Whether a run that has no call in flight is closed.
enum IdleRun {
    /// It is now; the instance was given so many requests in its life.
    Closed { begun: u32 },
    /// It was before.
    WasClosed,
    /// A call is on its way to it.
    HasCall,
}

impl ConcurrentRuns {
    /// Instances that answer so many requests at once, and `requests` in their life.
    pub(crate) fn new(at_once: u32, requests: u32) -> Self {
        Self {
            at_once,
            requests,
            runs: Mutex::default(),
        }
    }

    fn list(&self) -> MutexGuard<'_, RunList> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request through `head`, in an instance that has others or in a new one.
    pub(crate) async fn answer(
        self: Arc<Self>,
        parts: RunParts,
        call: Call<RequestBody>,
        head: oneshot::Sender<Head>,
        failed: FailureFlag,
    ) -> RunEnd {
        let raised = failed.until_success();
        let charge = parts.context.reserve_in_time(PIECES + FREE_OUTPUT).await?;
        let (end, ended) = CallEnd::new();
        let (alive, gone) = oneshot::channel();
        let limit = parts.context.grants.limits.wall_time;
        let (request, cut) = SeveredBody::of(call.request);
        let joining = Box::new(JoiningCall {
            call: Call {
                request,
                params: call.params,
                request_id: call.request_id,
            },
            head,
            raised,
            end,
            gone,
            charge,
        });
        self.pass(parts, joining).await?;
        let ended = ended.await;
        drop(alive);
        match ended {
            Ok(None) => {
                if let Some(cut) = cut {
                    cut.later(limit);
                }
                Ok(None)
            }
            Ok(Some(error)) => Err(CallError::Shared(error)),
            Err(_) => Err(CallError::Engine("the instance ended")),
        }
    }

    /// Passes a call to an instance that has room for it, or to one that waits. Otherwise, begins a
    /// run of a new one.
    async fn pass(
        self: &Arc<Self>,
        parts: RunParts,
        call: Box<JoiningCall>,
    ) -> Result<(), CallError> {
        let component = parts.component.clone();
        let usage = Arc::<CpuUsage>::default();
        let waiting = {
            let mut list = self.list();
            match list.join(call, self) {
                Ok(()) => return Ok(()),
                Err(call) => match component.take_waiting(&parts.context, &usage, &call.call) {
                    Some(reused) => Ok((list.open(call, reused.answered()), reused)),
                    None => Err(call),
                },
            }
        };
        let (opened, reused) = match waiting {
            Ok(opened) => opened,
            Err(call) => {
                let cost = component.instance_cost();
                let charge = parts.context.reserve_in_time(cost).await?;
                let instance =
                    component.new_instance(&parts.context, charge, usage.clone(), &call.call);
                let mut list = self.list();
                // Another call may have begun one meanwhile.
                match list.join(call, self) {
                    Ok(()) => return Ok(()),
                    Err(call) => (list.open(call, 0), instance),
                }
            }
        };
        let slow_lane = parts.context.engine.slow_lane().clone();
        let steady = parts.context.engine.steady_places().clone();
        let habit = parts.habit.clone();
        let run = self.clone().run(parts, reused, opened);
        let run = Box::pin(MeasuredPolls::new(run, usage.clone(), steady));
        let run = LanedCall::new(run, usage, slow_lane, habit);
        tokio::spawn(async move {
            if run.await.is_none() {
                tracing::error!("a defect of the engine: the run of an instance panicked");
            }
        });
        Ok(())
    }

    /// The calls that waited for an instance were taken.
    fn taken(&self, id: u64) {
        if let Some(run) = self.list().get(id) {
            run.untaken_since = None;
        }
    }

    /// A call of a run has ended.
    fn leave(&self, id: u64) {
        if let Some(run) = self.list().get(id) {
            run.active = run.active.saturating_sub(1);
        }
    }

    /// Lets no further call join.
    fn close(&self, id: u64) {
        self.list().open.retain(|run| run.id != id);
    }

    /// [`Self::close`] unless a call is on its way.
    fn close_idle(&self, id: u64) -> IdleRun {
        let mut list = self.list();
        match list.open.iter().position(|run| run.id == id) {
            None => IdleRun::WasClosed,
            Some(index) if list.open[index].active > 0 => IdleRun::HasCall,
            Some(index) => IdleRun::Closed {
                begun: list.open.remove(index).begun,
            },
        }
    }

    /// Calls in flight, of which a new one is one.
    fn active(&self, id: u64) -> u32 {
        let mut list = self.list();
        list.get(id).map_or(self.at_once, |run| run.active.max(1))
    }

    /// Polls an instance while it has calls.
    async fn run(
        self: Arc<Self>,
        parts: RunParts,
        mut reused: ReusedInstance<HttpInstance>,
        opened: OpenedRun,
    ) {
        let OpenedRun { id, mut joining } = opened;
        // Closed with the run, also where it is dropped.
        let _closed = CloseOnDrop { runs: &self, id };
        // Dropped before the instance: see `RunState::fail`.
        let state = RunState::default();
        let begun_before = reused.answered();
        let outcome = {
            let driver = Driver {
                runs: &self,
                parts: &parts,
                state: &state,
                id,
            };
            let driving = driver.drive(&mut reused.instance, &mut joining);
            let mut driving = Box::pin(parts.component.running(&parts.context, driving));
            poll_fn(|context| {
                let polled = driving.as_mut().poll(context);
                if !matches!(polled, Poll::Ready(Err(_))) {
                    state.send_heads();
                }
                polled
            })
            .await
        };
        self.close(id);
        match outcome {
            Ok(RunOutcome::Finished { begun }) => {
                reused.has_answered(begun.saturating_sub(begun_before + 1));
                parts.component.keep(reused);
            }
            Ok(RunOutcome::Discarded) => {}
            Ok(RunOutcome::GoesOn) => {
                let limit = parts.context.grants.limits.wall_time;
                let (worker, error) = (&*parts.context.grants.name, CallError::WallTime(limit));
                tracing::error!(worker, "after the response: {error}");
            }
            Err(error) => {
                let error = Arc::new(failure(&parts.context, &reused.instance.store, error));
                let mut failed = state.fail(&error);
                // Those on their way as well.
                while let Ok(call) = joining.try_recv() {
                    drop(call.raised);
                    call.end.set(Some(error.clone()));
                    failed += 1;
                }
                if failed == 0 {
                    let worker = &*parts.context.grants.name;
                    tracing::error!(worker, "after the response: {error}");
                }
            }
        }
    }
}

/// What a run is made of besides its calls.
#[derive(Clone)]
pub(crate) struct RunParts {
    pub(crate) context: GuestContext,
    pub(crate) component: Arc<ComponentGuest>,
    pub(crate) habit: Arc<CallHabit>,
}

struct CloseOnDrop<'r> {
    runs: &'r ConcurrentRuns,
    id: u64,
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.runs.close(self.id);
    }
}

/// Answers the calls of a run.
struct Driver<'r> {
    runs: &'r ConcurrentRuns,
    parts: &'r RunParts,
    state: &'r RunState,
    id: u64,
}

impl Driver<'_> {
    async fn drive(
        &self,
        instance: &mut HttpInstance,
        joining: &mut mpsc::UnboundedReceiver<Box<JoiningCall>>,
    ) -> wasmtime::Result<RunOutcome> {
        let (store, service) = self.parts.component.service(instance).await?;
        let drive = async |accessor: &Accessor<Host>| {
            let mut calls = FuturesUnordered::new();
            let mut next = 0;
            let limits = &self.parts.context.grants.limits;
            let (limit, cpu_time) = (limits.wall_time, limits.cpu_time);
            // Since when the guest goes on without a call.
            let mut late: Option<Pin<Box<Sleep>>> = None;
            poll_fn(|context| {
                accessor.with(|mut access| access.data_mut().cpu.begin_turn(cpu_time));
                loop {
                    let before = next;
                    while let Poll::Ready(Some(call)) = joining.poll_recv(context) {
                        calls.push(self.answer(accessor, service, call, next));
                        next += 1;
                        late = None;
                    }
                    if next > before {
                        self.runs.taken(self.id);
                    }
                    match calls.poll_next_unpin(context) {
                        Poll::Ready(Some(Ok(()))) => {
                            self.runs.leave(self.id);
                            continue;
                        }
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(None) => {}
                    }
                    let is_over = accessor.poll_no_interesting_tasks(context).is_ready();
                    let is_late = !is_over && {
                        let late = late.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                        late.as_mut().poll(context).is_ready()
                    };
                    if !is_over && !is_late {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Ok(match self.runs.close_idle(self.id) {
                        // It is received at once, unless the task has to give way before.
                        IdleRun::HasCall => {
                            context.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        _ if is_late => RunOutcome::GoesOn,
                        IdleRun::Closed { begun } => RunOutcome::Finished { begun },
                        IdleRun::WasClosed => RunOutcome::Discarded,
                    }));
                }
            })
            .await
        };
        store.run_concurrent(drive).await?
    }

    /// Has the instance answer a call.
    async fn answer(
        &self,
        accessor: &Accessor<Host>,
        service: &Service,
        joined: Box<JoiningCall>,
        number: u64,
    ) -> wasmtime::Result<()> {
        let JoiningCall {
            call,
            head,
            raised,
            end,
            gone,
            charge,
        } = *joined;
        self.state.add(CallInFlight {
            number,
            raised,
            end: end.clone(),
            _charge: charge,
        });
        let limit = self.parts.context.grants.limits.wall_time;
        let request = accessor.with(|mut access| {
            // The first one has begun with the run.
            if number > 0 {
                self.join_host(access.data_mut(), &call);
            }
            request(access.data_mut(), call)
        })?;
        let late = pin!(async {
            let _ = gone.await;
            tokio::time::sleep(limit).await;
        });
        let response = match select(Box::pin(service.handle(accessor, request)), late).await {
            Either::Left((response, _)) => response?,
            // The caller is gone, and the guest goes on: it cannot be ended alone.
            Either::Right(((), _)) => {
                self.runs.close(self.id);
                self.state.remove(number);
                return Ok(());
            }
        };
        match response {
            Ok(response) => {
                let (response, done) = respond(accessor, response, EndOnDrop(end))?;
                self.state.pass_on(head, Ok(response));
                let _ = done.await;
            }
            Err(error) => {
                let _ = head.send(Err(CallError::HttpError(format!("{error:?}"))));
            }
        }
        self.state.remove(number);
        Ok(())
    }

    /// Begins a call of an instance that may have others.
    fn join_host(&self, host: &mut Host, call: &Call<RequestBody>) {
        let (context, active) = (&self.parts.context, self.runs.active(self.id));
        // What several calls do at once cannot be told apart.
        let alone = active == 1;
        let trace = alone.then(|| context.trace(call.request.headers()));
        let trace = trace.flatten();
        let id = if alone { &*call.request_id } else { "" };
        let log = guest_log(context, id, trace.as_ref());
        host.join_call(active);
        host.begin_trace(trace.clone());
        host.component().join(log, trace, active);
    }
}

/// Ends a call with the body of its response, unless it has failed before.
struct EndOnDrop(CallEnd);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
