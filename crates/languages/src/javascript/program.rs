//! A JavaScript worker: how its snapshot is created, and how it answers a request.

use std::sync::OnceLock;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wws_engine::{
    Call, Directories, Program, ProgramError, ProgramFailure, RequestBody, Vm,
    wasmtime::{Error, Result},
};

use crate::incoming::{self, IncomingBody};

use super::{
    exports::{Exports, SCRATCH},
    interpreter::{
        COMPILE_ONLY, Describe, HEAD, JsInstance, MODULE, SCRIPT, SnapshotAddresses, state,
    },
    modules,
    operations::{Event, Waiting},
    place::{first_place, with_callee},
    request_head::request_head,
    response::response_of,
    source_map::SourceMaps,
    state::{CallState, KitFunctions, Outcome, Thrown},
    streams,
};

/// The size of QuickJS's own stack, in bytes, of the mebibyte that its memory begins with: deeper
/// recursion is a RangeError.
///
/// The engine's native stack must not overflow first, which would be a trap. The parser needs most
/// of it, 4.6 times as much as of this one; see `build.rs`.
const STACK: u32 = 800 << 10;

/// Bytes that a request may allocate before the garbage collector visits all objects, which writes
/// to all their pages.
const GARBAGE: u32 = 16 << 20;

/// A file of up to this many bytes is read to name the callee of a failed call.
const CALLEE_SOURCE: u64 = 1 << 20;

/// A worker's file.
pub(super) struct Worker {
    file: String,
    modules: Directories,
    variables: Vec<(String, String)>,
    maps: SourceMaps,
    points: OnceLock<SnapshotAddresses>,
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
        }
    }

    fn points(&self) -> Result<SnapshotAddresses> {
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

    fn takes_streams(&self) -> bool {
        true
    }

    fn sources(&self) -> Option<&Directories> {
        Some(&self.modules)
    }

    fn is_reusable(&self, vm: &mut Vm) -> bool {
        CallState::of(vm.host()).is_ok_and(|state| state.cancel.is_empty() && state.wake.is_none())
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(self.handle(vm, call))
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
            ("qjs_set_max_stack_size", STACK),
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
            .set_state(CallState::new(exports, scratch, self.modules.clone()));
        let mut js = JsInstance::of(vm)?;
        let wws = js.kit().await?;
        let points = SnapshotAddresses {
            scratch,
            head,
            dispatch: js.property(wws, "dispatch").await?,
            settle: js.property(wws, "settle").await?,
            describe: Describe {
                text: js.property(wws, "describe").await?,
                stack: js.property(wws, "stackOf").await?,
            },
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
            return Err(ProgramError::NoHandler(ProgramFailure::new(problem)));
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

    /// Runs the worker's file. Returns its exports, or undefined for a script.
    async fn evaluate(&self, js: &mut JsInstance<'_>, kit: Describe) -> Result<u32, ProgramError> {
        let source = modules::read(state(js.vm)?, &self.file).map_err(ProgramError::Failed)?;
        // A file that is not a script may be a module, whose rules are stricter. Scripts of Wasm
        // Workers Server 1.x stay scripts.
        let compiled = js.eval(&source, &self.file, COMPILE_ONLY).await?;
        let script = !js.is_exception(compiled).await?;
        if !script {
            // Clears the exception.
            js.thrown(None).await?;
        }
        let value = js
            .eval(&source, &self.file, if script { SCRIPT } else { MODULE })
            .await?;
        if js.is_exception(value).await? {
            return Err(self.problem(js, kit, None).await?);
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
            2 => Err(self.problem(js, kit, Some(result)).await?),
            _ => Err(failed(
                "it waits for a promise that nothing fulfils while it is loaded",
            )),
        }
    }

    /// Why the worker was not loaded: the exception that was thrown, or the reason of a rejected
    /// promise.
    async fn problem(
        &self,
        js: &mut JsInstance<'_>,
        kit: Describe,
        rejected: Option<u32>,
    ) -> Result<ProgramError> {
        if let Some(problem) = state(js.vm)?.import_problem.take() {
            return Ok(ProgramError::Failed(problem));
        }
        let thrown = match rejected {
            Some(value) => js.described(value, Some(kit)).await?,
            None => js.thrown(Some(kit)).await?,
        };
        Ok(ProgramError::Failed(self.failure(&thrown)))
    }

    /// What was thrown, with its place in what the user wrote.
    fn failure(&self, thrown: &Thrown) -> ProgramFailure {
        let pos = first_place(&thrown.stack);
        ProgramFailure {
            pos: pos.map(|pos| self.maps.original(&pos).unwrap_or(pos)),
            message: self.maps.apply(&thrown.text),
        }
    }

    async fn handle(
        &self,
        vm: &mut Vm,
        call: Call<RequestBody>,
    ) -> Result<Option<http::Response<Bytes>>, ProgramError> {
        let points = self.points()?;
        let exports = Exports::of(vm)?;
        let (call, stream) = incoming::open(vm, call).await?;
        let head = request_head(&call, stream.is_some())?;
        let mut state = CallState::new(exports, points.scratch, self.modules.clone());
        state.loading = false;
        state.body = call.request.into_body();
        if let Some(stream) = stream {
            let body = streams::shared(IncomingBody::Request(stream));
            state.incoming.insert(streams::OWN, body);
        }
        state.kit = Some(points.kit);
        vm.host().set_state(state);
        let mut js = JsInstance::of(vm)?;
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
            let state = CallState::of(js.vm.host())?;
            match state.outcome.take() {
                None => {}
                Some(Outcome::Whole(head, body)) => {
                    let response = response_of(&head, body);
                    return response
                        .map(Some)
                        .map_err(|error| failed(error.to_string()));
                }
                Some(Outcome::Ended { goes_on }) => {
                    let sender = state.outgoing.remove(&streams::OWN);
                    // A client that reads the end finds what the worker stored.
                    js.vm.host().commit_kv().await.map_err(Error::new)?;
                    let ending = streams::finish(sender);
                    let _ = js.vm.wait(ending).await;
                    if !goes_on {
                        return Ok(None);
                    }
                    continue;
                }
                Some(Outcome::Failed(thrown)) => return Err(self.thrown(&mut js, thrown)),
            }
            let has_socket = !state.sockets.is_empty();
            if has_socket {
                // Others see what the worker stored while it waits.
                js.vm.host().commit_kv().await.map_err(Error::new)?;
            }
            let event = match Waiting::of(CallState::of(js.vm.host())?) {
                Ok(mut waiting) => {
                    let event = js.vm.wait(waiting.next()).await;
                    waiting.back(CallState::of(js.vm.host())?, &event);
                    event
                }
                Err(event) => *event,
            };
            if has_socket {
                js.vm.host().kv_may_have_changed();
            }
            match event {
                Event::Done(done) => js.settle(&points, done).await?,
                Event::Timer => js.counted_call(&points, points.tick, &[]).await?,
                Event::Never => return Err(self.no_answer(&mut js, &points).await?),
            }
        }
    }

    /// There is no answer, and nothing can happen any more: an exception ended the kit's own code,
    /// or a promise is never fulfilled.
    async fn no_answer(
        &self,
        js: &mut JsInstance<'_>,
        points: &SnapshotAddresses,
    ) -> Result<ProgramError> {
        let context = js.vm.function::<(), u32>("qjs_get_context_ptr")?;
        let context = js.vm.call(&context, ()).await?;
        let has_exception = js.vm.function::<u32, u32>("JS_HasException")?;
        let failure = if js.vm.call(&has_exception, context).await? == 0 {
            ProgramFailure::new(
                "its promise was never fulfilled, and nothing is under way that could",
            )
        } else {
            self.failure(&js.thrown(Some(points.describe)).await?)
        };
        Ok(failed(format!("gave no answer: {failure}")))
    }

    /// The failure of a call; its frames are logged.
    fn thrown(&self, js: &mut JsInstance<'_>, mut thrown: Thrown) -> ProgramError {
        let pos = first_place(&thrown.stack);
        thrown.text = with_callee(&thrown.text, pos.as_ref(), |file| {
            modules::read_up_to(&self.modules, file, CALLEE_SOURCE).ok()
        });
        let mut failure = self.failure(&thrown);
        // The frames are lines of the log, the error itself is the call's.
        js.vm.host().log(tracing::Level::ERROR, &failure.message);
        let first = failure.message.lines().next().unwrap_or_default();
        failure.message = first.to_owned();
        ProgramError::Failed(failure)
    }
}
