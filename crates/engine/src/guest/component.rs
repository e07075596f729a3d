//! Guests that are components: each call is one request of `wasi:http`, in a fresh instance unless
//! its author wants instances to be reused.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::body::{BodyError, BodyStream, RequestBody};
use crate::engine::Engine;
use crate::error::{CallError, LoadError, WasmError};
use crate::guest::command;
use crate::guest::instance::{
    GuestContext, InstanceConfig, KvInput, PrintedOutput, STACK_COST, check_minimum_memory,
};
use crate::guest::protocol;
use crate::guest::response::FailureFlag;
use crate::guest::reuse::{Reuse, ReusedInstance};
use crate::guest::run::RunEnd;
use crate::host::component::io::{ComponentIo, ComponentStart};
use crate::host::log::GuestLog;
use crate::host::report::CallTrace;
use crate::host::state::{Host, Io};
use crate::memory::account::Charge;
use crate::memory::pool::with_images;
use crate::memory::quota::{FREE_OUTPUT, Parts};
use crate::memory::stack::StackAllowance;
use crate::module::component::{Component, World};
use crate::schedule::cpu::CpuUsage;
use crate::spec::{Call, GuestLimits};

/// The header in which a component finds the parameters of its route, encoded as a query string. A
/// client cannot set it.
const PARAMS: HeaderName = HeaderName::from_static("x-wws-params");

/// What a call is charged for the pieces of bodies that are on their way.
pub(crate) const PIECES: u64 = 256 << 10;

/// Most bytes of the arguments of one call of a host function, which are charged before they are
/// copied.
const MAX_ARGUMENTS: usize = 4 << 20;

/// The same for a component whose texts are copied before. It is charged for them from the start.
const MAX_COPIED_ARGUMENTS: usize = 1280 << 10;

/// Bytes of such texts as the host keeps them, in UTF-8.
const COPIED_ARGUMENTS: u64 = 2 << 20;

/// Most handles in the tables of an instance: of resources, those of the component's own as well,
/// and of what it lends.
const MAX_HANDLES: usize = 8192;

/// Most tasks, streams and futures of WASI 0.3, and what waits for them.
const MAX_CONCURRENT: usize = 4096;

/// A component that is linked.
pub(crate) struct ComponentGuest {
    component: Component,
    pre: LinkedWorld,
    /// Instances that have answered a request and may answer another one.
    pub(crate) reuse: Reuse<HttpInstance>,
}

/// An instance that answers HTTP requests.
pub(crate) struct HttpInstance {
    pub(crate) store: Store<Host>,
    /// `None` until it is instantiated.
    exports: Option<HttpExports>,
}

enum HttpExports {
    Http(Proxy),
    AsyncHttp(Service),
}

enum LinkedWorld {
    Http(ProxyPre<Host>),
    AsyncHttp(ServicePre<Host>),
    Command(CommandPre<Host>),
}

/// The head of a response as the host of `wasi:http` passes it, or the guest's own error.
pub(crate) type Head = Result<http::Response<HyperOutgoingBody>, CallError>;

impl ComponentGuest {
    /// Links a component. Rejects one that could not be instantiated within `limits`.
    pub(crate) fn new(
        engine: &Engine,
        component: &Component,
        limits: &GuestLimits,
    ) -> Result<Self, LoadError> {
        check_minimum_memory("component", component.minimum_memory, engine, limits)?;
        let pre = engine.link_component(component)?;
        let fail = |error: wasmtime::Error| {
            LoadError::unsupported("a component whose interface differs")
                .caused_by(WasmError::in_order(error))
        };
        let pre = match component.world {
            World::Http => LinkedWorld::Http(ProxyPre::new(pre).map_err(fail)?),
            World::Command => LinkedWorld::Command(CommandPre::new(pre).map_err(fail)?),
            World::AsyncHttp => LinkedWorld::AsyncHttp(ServicePre::new(pre).map_err(fail)?),
        };
        Ok(Self {
            component: component.clone(),
            pre,
            reuse: Reuse::never(),
        })
    }

    /// Whether an instance can answer several requests.
    pub(crate) fn is_reusable(&self) -> bool {
        !matches!(self.pre, LinkedWorld::Command(_))
    }

    /// Whether an instance can answer several requests at once.
    pub(crate) fn is_concurrent(&self) -> bool {
        matches!(self.pre, LinkedWorld::AsyncHttp(_))
    }

    /// Whether the guest takes bodies as they come.
    pub(crate) fn streams(&self) -> bool {
        !matches!(self.pre, LinkedWorld::Command(_))
    }

    /// What an instance costs before it has run.
    pub(crate) fn instance_cost(&self) -> u64 {
        self.component.minimum_memory
            + self.component.instance_size
            + STACK_COST
            + FREE_OUTPUT
            + PIECES
            + self.copied_arguments()
    }

    fn copied_arguments(&self) -> u64 {
        if self.component.copies_texts {
            COPIED_ARGUMENTS
        } else {
            0
        }
    }

    /// Answers a request: through `head`, or with a whole response.
    pub(crate) async fn answer(
        &self,
        guest: &GuestContext,
        call: Call<RequestBody>,
        usage: Arc<CpuUsage>,
        head: oneshot::Sender<Head>,
        failed: FailureFlag,
    ) -> RunEnd {
        // Boxed, as what follows: the state of a call is moved several times before it runs.
        if let LinkedWorld::Command(pre) = &self.pre {
            return Box::pin(async {
                let call = call.collect(guest.grants.limits.buffers).await?;
                self.print(pre, guest, call, usage).await.map(Some)
            })
            .await;
        }
        let mut reused = match self.take_waiting(guest, &usage, &call) {
            Some(waiting) => waiting,
            None => {
                let charge = guest.reserve_in_time(self.instance_cost()).await?;
                self.new_instance(guest, charge, usage, &call)
            }
        };
        let instance = &mut reused.instance;
        let raised = failed.until_success();
        let handling = Box::pin(self.handle(instance, call, head));
        let responded = self.running(guest, handling).await;
        let responded = responded.map_err(|error| failure(guest, &instance.store, error))?;
        raised.succeeded();
        if responded {
            self.keep(reused);
        }
        Ok(None)
    }

    /// An instance for a call, which is charged for it.
    pub(crate) fn new_instance(
        &self,
        guest: &GuestContext,
        charge: Charge,
        usage: Arc<CpuUsage>,
        call: &Call<RequestBody>,
    ) -> ReusedInstance<HttpInstance> {
        ReusedInstance::new(HttpInstance {
            store: self.store(guest, charge, usage, call, None),
            exports: None,
        })
    }

    /// Takes an instance that waits, and begins a call of it.
    pub(crate) fn take_waiting(
        &self,
        guest: &GuestContext,
        usage: &Arc<CpuUsage>,
        call: &Call<RequestBody>,
    ) -> Option<ReusedInstance<HttpInstance>> {
        let (mut reused, waited) = self.reuse.take()?;
        let store = &mut reused.instance.store;
        guest.renew(store, usage.clone(), waited);
        let trace = guest.trace(call.request.headers());
        let log = guest_log(guest, &call.request_id, trace.as_ref());
        store.data_mut().begin_trace(trace.clone());
        store.data_mut().component().renew(log, trace);
        set_fuel(store, &self.component);
        Some(reused)
    }

    /// Keeps an instance that has answered a request, if it may answer more.
    pub(crate) fn keep(&self, mut reused: ReusedInstance<HttpInstance>) {
        if !self.reuse.is_allowed() {
            return;
        }
        let store = &mut reused.instance.store;
        let is_over = store
            .concurrent_resource_table()
            .is_none_or(|table| table.is_empty());
        if is_over && store.data_mut().component().is_reusable() {
            store.data_mut().report_call();
            self.reuse.put(reused);
        }
    }

    /// Awaits what an instance does: its clock runs while it is polled, and where functions run at
    /// once, their stacks are charged.
    pub(crate) async fn running<T>(
        &self,
        guest: &GuestContext,
        instance: impl Future<Output = T>,
    ) -> T {
        let (_, ticker) = guest.engine.wasmtime_for(&self.component);
        if !self.component.is_async {
            return ticker.while_polled(instance).await;
        }
        let stacks = StackAllowance::new(guest.engine.account().clone());
        let mut instance = pin!(instance);
        let polled = poll_fn(|context| stacks.while_running(|| instance.as_mut().poll(context)));
        ticker.while_polled(polled).await
    }

    /// The store of an instance. `command`: standard input, and how much may be printed.
    fn store<B>(
        &self,
        guest: &GuestContext,
        charge: Charge,
        usage: Arc<CpuUsage>,
        call: &Call<B>,
        command: Option<(Bytes, usize)>,
    ) -> Store<Host> {
        let limits = &guest.grants.limits;
        let trace = guest.trace(call.request.headers());
        let log = guest_log(guest, &call.request_id, trace.as_ref());
        let buffers = guest.engine.account().part(limits.buffers);
        let io = ComponentIo::new(
            &guest.grants,
            ComponentStart {
                log,
                command,
                trace: trace.clone(),
                buffers: buffers.clone(),
                files: guest.engine.files().clone(),
            },
        );
        let config = InstanceConfig {
            charge,
            memory: self.component.minimum_memory,
            cpu_time: limits.cpu_time,
            usage,
            request_id: String::new(),
            trace,
            io: Io::Component(Box::new(io)),
        };
        let (engine, _) = guest.engine.wasmtime_for(&self.component);
        let mut store = guest.store_in(engine, config, Parts::COMPONENT);
        set_fuel(&mut store, &self.component);
        store.set_max_component_handles(MAX_HANDLES);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(MAX_CONCURRENT);
        }
        store.data_mut().quota.share_buffers(buffers);
        store
    }

    /// Makes an instance, whose memories start as the images of the component.
    async fn instantiate<T>(
        &self,
        store: &mut Store<Host>,
        make: impl AsyncFnOnce(&mut Store<Host>) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let charge = store.data().quota.charge().clone();
        let mut making = pin!(make(store));
        poll_fn(|context| {
            with_images(&self.component.memories, &charge, || {
                making.as_mut().poll(context)
            })
        })
        .await
    }

    /// Has an instance answer a request; it is made first if it is new. Returns whether it has
    /// responded.
    async fn handle(
        &self,
        instance: &mut HttpInstance,
        call: Call<RequestBody>,
        head: oneshot::Sender<Head>,
    ) -> wasmtime::Result<bool> {
        let HttpInstance { store, exports } = instance;
        let exports = match exports {
            Some(exports) => exports,
            None => exports.insert(self.make_exports(store).await?),
        };
        match exports {
            HttpExports::Http(proxy) => handle(proxy, store, call, head).await,
            HttpExports::AsyncHttp(service) => {
                Box::pin(handle_async(service, store, call, head)).await
            }
        }
    }

    /// The functions of an instance that answers several requests at once; it is made first if it
    /// is new.
    pub(crate) async fn service<'i>(
        &self,
        instance: &'i mut HttpInstance,
    ) -> wasmtime::Result<(&'i mut Store<Host>, &'i Service)> {
        let HttpInstance { store, exports } = instance;
        let exports = match exports {
            Some(exports) => exports,
            None => exports.insert(self.make_exports(store).await?),
        };
        match exports {
            HttpExports::AsyncHttp(service) => Ok((store, service)),
            HttpExports::Http(_) => Err(wasmtime::Error::msg("its functions cannot run at once")),
        }
    }

    async fn make_exports(&self, store: &mut Store<Host>) -> wasmtime::Result<HttpExports> {
        match &self.pre {
            LinkedWorld::Http(pre) => {
                let make = async |store: &mut Store<Host>| pre.instantiate_async(store).await;
                Ok(HttpExports::Http(self.instantiate(store, make).await?))
            }
            LinkedWorld::AsyncHttp(pre) => {
                let make = async |store: &mut Store<Host>| pre.instantiate_async(store).await;
                Ok(HttpExports::AsyncHttp(self.instantiate(store, make).await?))
            }
            LinkedWorld::Command(_) => Err(wasmtime::Error::msg("it answers no HTTP requests")),
        }
    }

    /// Runs a command, which prints its response.
    async fn print(
        &self,
        pre: &CommandPre<Host>,
        guest: &GuestContext,
        call: Call,
        usage: Arc<CpuUsage>,
    ) -> Result<http::Response<Bytes>, CallError> {
        let limits = &guest.grants.limits;
        let kv = guest.kv_input().await?;
        let entries = KvInput::entries(kv.as_ref());
        let input = protocol::RequestInput::new(&call, &entries);
        let input_len = input.max_len();
        // What the program prints is held twice while it is decoded.
        let output = limits.output.min(limits.buffers / 2);
        let cost = self.instance_cost() + input_len;
        let charge = guest.reserve_in_time(cost).await?;
        let stdin = Bytes::from(input.encode(input_len)?);
        let output_len = usize::try_from(output).unwrap_or(usize::MAX);
        let command = Some((stdin, output_len));
        let mut store = self.store(guest, charge, usage, &call, command);
        drop(call);
        let run = async |store: &mut Store<Host>| {
            let program = self
                .instantiate(store, async |store| pre.instantiate_async(store).await)
                .await?;
            program.wasi_cli_run().call_run(store).await
        };
        match self.running(guest, run(&mut store)).await {
            Ok(Ok(())) => {}
            Ok(Err(())) => {
                let refused = store.data().quota.refused;
                return Err(CallError::Exit { refused, code: 1 });
            }
            Err(error) if matches!(error.downcast_ref(), Some(I32Exit(0))) => {}
            Err(error) => return Err(failure(guest, &store, error)),
        }
        let Some(stdout) = store.data_mut().component().stdout.take() else {
            return Err(CallError::NoResponse);
        };
        let (bytes, mut charge) = stdout.take();
        let cost = protocol::decoding_cost(bytes.len());
        if !charge.grow_to(charge.bytes() + cost) {
            return Err(CallError::NoMemory {
                buffers: limits.buffers,
            });
        }
        let printed = PrintedOutput {
            bytes,
            charge: Some(charge),
        };
        command::respond(guest, printed, kv).await
    }
}

/// The log of a call.
pub(crate) fn guest_log(
    guest: &GuestContext,
    request_id: &str,
    trace: Option<&CallTrace>,
) -> GuestLog {
    let limit = guest.grants.limits.log;
    let mut log = GuestLog::new(guest.grants.clone(), request_id.to_owned(), limit);
    log.set_trace(trace.map(CallTrace::context));
    log
}

/// Bounds what the guest passes to functions of the host in a call.
fn set_fuel(store: &mut Store<Host>, component: &Component) {
    store.set_hostcall_fuel(if component.copies_texts {
        MAX_COPIED_ARGUMENTS
    } else {
        MAX_ARGUMENTS
    });
}

/// Passes a request to an instance. Returns whether it has responded.
async fn handle(
    proxy: &Proxy,
    store: &mut Store<Host>,
    call: Call<RequestBody>,
    head: oneshot::Sender<Head>,
) -> wasmtime::Result<bool> {
    let scheme = match call.request.uri().scheme_str() {
        Some("https") => Scheme::Https,
        _ => Scheme::Http,
    };
    let request = incoming(call)?;
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(scheme, request)?;
    let responded = Arc::new(AtomicBool::new(false));
    let has_responded = responded.clone();
    let send = move |response: Result<_, ErrorCode>| {
        has_responded.store(response.is_ok(), Ordering::Relaxed);
        let response = response.map_err(|error| CallError::HttpError(format!("{error:?}")));
        // A client that is gone needs no response.
        let _ = head.send(response);
    };
    let out = store
        .data_mut()
        .http()
        .new_response_outparam_from_callback(send)?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(store, request, out)
        .await?;
    Ok(responded.load(Ordering::Relaxed))
}

/// Passes a request to an instance whose functions run at once. Returns whether it has responded.
async fn handle_async(
    service: &Service,
    store: &mut Store<Host>,
    call: Call<RequestBody>,
    head: oneshot::Sender<Head>,
) -> wasmtime::Result<bool> {
    let request = request(store.data_mut(), call)?;
    let handle = async |accessor: &Accessor<Host>| {
        let response = match service.handle(accessor, request).await? {
            Ok(response) => response,
            Err(error) => {
                let _ = head.send(Err(CallError::HttpError(format!("{error:?}"))));
                return Ok(false);
            }
        };
        let (response, body_done) = respond(accessor, response, ())?;
        if head.send(Ok(response)).is_ok() {
            let _ = body_done.await;
        }
        // What the guest does after its response.
        poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
        wasmtime::error::Ok(true)
    };
    store.run_concurrent(handle).await?
}

/// A request as an instance whose functions run at once takes it.
pub(crate) fn request(host: &mut Host, call: Call<RequestBody>) -> wasmtime::Result<Request> {
    let request = incoming(call)?;
    // Whether the body was read completely is known to who reads it.
    let (request, _) = Request::from_http(host.http().hooks, request);
    Ok(request)
}

/// A response of such an instance, and what tells that nothing of its body is read any more.
/// `kept` is dropped then.
pub(crate) fn respond(
    accessor: &Accessor<Host>,
    response: Response,
    kept: impl Send + 'static,
) -> wasmtime::Result<(http::Response<HyperOutgoingBody>, oneshot::Receiver<()>)> {
    let (sent, end) = oneshot::channel::<()>();
    let is_sent = async {
        let _ = end.await;
        Ok(())
    };
    let (done, body_done) = oneshot::channel::<()>();
    let response = accessor.with(|store| response.into_http(store, is_sent))?;
    let response = response.map(|body| {
        // Dropped with the body, and when it breaks: nothing of it is read any more then, and the
        // guest's end tells why.
        let mut held = Some((sent, done, kept));
        body.map_err(move |error| {
            drop(held.take());
            error
        })
        .boxed_unsync()
    });
    Ok((response, body_done))
}

/// Why an instance stopped.
pub(crate) fn failure(
    guest: &GuestContext,
    store: &Store<Host>,
    error: wasmtime::Error,
) -> CallError {
    let refused = store.data().quota.refused;
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return CallError::Exit {
            refused,
            code: *code,
        };
    }
    guest.failure(error, refused, guest.grants.limits.cpu_time)
}

/// A request as the host of `wasi:http` takes it, with the parameters of its route.
fn incoming(call: Call<RequestBody>) -> wasmtime::Result<http::Request<WasiBody>> {
    let mut request = call.request.map(|body| match body {
        RequestBody::Collected(bytes) => Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync(),
        RequestBody::Stream(stream) => stream.map_err(wasi_error).boxed_unsync(),
    });
    let headers = request.headers_mut();
    headers.remove(PARAMS);
    if !call.params.is_empty() {
        let params = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&call.params)
            .finish();
        headers.insert(PARAMS, HeaderValue::try_from(params)?);
    }
    Ok(request)
}

/// The error that a guest gets for a request's body that ended early.
fn wasi_error(error: BodyError) -> wasmtime_wasi_http::Error {
    use wasmtime_wasi_http::Error;
    match error {
        BodyError::Disconnected => Error::ConnectionTerminated,
        BodyError::TooLarge(limit) => Error::HttpRequestBodySize(Some(limit)),
        BodyError::TooSlow => Error::ConnectionReadTimeout,
        BodyError::Malformed(_) => Error::HttpProtocolError,
    }
}

/// The head of a response, as the server takes it.
pub(crate) fn outgoing(head: Head) -> Result<http::Response<BodyStream>, CallError> {
    let response = head?;
    // The server's connection is not the guest's to switch, and a final response has to follow.
    if response.status().is_informational() {
        let error = format!("{} is not the status of a response", response.status());
        return Err(CallError::HttpError(error));
    }
    Ok(response.map(|body| {
        body.map_err(|error| BodyError::Malformed(error.to_string()))
            .boxed_unsync()
    }))
}
