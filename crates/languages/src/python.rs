//! Python workers: CPython, the kit of `kits/python` and the user's files, from one snapshot.
//!
//! CPython for WASI is a command that exports only `_start`. The kit finishes loading by sending
//! the address of its function `dispatch` and reading the clock, where the host leaves the instance
//! ([`Host::suspend`](wws_engine::Host::suspend)): within a C function that Python called, a point
//! from which C may call Python again. A request does that: it calls the object through its type's
//! `tp_call`, a function pointer in the guest's memory. The frames below never return.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wws_engine::{
    BodyStream, Call, Directories, GuestSpec, LoadError, LoadErrorKind, Program, ProgramError,
    RequestBody, Vm, is_suspended,
    wasmtime::{Result, TypedFunc, error::Context as _},
};
use wws_project::{InterpreterOrigin, LanguageSpec, beneath::Root};

use crate::channel::{self, Answered, Library, Session, Sources};
use crate::incoming;
use crate::language::Language;
use crate::load;

/// The kit.
const KIT: &str = include_str!("../../../kits/python/wws.py");

macro_rules! library {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../kits/python/library/", $name, ".py"))),)*]
    };
}

/// Modules that CPython for WASI lacks, and the kit's changes to modules that need the server's
/// help.
const LIBRARY: Library = library!(
    "asyncio_loop"
    "concurrent.futures.process"
    "concurrent.futures.thread"
    "ctypes"
    "ctypes.util"
    "hashlib_more"
    "multiprocessing"
    "multiprocessing.connection"
    "multiprocessing.context"
    "multiprocessing.managers"
    "multiprocessing.pool"
    "multiprocessing.process"
    "multiprocessing.queues"
    "multiprocessing.shared_memory"
    "multiprocessing.synchronize"
    "ssl"
);

/// `ob_type` of an object, and `tp_call` of a type, in CPython on a 32-bit machine
/// (`Include/cpython/object.h`).
const OB_TYPE: u32 = 4;
const TP_CALL: u32 = 64;

/// Python, whose interpreter a project installs.
#[derive(Clone, Copy, Debug)]
pub struct Python;

/// A worker.
struct Worker {
    sources: Sources,
    entry: OnceLock<EntryFunction>,
}

/// How a request enters the snapshot: a C function, and the Python objects that it takes.
#[derive(Clone, Copy)]
struct EntryFunction {
    call: u32,
    dispatch: u32,
    arguments: u32,
}

/// `tp_call`: the object, a tuple, a dictionary or NULL.
type TpCall = TypedFunc<(u32, u32, u32), u32>;

impl Language for Python {
    fn spec(&self) -> LanguageSpec {
        LanguageSpec {
            name: "python",
            interpreter: InterpreterOrigin::Runtime,
            extensions: &["py"],
            convertible: &[],
        }
    }

    fn program(
        &self,
        root: &Root,
        file: &Path,
        spec: &mut GuestSpec,
    ) -> Result<Arc<dyn Program>, LoadError> {
        // A JSON string is a Python string.
        let kit = serde_json::to_string(KIT)
            .map_err(|error| LoadError::new(LoadErrorKind::Host, error.to_string()))?;
        let boot = format!(
            "import sys\nwws = type(sys)('wws')\nsys.modules['wws'] = wws\n\
             exec(compile({kit}, '<wws>', 'exec'), wws.__dict__)\nwws._main()"
        );
        // Without `site`, which looks for packages that do not exist.
        spec.args = ["python", "-B", "-S", "-X", "utf8", "-c", &boot]
            .map(str::to_owned)
            .into();
        Ok(Arc::new(Worker {
            sources: Sources::new(root, file, "py", LIBRARY)?,
            entry: OnceLock::new(),
        }))
    }

    fn not_a_worker(&self, _: &Path, source: &str) -> Option<String> {
        load::defines_no_worker(source)
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
        Some(self.sources.directories())
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            let (call, body) = incoming::open(vm, call).await?;
            Ok(self.handle(vm, call, body).await?.into_response())
        })
    }
}

impl Worker {
    async fn load(&self, vm: &mut Vm) -> Result<(), ProgramError> {
        channel::begin_loading(vm.host(), self.sources.clone());
        let start = vm.function::<(), ()>("_start")?;
        match vm.call(&start, ()).await {
            Err(error) if is_suspended(&error) => {}
            Err(error) => {
                // The kit's report says more than an exit code.
                return Err(Session::failure(vm.host()).unwrap_or_else(|| error.into()));
            }
            Ok(()) => {}
        }
        let (dispatch, arguments) = Session::ready(vm.host())?;
        let kind = word(vm, dispatch, OB_TYPE)?;
        let entry = EntryFunction {
            call: word(vm, kind, TP_CALL)?,
            dispatch,
            arguments,
        };
        let _: TpCall = vm
            .function_at(entry.call)
            .context("this Python's objects are laid out in another way")?;
        let _ = self.entry.set(entry);
        Ok(())
    }

    async fn handle(
        &self,
        vm: &mut Vm,
        call: Call,
        body: Option<BodyStream>,
    ) -> Result<Answered, ProgramError> {
        let entry = self.entry.get().context("the worker was not loaded")?;
        channel::begin_call(vm.host(), self.sources.clone(), call, body)?;
        let function: TpCall = vm.function_at(entry.call)?;
        let result = vm
            .call(&function, (entry.dispatch, entry.arguments, 0))
            .await?;
        match Session::outcome(vm.host())? {
            Some(response) => Ok(response),
            None => Err(ProgramError::failed(format!(
                "gave no answer{}",
                if result == 0 { ": the kit failed" } else { "" }
            ))),
        }
    }
}

/// Reads a word of the guest's memory.
fn word(vm: &mut Vm, object: u32, field: u32) -> Result<u32> {
    let mut bytes = [0; 4];
    let at = object.checked_add(field).context("no address")?;
    vm.memory()?.read(vm.context(), at as usize, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
