//! A module linked with what it was given, and calls of it: a fresh instance for each.

pub(crate) mod blocking;
pub(crate) mod command;
pub(crate) mod component;
pub(crate) mod concurrent;
pub(crate) mod instance;
pub(crate) mod prestart;
pub(crate) mod protocol;
pub(crate) mod response;
pub(crate) mod restored;
pub(crate) mod reuse;
pub(crate) mod run;
mod severed;
pub(crate) mod socket;

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::body::{BegunBody, ClientWaits, RequestBody};
use crate::engine::Engine;
use crate::error::{CallError, LoadError, LoadErrorKind};
use crate::guest::command::Command;
use crate::guest::component::ComponentGuest;
use crate::guest::concurrent::{ConcurrentRuns, RunParts};
use crate::guest::instance::GuestContext;
use crate::guest::prestart::{ParkedInstance, PrestartPool};
use crate::guest::response::{FailureFlag, ResponseBody, StreamingCall};
use crate::guest::restored::RestoredGuest;
use crate::guest::run::RunEnd;
use crate::host::directories::Directories;
use crate::host::grants::{GuestGrants, GuestReport};
use crate::host::log_rate::LogRate;
use crate::interpreter::Interpreter;
use crate::interpreter::vm::Program;
use crate::memory::quota::FREE_GROWTH;
use crate::module::{Code, CodeKind};
use crate::schedule::cpu::{CpuUsage, MeasuredPolls};
use crate::schedule::lane::{CallHabit, LanedCall};
use crate::spec::{Call, CallReport, GuestSpec, PreopenedDirectory};

/// A module linked with what it was given: ready to be called. Cheap to clone.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use wws_engine::{Call, Engine, EngineOptions, GuestLimits, GuestSpec, StreamLimits};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A command that prints a response in the worker protocol.
/// let wasm = wat::parse_str(
///     r#"(module
///         (import "wasi_snapshot_preview1" "fd_write"
///             (func $write (param i32 i32 i32 i32) (result i32)))
///         (memory (export "memory") 1)
///         (data (i32.const 0) "\10\00\00\00\0d\00\00\00")
///         (data (i32.const 16) "{\"data\":\"hi\"}")
///         (func (export "_start")
///             (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
/// )?;
/// let engine = Engine::new(&EngineOptions::default())?;
/// let module = engine.compile(&wasm)?;
/// let guest = engine.guest(
///     &module,
///     GuestSpec {
///         name: "hello".into(),
///         env: vec![],
///         args: vec!["hello".into()],
///         directories: vec![],
///         kv: None,
///         http: None,
///         limits: GuestLimits {
///             memory: 16 << 20,
///             table_elements: 10_000,
///             cpu_time: Duration::from_secs(1),
///             wall_time: Duration::from_secs(5),
///             output: 1 << 20,
///             buffers: 4 << 20,
///             log: 4096,
///             http_calls: 0,
///             open_files: 4,
///             stream: StreamLimits::default(),
///         },
///     },
/// )?;
/// let response = guest
///     .call(Call {
///         request: http::Request::get("http://localhost/").body(bytes::Bytes::new())?,
///         params: vec![],
///         request_id: "1".into(),
///     })
///     .await?;
/// assert_eq!(response.body(), "hi");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Guest {
    linked: Arc<LinkedGuest>,
    prestarted: Option<Arc<PrestartPool>>,
    /// Dropped with the last clone.
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// What all calls of a guest share.
struct LinkedGuest {
    context: GuestContext,
    code: GuestCode,
    habit: Arc<CallHabit>,
    /// Set if instances answer several requests at once.
    concurrent: Option<Arc<ConcurrentRuns>>,
}

/// How a call begins.
enum GuestCode {
    /// A WASI command or reactor.
    Command(Command),
    /// A component.
    Component(Arc<ComponentGuest>),
    /// A program that goes on where its snapshot ended.
    Snapshot(RestoredGuest),
}

impl Engine {
    /// Links a module or a component with what it is given.
    ///
    /// # Errors
    /// The code imports something unknown, or needs more than its limits.
    pub fn guest(&self, code: &Code, spec: GuestSpec) -> Result<Guest, LoadError> {
        self.guest_with(code, spec, Vec::new())
    }

    /// [`Self::guest`] with directories that the guest can only read, before those of `spec`.
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub fn guest_with(
        &self,
        code: &Code,
        spec: GuestSpec,
        read_only: Vec<PreopenedDirectory>,
    ) -> Result<Guest, LoadError> {
        let code = match &code.0 {
            CodeKind::Module(module) => {
                GuestCode::Command(Command::new(self, module, &spec.limits)?)
            }
            CodeKind::Component(component) => {
                let component = ComponentGuest::new(self, component, &spec.limits)?;
                GuestCode::Component(Arc::new(component))
            }
        };
        let context = GuestContext {
            engine: self.clone(),
            grants: Arc::new(GuestGrants::new(spec, read_only)?),
        };
        Ok(Guest::new(context, code))
    }
}

impl Interpreter {
    /// Runs a program's initialisation and keeps the state that it reached: every call of the guest
    /// starts there.
    ///
    /// # Errors
    /// The initialisation failed; the text says how.
    pub async fn snapshot(
        &self,
        spec: GuestSpec,
        program: Arc<dyn Program>,
    ) -> Result<Guest, LoadError> {
        let context = GuestContext {
            engine: self.engine().clone(),
            grants: Arc::new(GuestGrants::new(spec, Vec::new())?),
        };
        let snapshot = restored::initialise(self, &context, program).await?;
        let restored = RestoredGuest::new(snapshot);
        Ok(Guest::new(context, GuestCode::Snapshot(restored)))
    }
}

impl Guest {
    fn new(context: GuestContext, code: GuestCode) -> Self {
        Self {
            linked: Arc::new(LinkedGuest {
                context,
                code,
                habit: Arc::default(),
                concurrent: None,
            }),
            prestarted: None,
            kept: None,
        }
    }

    /// Keeps something that is dropped with the last clone of the guest.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Runs the `_initialize` of a module now and keeps the state that it reached: every call
    /// starts there. A source of an interpreter always does so.
    ///
    /// # Errors
    /// The guest has no such state, or it cannot be kept; the initialisation failed; or the guest
    /// is in use.
    pub async fn initialised(mut self) -> Result<Self, LoadError> {
        match &self.linked.code {
            GuestCode::Command(command) => command.check_initialiser()?,
            GuestCode::Snapshot(_) => return Ok(self),
            GuestCode::Component(_) => {
                return Err(LoadError::unsupported(
                    "no snapshot can be taken of a component (`instances.snapshot`)",
                ));
            }
        }
        let LinkedGuest { context, code, .. } = self.linked_mut()?;
        if let GuestCode::Command(command) = code {
            command.initialise(context).await?;
        }
        Ok(self)
    }

    /// Lets an instance answer up to so many requests, one after another: what a request leaves in
    /// the instance is seen by the next. The limits of a call hold for each request. An instance is
    /// discarded after a failure, and when it was not needed for a while.
    ///
    /// # Errors
    /// The guest is a program that ends with its response; or it is in use.
    pub fn reusing(mut self, requests: u32) -> Result<Self, LoadError> {
        let is_reusable = match &self.linked.code {
            GuestCode::Command(command) => command.is_reusable(),
            GuestCode::Component(component) => component.is_reusable(),
            GuestCode::Snapshot(_) => true,
        };
        if !is_reusable {
            return Err(LoadError::unsupported(
                "its instances cannot be reused (`instances.reuse`): a program ends with its \
                 response; components of `wasi:http`, sources of JavaScript, Python and Ruby, and \
                 modules that export `_initialize` and `wws_handle` do not",
            ));
        }
        let LinkedGuest { context, code, .. } = self.linked_mut()?;
        match code {
            GuestCode::Command(command) => command.reuse.allow(&context.engine, requests),
            GuestCode::Component(component) => {
                let component = Arc::get_mut(component).ok_or_else(in_use)?;
                component.reuse.allow(&context.engine, requests);
            }
            GuestCode::Snapshot(restored) => restored.reuse.allow(&context.engine, requests),
        }
        Ok(self)
    }

    /// Lets an instance that may answer several requests, which [`Self::reusing`] says before, have
    /// up to `at_once` of them at a time: they share its memory and its limits, and a failure of
    /// one is that of all.
    ///
    /// # Errors
    /// The guest is no component of WASI 0.3; or it is in use.
    pub fn concurrent(mut self, at_once: u32) -> Result<Self, LoadError> {
        let requests = match &self.linked.code {
            GuestCode::Component(component) if component.is_concurrent() => {
                component.reuse.requests()
            }
            GuestCode::Component(_) | GuestCode::Command(_) | GuestCode::Snapshot(_) => {
                return Err(LoadError::unsupported(
                    "its instances answer one request at a time (`instances.concurrent`): only \
                     components that export `wasi:http/handler` of WASI 0.3 answer several",
                ));
            }
        };
        let runs = ConcurrentRuns::new(at_once, requests);
        self.linked_mut()?.concurrent = Some(Arc::new(runs));
        Ok(self)
    }

    /// The guest before it is used.
    fn linked_mut(&mut self) -> Result<&mut LinkedGuest, LoadError> {
        Arc::get_mut(&mut self.linked).ok_or_else(in_use)
    }

    /// Starts instances before requests come, each for one request: for programs that do much
    /// before they read their standard input. What they do until then is not seen by any other
    /// instance.
    #[must_use]
    pub fn prestarted(mut self) -> Self {
        let (linked, kept) = (self.linked.clone(), self.kept.clone());
        let start = move |awaited, usage| {
            let (linked, kept) = (linked.clone(), kept.clone());
            let run: prestart::Run = Box::pin(async move {
                let _kept = kept;
                match &linked.code {
                    GuestCode::Command(command) => {
                        command
                            .run_prestarted(&linked.context, awaited, usage)
                            .await
                    }
                    GuestCode::Component(_) | GuestCode::Snapshot(_) => {
                        Err(CallError::Engine("not a command"))
                    }
                }
            });
            run
        };
        let engine = self.linked.context.engine.clone();
        self.prestarted = Some(PrestartPool::new(engine, Arc::new(start)));
        self
    }

    /// Whether the files that were read while the guest was loaded are the same. A module reads
    /// none itself.
    #[must_use]
    pub fn has_same_sources(&self) -> bool {
        match &self.linked.code {
            GuestCode::Command(_) | GuestCode::Component(_) => true,
            GuestCode::Snapshot(restored) => {
                let sources = restored.snapshot.program.sources();
                sources.is_some_and(Directories::is_as_traced)
            }
        }
    }

    /// Counts all later calls in a worker's series, and logs only lines of its level and up to its
    /// rate. To be set once: later settings are ignored.
    pub fn report_to(&self, report: CallReport) {
        let CallReport {
            series,
            log_level,
            log_rate,
        } = report;
        let _ = self.linked.context.grants.report.set(GuestReport {
            series,
            log_level,
            log_rate,
            rate: LogRate::default(),
        });
    }

    /// Drops instances that a guest which is not called does not need, and releases the pages of
    /// its code.
    pub fn trim(&self) {
        match &self.linked.code {
            GuestCode::Command(command) => {
                command.reuse.trim();
                command.release_code();
            }
            GuestCode::Component(component) => component.reuse.trim(),
            GuestCode::Snapshot(restored) => {
                restored.reuse.trim();
                restored.snapshot.release_code();
            }
        }
        if let Some(pool) = &self.prestarted {
            pool.trim();
        }
    }

    /// Bytes of memory with which a call begins, without its input, and by which it may always
    /// grow.
    #[must_use]
    pub fn call_cost(&self) -> u64 {
        let cost = match &self.linked.code {
            GuestCode::Command(command) => command.instance_cost(),
            GuestCode::Component(component) => component.instance_cost(),
            GuestCode::Snapshot(restored) => restored::instance_cost(&restored.snapshot),
        };
        cost + FREE_GROWTH
    }

    /// Whether the guest takes the body of a request as it comes. Others are called with the whole
    /// body.
    #[must_use]
    pub fn takes_streams(&self) -> bool {
        match &self.linked.code {
            GuestCode::Component(component) => component.streams(),
            GuestCode::Snapshot(restored) => restored.snapshot.program.takes_streams(),
            GuestCode::Command(_) => false,
        }
    }

    /// Calls the guest in a fresh instance and waits for the whole response. Dropping the future
    /// ends the call.
    ///
    /// # Errors
    /// Whatever the guest did wrong, and each limit that it met; see [`CallError`].
    pub async fn call(&self, call: Call) -> Result<http::Response<Bytes>, CallError> {
        let (head, body) = self.serve(call.into()).await?.into_parts();
        let body = body
            .collect(self.linked.context.grants.limits.output)
            .await?;
        Ok(http::Response::from_parts(head, body))
    }

    /// Calls the guest in a fresh instance and returns its response as soon as the head is known.
    /// Dropping the future or the body ends the call.
    ///
    /// # Errors
    /// Whatever the guest did wrong before it answered, and each limit that it met; see
    /// [`CallError`].
    pub async fn serve(
        &self,
        call: Call<RequestBody>,
    ) -> Result<http::Response<ResponseBody>, CallError> {
        let linked = &self.linked;
        let limits = &linked.context.grants.limits;
        let waits = ClientWaits::default();
        let call = Call {
            request: call.request.map(|body| waits.measure(body)),
            params: call.params,
            request_id: call.request_id,
        };
        if let GuestCode::Component(_) = linked.code {
            let usage = Arc::<CpuUsage>::default();
            let (sender, head) = oneshot::channel();
            let failed = FailureFlag::default();
            let run = linked
                .clone()
                .run_component(call, usage.clone(), sender, failed.clone());
            let steady = linked.context.engine.steady_places();
            let run = Box::pin(MeasuredPolls::new(run, usage.clone(), steady.clone()));
            let call = StreamingCall {
                run: match linked.concurrent {
                    // It waits for a run, which has its own lane.
                    Some(_) => linked.laned_as(run, usage, Arc::default()),
                    None => linked.laned(run, usage),
                },
                head,
                response: |head| Ok(component::outgoing(head)?.map(BegunBody::Stream)),
                failed,
                is_apart: linked.concurrent.is_some(),
            };
            return call.head_in_time(limits, &waits).await;
        }
        let parked = self.prestarted.as_ref().and_then(PrestartPool::take);
        let usage = match &parked {
            Some(parked) => parked.usage.clone(),
            None => Arc::default(),
        };
        if let GuestCode::Snapshot(_) = linked.code {
            let (sender, head) = oneshot::channel();
            let run = Box::pin(linked.clone().run_snapshot(call, usage.clone(), sender));
            let call = StreamingCall {
                run: linked.laned(run, usage),
                head,
                response: Ok,
                // Programs end their bodies themselves.
                failed: FailureFlag::default(),
                is_apart: false,
            };
            return call.head_in_time(limits, &waits).await;
        }
        let run = Box::pin(linked.clone().run_command(call, parked, usage.clone()));
        let laned = linked.laned(run, usage);
        let limit = limits.wall_time;
        match tokio::time::timeout(limit, laned).await {
            Ok(Some(Ok(Some(response)))) => Ok(response.map(ResponseBody::Collected)),
            Ok(Some(Ok(None))) => Err(CallError::NoResponse),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(CallError::Engine("the call panicked")),
            Err(_) => Err(CallError::WallTime(limit)),
        }
    }
}

/// The error of a guest whose settings come too late.
fn in_use() -> LoadError {
    LoadError::new(LoadErrorKind::Host, "it is in use")
}

impl LinkedGuest {
    fn laned(&self, run: BoxFuture<'static, RunEnd>, usage: Arc<CpuUsage>) -> LanedCall<RunEnd> {
        self.laned_as(run, usage, self.habit.clone())
    }

    fn laned_as(
        &self,
        run: BoxFuture<'static, RunEnd>,
        usage: Arc<CpuUsage>,
        habit: Arc<CallHabit>,
    ) -> LanedCall<RunEnd> {
        LanedCall::new(run, usage, self.context.engine.slow_lane().clone(), habit)
    }

    async fn run_component(
        self: Arc<Self>,
        call: Call<RequestBody>,
        usage: Arc<CpuUsage>,
        head: oneshot::Sender<component::Head>,
        failed: FailureFlag,
    ) -> RunEnd {
        match &self.code {
            GuestCode::Component(component) => {
                if let Some(runs) = &self.concurrent {
                    let parts = RunParts {
                        context: self.context.clone(),
                        component: component.clone(),
                        habit: self.habit.clone(),
                    };
                    return Box::pin(runs.clone().answer(parts, call, head, failed)).await;
                }
                component
                    .answer(&self.context, call, usage, head, failed)
                    .await
            }
            GuestCode::Command(_) | GuestCode::Snapshot(_) => {
                Err(CallError::Engine("not a component"))
            }
        }
    }

    async fn run_command(
        self: Arc<Self>,
        call: Call<RequestBody>,
        parked: Option<ParkedInstance>,
        usage: Arc<CpuUsage>,
    ) -> RunEnd {
        let context = &self.context;
        let GuestCode::Command(command) = &self.code else {
            return Err(CallError::Engine("not a command"));
        };
        // Only a caller that did not ask `takes_streams` passes a stream.
        let call = call.collect(context.grants.limits.buffers).await?;
        let response = command.answer(context, call, parked, usage).await;
        response.map(Some)
    }

    async fn run_snapshot(
        self: Arc<Self>,
        call: Call<RequestBody>,
        usage: Arc<CpuUsage>,
        head: oneshot::Sender<http::Response<BegunBody>>,
    ) -> RunEnd {
        match &self.code {
            GuestCode::Snapshot(restored) => {
                restored::answer(restored, &self.context, call, usage, Some(head)).await
            }
            GuestCode::Command(_) | GuestCode::Component(_) => {
                Err(CallError::Engine("not a snapshot"))
            }
        }
    }
}
