//! A JavaScript worker: how its snapshot is made, and how it answers a request.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, header};
use wws_engine::{
    Call, Directories, Program, ProgramError, Vm,
    wasmtime::{Error, Result},
};

use super::{
    exports::{Exports, NoRoom, SCRATCH},
    host_calls::NAMES,
    kit, modules,
    operations::{Event, Waiting},
    place::{with_callee, with_place},
    source_map::SourceMaps,
    state::{Done, Ended, KitFunctions, State},
};

/// `qjs_eval`: as a script, as a module, and only to see whether it is a script.
const SCRIPT: u32 = 0;
const MODULE: u32 = 1;
const COMPILE_ONLY: u32 = 32;

/// QuickJS' own stack, in bytes, of the mebibyte that its memory begins with: deeper recursion is a RangeError.
///
/// The engine's native stack must not end first, which would be a trap. The parser needs the most of it, 4.6 times as much as of this
/// one; see `build.rs`.
const STACK: u32 = 800 << 10;

/// Garbage that a request may make before the collector walks all objects, which writes to all their pages.
const GARBAGE: u32 = 16 << 20;

/// A larger file is not read to name what an error is about, in bytes.
const CALLEE_SOURCE: u64 = 1 << 20;

/// The head of a request that is put into memory which was set aside for it, in bytes.
const HEAD: u32 = 8 << 10;

/// A worker's file, and where it lies.
pub(super) struct Worker {
    file: String,
    modules: Directories,
    variables: Vec<(String, String)>,
    maps: SourceMaps,
    points: OnceLock<Points>,
    has_no_handler: AtomicBool,
}

/// Addresses in the snapshot.
#[derive(Clone, Copy)]
struct Points {
    scratch: u32,
    /// [`HEAD`] bytes.
    head: u32,
    dispatch: u32,
    settle: u32,
    describe: u32,
    /// Runs the timer that is due.
    tick: u32,
    /// What the host's functions call.
    kit: KitFunctions,
    report_rejections: u32,
}

fn failed(text: impl Into<String>) -> ProgramError {
    ProgramError::failed(text)
}

impl Worker {
    pub(super) fn new(
        file: String,
        modules: Directories,
        variables: Vec<(String, String)>,
    ) -> Self {
        Self {
            file,
            maps: SourceMaps::new(modules.clone()),
            modules,
            variables,
            points: OnceLock::new(),
            has_no_handler: AtomicBool::new(false),
        }
    }

    /// Whether the file was run, and left nothing that answers requests.
    pub(super) fn has_no_handler(&self) -> bool {
        self.has_no_handler.load(Ordering::Relaxed)
    }

    fn points(&self) -> Result<Points> {
        self.points
            .get()
            .copied()
            .ok_or_else(|| Error::msg("the worker was not loaded"))
    }
}

impl Program for Worker {
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(self.load(vm))
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, ProgramError>> {
        Box::pin(self.handle(vm, call))
    }
}

/// A call's state, which the program set when the call began.
fn state(vm: &mut Vm) -> Result<&mut State> {
    State::of(vm.host())
}

/// What a program does with an instance, with the functions at hand.
struct Js<'a> {
    vm: &'a mut Vm,
    exports: std::sync::Arc<Exports>,
    scratch: u32,
}

impl<'a> Js<'a> {
    fn of(vm: &'a mut Vm) -> Result<Self> {
        let state = state(vm)?;
        let (exports, scratch) = (state.exports.clone(), state.scratch);
        Ok(Self {
            vm,
            exports,
            scratch,
        })
    }

    async fn call(&mut self, function: u32, arguments: &[u32]) -> Result<u32> {
        let exports = self.exports.clone();
        exports
            .invoke(self.vm.context(), self.scratch, function, arguments)
            .await
    }

    async fn make(&mut self, text: &str) -> Result<u32> {
        let exports = self.exports.clone();
        exports.make_text(self.vm.context(), text).await
    }

    async fn text(&mut self, value: u32) -> Result<String> {
        let exports = self.exports.clone();
        exports.text(self.vm.context(), self.scratch, value).await
    }

    async fn is_exception(&mut self, value: u32) -> Result<bool> {
        let function = self.exports.is_exception.clone();
        Ok(self.vm.call(&function, (value,)).await? != 0)
    }

    /// A C string in memory that stays.
    async fn c_string(&mut self, text: &str) -> Result<u32> {
        let exports = self.exports.clone();
        let bytes = [text.as_bytes(), b"\0"].concat();
        exports
            .put(self.vm.context(), &bytes)
            .await?
            .ok_or_else(|| Error::msg("no memory left"))
    }

    async fn eval(&mut self, source: &str, name: &str, flags: u32) -> Result<u32> {
        let eval = self.vm.function::<(u32, u32, u32, u32), u32>("qjs_eval")?;
        let code = self.c_string(source).await?;
        let file = self.c_string(name).await?;
        let len = u32::try_from(source.len())?;
        let value = self.vm.call(&eval, (code, len, file, flags)).await?;
        let free = self.exports.free.clone();
        self.vm.call(&free, (code,)).await?;
        self.vm.call(&free, (file,)).await?;
        Ok(value)
    }

    async fn property(&mut self, object: u32, name: &str) -> Result<u32> {
        let get = self.vm.function::<(u32, u32), u32>("qjs_get_prop_string")?;
        let name = self.c_string(name).await?;
        self.vm.call(&get, (object, name)).await
    }

    /// The exception that was thrown, in words. `describe` is the kit's function, once it is there.
    async fn thrown(&mut self, describe: Option<u32>) -> Result<String> {
        let get = self.exports.exception.clone();
        let value = self.vm.call(&get, ()).await?;
        self.described(value, describe).await
    }

    async fn described(&mut self, value: u32, describe: Option<u32>) -> Result<String> {
        if let Some(describe) = describe {
            let text = self.call(describe, &[value]).await?;
            if !self.is_exception(text).await? {
                return self.text(text).await;
            }
        }
        self.text(value).await
    }

    /// Runs what promises wait for, until nothing is left to run.
    async fn run_jobs(&mut self) -> Result<()> {
        /// Between two looks at the clock.
        const BATCH: usize = 64;
        let job = self.exports.run_job.clone();
        loop {
            let more = self
                .vm
                .counted(async |vm: &mut Vm| {
                    for _ in 0..BATCH {
                        // Below 0: the job threw, which is its promise's affair.
                        if vm.call(&job, ()).await? == 0 {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })
                .await?;
            if !more {
                return Ok(());
            }
        }
    }
}

impl Worker {
    async fn load(&self, vm: &mut Vm) -> Result<(), ProgramError> {
        let initialize = vm.function::<(), ()>("_initialize")?;
        vm.call(&initialize, ()).await?;
        let init = vm.function::<(), i32>("qjs_init")?;
        if vm.call(&init, ()).await? != 0 {
            return Err(failed("the interpreter does not start"));
        }
        for (name, value) in [
            (
                "qjs_set_max_stack_size",
                std::env::var("X_STACK")
                    .ok()
                    .and_then(|v| v.parse().ok())
                    .unwrap_or(STACK),
            ),
            ("qjs_set_module_loader", 1),
            ("qjs_set_promise_rejection_handler", 1),
        ] {
            let set = vm.function::<u32, ()>(name)?;
            vm.call(&set, value).await?;
        }
        let exports = Exports::of(vm)?;
        let scratch = vm.call(&exports.malloc, (SCRATCH,)).await?;
        let head = vm.call(&exports.malloc, (HEAD,)).await?;
        vm.host()
            .set_state(State::new(exports, scratch, self.modules.clone()));
        let mut js = Js::of(vm)?;
        let wws = js.kit().await?;
        let points = Points {
            scratch,
            head,
            dispatch: js.property(wws, "dispatch").await?,
            settle: js.property(wws, "settle").await?,
            describe: js.property(wws, "describe").await?,
            tick: js.property(wws, "tick").await?,
            kit: KitFunctions {
                rejection: js.property(wws, "rejection").await?,
                error: js.property(wws, "error").await?,
            },
            report_rejections: js.property(wws, "reportRejections").await?,
        };
        state(js.vm)?.kit = Some(points.kit);
        let set = js.property(wws, "setVariable").await?;
        for (name, value) in &self.variables {
            let (name, value) = (js.make(name).await?, js.make(value).await?);
            js.call(set, &[name, value]).await?;
        }
        let exports = self.evaluate(&mut js, points.describe).await?;
        let loaded = js.property(wws, "loaded").await?;
        let problem = js.call(loaded, &[exports]).await?;
        let is_string = js.exports.is_string.clone();
        if js.vm.call(&is_string, (problem,)).await? != 0 {
            let problem = js.text(problem).await?;
            self.has_no_handler.store(true, Ordering::Relaxed);
            return Err(failed(format!("{}: {problem}", self.file)));
        }
        js.run_jobs().await?;
        js.report_rejections(&points).await?;
        let collect = js.vm.function::<(), ()>("qjs_run_gc")?;
        js.vm.call(&collect, ()).await?;
        let threshold = js.vm.function::<u32, ()>("qjs_set_gc_threshold")?;
        js.vm.call(&threshold, GARBAGE).await?;
        let _ = self.points.set(points);
        Ok(())
    }

    /// Runs the worker's file. Gives its exports, or undefined for a script.
    async fn evaluate(&self, js: &mut Js<'_>, describe: u32) -> Result<u32, ProgramError> {
        let source = modules::read(state(js.vm)?, &self.file).map_err(failed)?;
        // What is no script may be a module, whose rules are stricter: scripts of the old server stay scripts.
        let compiled = js.eval(&source, &self.file, COMPILE_ONLY).await?;
        let script = !js.is_exception(compiled).await?;
        if !script {
            js.thrown(None).await?;
        }
        let value = js
            .eval(&source, &self.file, if script { SCRIPT } else { MODULE })
            .await?;
        if js.is_exception(value).await? {
            return Err(self.problem(js, describe, None).await?);
        }
        js.run_jobs().await?;
        if script {
            let undefined = js.exports.undefined.clone();
            return Ok(js.vm.call(&undefined, ()).await?);
        }
        let state_of = js.vm.function::<u32, u32>("qjs_promise_state")?;
        let result_of = js.vm.function::<u32, u32>("qjs_promise_result")?;
        let state = js.vm.call(&state_of, value).await?;
        let result = js.vm.call(&result_of, value).await?;
        match state {
            1 => Ok(result),
            2 => Err(self.problem(js, describe, Some(result)).await?),
            _ => Err(failed(format!(
                "{}: it waits for a promise that nothing fulfils while it is loaded",
                self.file
            ))),
        }
    }

    /// Why the worker was not loaded: the exception that was thrown, or that its promise was rejected with.
    async fn problem(
        &self,
        js: &mut Js<'_>,
        describe: u32,
        rejected: Option<u32>,
    ) -> Result<ProgramError> {
        if let Some(problem) = state(js.vm)?.import_problem.take() {
            return Ok(failed(problem));
        }
        let text = match rejected {
            Some(value) => js.described(value, Some(describe)).await?,
            None => js.thrown(Some(describe)).await?,
        };
        let text = self.maps.apply(&text);
        let placed = with_place(&text);
        Ok(failed(if placed != text || text.starts_with(&self.file) {
            placed
        } else {
            format!("{}: {text}", self.file)
        }))
    }

    async fn handle(&self, vm: &mut Vm, call: Call) -> Result<http::Response<Bytes>, ProgramError> {
        let points = self.points()?;
        let exports = Exports::of(vm)?;
        let head = head(&call)?;
        let mut state = State::new(exports, points.scratch, self.modules.clone());
        state.loading = false;
        state.body = call.request.into_body();
        state.kit = Some(points.kit);
        vm.host().set_state(state);
        let mut js = Js::of(vm)?;
        let request = js.request(&points, &head).await?;
        let (dispatch, scratch) = (points.dispatch, points.scratch);
        let exports = js.exports.clone();
        js.vm
            .counted(async |vm: &mut Vm| {
                exports
                    .invoke(vm.context(), scratch, dispatch, &[request])
                    .await
            })
            .await?;
        loop {
            js.run_jobs().await?;
            js.report_rejections(&points).await?;
            let state = State::of(js.vm.host())?;
            if let Some(outcome) = state.outcome.take() {
                return self.respond(&mut js, outcome);
            }
            let event = match Waiting::of(state) {
                Ok(mut waiting) => {
                    let event = js.vm.wait(waiting.next()).await;
                    waiting.back(State::of(js.vm.host())?, &event);
                    event
                }
                Err(event) => *event,
            };
            match event {
                Event::Done(done) => js.settle(&points, done).await?,
                Event::Timer => js.counted_call(&points, points.tick, &[]).await?,
                Event::Never => return Err(self.no_answer(&mut js, &points).await?),
            }
        }
    }

    /// Nothing can happen any more, and there is no answer: an exception ended the kit's own code, or a promise is never fulfilled.
    async fn no_answer(&self, js: &mut Js<'_>, points: &Points) -> Result<ProgramError> {
        let context = js.vm.function::<(), u32>("qjs_get_context_ptr")?;
        let context = js.vm.call(&context, ()).await?;
        let has_exception = js.vm.function::<u32, u32>("JS_HasException")?;
        let text = if js.vm.call(&has_exception, context).await? == 0 {
            "its promise was never fulfilled, and nothing is under way that could".into()
        } else {
            let text = js.thrown(Some(points.describe)).await?;
            with_place(&self.maps.apply(&text))
        };
        Ok(failed(format!("gave no answer: {text}")))
    }

    fn respond(
        &self,
        js: &mut Js<'_>,
        outcome: Result<(String, Bytes), String>,
    ) -> Result<http::Response<Bytes>, ProgramError> {
        let (head, body) = match outcome {
            Ok(given) => given,
            Err(text) => {
                let text = with_callee(&text, |file| {
                    modules::read_up_to(&self.modules, file, CALLEE_SOURCE).ok()
                });
                let text = self.maps.apply(&text);
                // The frames are lines of the log, the error itself is the call's.
                js.vm.host().log(tracing::Level::ERROR, &text);
                let with_place = with_place(&text);
                let first = with_place.lines().next().unwrap_or_default();
                return Err(failed(first));
            }
        };
        let mut lines = head.split('\0');
        let status = lines.next().and_then(|status| status.parse().ok());
        let lines: Vec<_> = lines.collect();
        let headers = lines
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[name, value]| (*name, *value));
        let has_type = lines.iter().step_by(2).any(|name| *name == "content-type");
        let mut response = wws_engine::build_response(status.unwrap_or(-1), headers, body)
            .map_err(|error| failed(error.to_string()))?;
        if !has_type {
            // The kit gives text its type. What is no text has the type that it brings along, or none.
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        Ok(response)
    }
}

impl Js<'_> {
    /// Loads the kit. Gives the object that its parts share.
    async fn kit(&mut self) -> Result<u32, ProgramError> {
        let new_object = self.vm.function::<(), u32>("qjs_new_object")?;
        let new_function = self
            .vm
            .function::<(u32, u32, u32), u32>("qjs_new_host_function")?;
        let set = self
            .vm
            .function::<(u32, u32, u32), i32>("qjs_set_prop_string")?;
        let host = self.vm.call(&new_object, ()).await?;
        for name in NAMES {
            let at = self.c_string(name).await?;
            let len = u32::try_from(name.len()).map_err(Error::from)?;
            let function = self.vm.call(&new_function, (at, len, 0)).await?;
            self.vm.call(&set, (host, at, function)).await?;
        }
        let wws = self.vm.call(&new_object, ()).await?;
        let at = self.c_string("host").await?;
        self.vm.call(&set, (wws, at, host)).await?;
        let streams = self.eval(kit::STREAMS, "wws:streams", SCRIPT).await?;
        let function = self.eval(kit::KIT, "wws:kit", SCRIPT).await?;
        for value in [streams, function] {
            if self.is_exception(value).await? {
                let why = self.thrown(None).await?;
                return Err(failed(format!("the kit does not load: {why}")));
            }
        }
        let result = self.call(function, &[wws]).await?;
        if self.is_exception(result).await? {
            let get = self.exports.exception.clone();
            let value = self.vm.call(&get, ()).await?;
            let stack = self.property(value, "stack").await?;
            let (why, stack) = (self.text(value).await?, self.text(stack).await?);
            return Err(failed(format!("the kit does not start: {why} {stack}")));
        }
        Ok(wws)
    }

    /// Puts the head of a request into the guest.
    async fn request(&mut self, points: &Points, head: &str) -> Result<u32> {
        let exports = self.exports.clone();
        let len = u32::try_from(head.len())?;
        if len > HEAD {
            return exports.make_text(self.vm.context(), head).await;
        }
        exports
            .memory
            .write(self.vm.context(), points.head as usize, head.as_bytes())?;
        self.vm.call(&exports.new_string, (points.head, len)).await
    }

    /// Tells the kit what an operation gave.
    async fn settle(&mut self, points: &Points, done: Done) -> Result<()> {
        let exports = self.exports.clone();
        let Some(result) = done.result else {
            return Ok(());
        };
        let id = self.vm.call(&exports.new_number, (done.id as f64,)).await?;
        let undefined = self.vm.call(&exports.undefined, ()).await?;
        let given = match result {
            Ok(ended) => match self.given(ended).await {
                // The worker may go on without it.
                Err(error) if error.is::<NoRoom>() => Err(format!("ENOMEM:{error}")),
                given => Ok(given?),
            },
            Err(failure) => Err(failure),
        };
        let arguments = match given {
            Ok((text, bytes)) => [id, undefined, text, bytes.unwrap_or(undefined)],
            Err(failure) => [id, self.make(&failure).await?, undefined, undefined],
        };
        self.counted_call(points, points.settle, &arguments).await?;
        for value in arguments {
            if value != undefined {
                self.vm.call(&exports.free_value, (value,)).await?;
            }
        }
        Ok(())
    }

    /// What an operation gave, as values of the guest's.
    async fn given(&mut self, ended: Ended) -> Result<(u32, Option<u32>)> {
        if let (Some((key, value)), Some(kv)) = (ended.learned, self.vm.host().kv()) {
            // A view that is full shows the value of before, as it would without this.
            let _ = kv.learn(key, Some(value));
        }
        let exports = self.exports.clone();
        let bytes = match ended.bytes {
            Some(bytes) => Some(exports.make_bytes(self.vm.context(), &bytes).await?),
            None => None,
        };
        Ok((self.make(&ended.text).await?, bytes))
    }

    /// Calls a function of the kit, whose time is the guest's.
    async fn counted_call(
        &mut self,
        points: &Points,
        function: u32,
        arguments: &[u32],
    ) -> Result<()> {
        let exports = self.exports.clone();
        let scratch = points.scratch;
        self.vm
            .counted(async |vm: &mut Vm| {
                let result = exports.invoke(vm.context(), scratch, function, arguments);
                let result = result.await?;
                vm.call(&exports.free_value, (result,)).await
            })
            .await
    }

    /// Has the kit log the promises that were rejected and that nothing handles.
    async fn report_rejections(&mut self, points: &Points) -> Result<()> {
        if !std::mem::take(&mut state(self.vm)?.has_rejections) {
            return Ok(());
        }
        self.counted_call(points, points.report_rejections, &[])
            .await
    }
}

/// Method, URL, parameters as JSON, whether there is a body (1 or 0), and headers, with NUL characters between.
fn head(call: &Call) -> Result<String> {
    let request = &call.request;
    let mut head = String::with_capacity(256);
    head.push_str(request.method().as_str());
    head.push('\0');
    head.push_str(&request.uri().to_string());
    head.push('\0');
    if call.params.is_empty() {
        head.push_str("{}");
    } else {
        let params: serde_json::Map<_, _> = call
            .params
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        head.push_str(&serde_json::to_string(&params)?);
    }
    head.push('\0');
    head.push_str(match request.method() {
        &Method::GET | &Method::HEAD => "0",
        _ if request.body().is_empty() => "0",
        _ => "1",
    });
    for (name, value) in request.headers() {
        head.push('\0');
        head.push_str(name.as_str());
        head.push('\0');
        match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => head.push_str(value),
            // Latin-1, as in the worker protocol.
            Err(_) => head.extend(value.as_bytes().iter().map(|byte| *byte as char)),
        }
    }
    Ok(head)
}
