//! QuickJS, as a program uses it.

use wws_engine::{
    ProgramError, Vm,
    wasmtime::{Error, Result},
};

use super::{
    exception::KitException,
    exports::{Exports, NoRoom},
    host_calls::NAMES,
    kit,
    state::{CallState, FinishedOperation, KitFunctions, OperationOutput, Thrown},
};

/// Flags of `qjs_eval`: run as a script, run as a module, only compile.
pub(super) const SCRIPT: u32 = 0;
pub(super) const MODULE: u32 = 1;
pub(super) const COMPILE_ONLY: u32 = 32;

/// The size of the memory that is reserved for the head of a request, in bytes.
pub(super) const HEAD: u32 = 8 << 10;

/// Addresses in the snapshot.
#[derive(Clone, Copy)]
pub(super) struct SnapshotAddresses {
    pub(super) scratch: u32,
    /// [`HEAD`] bytes.
    pub(super) head: u32,
    pub(super) dispatch: u32,
    pub(super) settle: u32,
    pub(super) describe: Describe,
    /// Runs the timer that is due.
    pub(super) tick: u32,
    /// Functions that the host calls.
    pub(super) kit: KitFunctions,
    pub(super) report_rejections: u32,
}

/// Functions of the kit that describe what was thrown.
#[derive(Clone, Copy)]
pub(super) struct Describe {
    pub(super) text: u32,
    pub(super) stack: u32,
}

/// The state of a call, which the program sets when the call begins.
pub(super) fn state(vm: &mut Vm) -> Result<&mut CallState> {
    CallState::of(vm.host())
}

/// An instance of the interpreter, with its functions.
pub(super) struct JsInstance<'a> {
    pub(super) vm: &'a mut Vm,
    pub(super) exports: std::sync::Arc<Exports>,
    pub(super) scratch: u32,
}

impl<'a> JsInstance<'a> {
    pub(super) fn of(vm: &'a mut Vm) -> Result<Self> {
        let state = state(vm)?;
        let (exports, scratch) = (state.exports.clone(), state.scratch);
        Ok(Self {
            vm,
            exports,
            scratch,
        })
    }

    pub(super) async fn call(&mut self, function: u32, arguments: &[u32]) -> Result<u32> {
        let exports = self.exports.clone();
        exports
            .invoke(self.vm.context(), self.scratch, function, arguments)
            .await
    }

    pub(super) async fn make(&mut self, text: &str) -> Result<u32> {
        let exports = self.exports.clone();
        exports.make_text(self.vm.context(), text).await
    }

    pub(super) async fn text(&mut self, value: u32) -> Result<String> {
        let exports = self.exports.clone();
        exports.text(self.vm.context(), self.scratch, value).await
    }

    pub(super) async fn is_exception(&mut self, value: u32) -> Result<bool> {
        let function = self.exports.is_exception.clone();
        Ok(self.vm.call(&function, (value,)).await? != 0)
    }

    /// Allocates a C string.
    pub(super) async fn c_string(&mut self, text: &str) -> Result<u32> {
        let exports = self.exports.clone();
        let bytes = [text.as_bytes(), b"\0"].concat();
        exports
            .put(self.vm.context(), &bytes)
            .await?
            .ok_or_else(|| Error::msg("no memory left"))
    }

    pub(super) async fn eval(&mut self, source: &str, name: &str, flags: u32) -> Result<u32> {
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

    pub(super) async fn property(&mut self, object: u32, name: &str) -> Result<u32> {
        let get = self.vm.function::<(u32, u32), u32>("qjs_get_prop_string")?;
        let name = self.c_string(name).await?;
        self.vm.call(&get, (object, name)).await
    }

    /// The exception that was thrown. `describe`: functions of the kit, once it is loaded.
    pub(super) async fn thrown(&mut self, describe: Option<Describe>) -> Result<Thrown> {
        let get = self.exports.exception.clone();
        let value = self.vm.call(&get, ()).await?;
        self.described(value, describe).await
    }

    pub(super) async fn described(
        &mut self,
        value: u32,
        describe: Option<Describe>,
    ) -> Result<Thrown> {
        if let Some(Describe { text, stack }) = describe {
            let text = self.call(text, &[value]).await?;
            let stack = self.call(stack, &[value]).await?;
            if !self.is_exception(text).await? && !self.is_exception(stack).await? {
                return Ok(Thrown {
                    text: self.text(text).await?,
                    stack: self.text(stack).await?,
                });
            }
        }
        self.text(value).await.map(Thrown::without_stack)
    }

    /// Runs the jobs of promises until none is left.
    pub(super) async fn run_jobs(&mut self) -> Result<()> {
        /// Jobs between two checks of the CPU time.
        const BATCH: usize = 64;
        let job = self.exports.run_job.clone();
        loop {
            let more = self
                .vm
                .counted(async |vm: &mut Vm| {
                    for _ in 0..BATCH {
                        // Below 0: the job threw, which rejects its promise.
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

impl JsInstance<'_> {
    /// Loads the kit. Returns the object that its parts share.
    pub(super) async fn kit(&mut self) -> Result<u32, ProgramError> {
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
                return Err(ProgramError::failed(format!(
                    "the kit does not load: {}",
                    why.text
                )));
            }
        }
        let result = self.call(function, &[wws]).await?;
        if self.is_exception(result).await? {
            let get = self.exports.exception.clone();
            let value = self.vm.call(&get, ()).await?;
            let stack = self.property(value, "stack").await?;
            let (why, stack) = (self.text(value).await?, self.text(stack).await?);
            return Err(ProgramError::failed(format!(
                "the kit does not start: {why} {stack}"
            )));
        }
        Ok(wws)
    }

    /// Writes the head of a request into the guest.
    pub(super) async fn request(&mut self, points: &SnapshotAddresses, head: &str) -> Result<u32> {
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

    /// Passes the result of an operation to the kit.
    pub(super) async fn settle(
        &mut self,
        points: &SnapshotAddresses,
        done: FinishedOperation,
    ) -> Result<()> {
        let exports = self.exports.clone();
        let Some(result) = done.result else {
            return Ok(());
        };
        let id = self.vm.call(&exports.new_number, (done.id as f64,)).await?;
        let undefined = self.vm.call(&exports.undefined, ()).await?;
        let given = match result {
            Ok(ended) => match self.given(ended).await {
                // The worker may continue without the result.
                Err(error) if error.is::<NoRoom>() => Err(KitException::no_memory(error)),
                given => Ok(given?),
            },
            Err(failure) => Err(failure),
        };
        let arguments = match given {
            Ok((text, bytes)) => [id, undefined, text, bytes.unwrap_or(undefined)],
            Err(failure) => [
                id,
                self.make(&failure.to_string()).await?,
                undefined,
                undefined,
            ],
        };
        self.counted_call(points, points.settle, &arguments).await?;
        for value in arguments {
            if value != undefined {
                self.vm.call(&exports.free_value, (value,)).await?;
            }
        }
        Ok(())
    }

    /// The result of an operation, as values of the guest.
    pub(super) async fn given(&mut self, ended: OperationOutput) -> Result<(u32, Option<u32>)> {
        if let (Some((key, value)), Some(kv)) = (ended.learned, self.vm.host().kv()) {
            // A full view keeps the old value, as it would without this.
            let _ = kv.learn(key, value);
        }
        let exports = self.exports.clone();
        let bytes = match ended.bytes {
            Some(bytes) => Some(exports.make_bytes(self.vm.context(), &bytes).await?),
            None => None,
        };
        Ok((self.make(&ended.text).await?, bytes))
    }

    /// Calls a function of the kit, whose time counts as the guest's.
    pub(super) async fn counted_call(
        &mut self,
        points: &SnapshotAddresses,
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

    /// Lets the kit log rejected promises that nothing handles.
    pub(super) async fn report_rejections(&mut self, points: &SnapshotAddresses) -> Result<()> {
        if !std::mem::take(&mut state(self.vm)?.has_rejections) {
            return Ok(());
        }
        self.counted_call(points, points.report_rejections, &[])
            .await
    }
}
