//! JavaScript workers: QuickJS, the kit of `kits/js` and the user's files, from one snapshot.

mod crypto;
mod encoding;
mod exception;
mod exports;
mod files;
mod host_calls;
mod interpreter;
mod kit;
mod mappings;
mod modules;
mod multipart;
mod not_a_worker;
mod operations;
mod place;
mod program;
mod request_head;
mod response;
mod sockets;
mod source_map;
mod state;
mod store;
mod streams;
mod urls;

use std::{path::Path, sync::Arc};

use wws_engine::{
    Directories, GuestSpec, Host, LoadError, LoadErrorKind, Program,
    wasmtime::{Linker, Module, Result},
};
use wws_project::{InterpreterOrigin, LanguageSpec, beneath::Root};

use crate::language::{BuiltInInterpreter, Language};

use program::Worker;

/// How sources of other dialects become JavaScript.
const COMPILE: &str = "compile it to JavaScript, as by `esbuild FILE --bundle --format=esm \
     --outfile=FILE.js`, and keep the sources in a directory that begins with `_`";

/// JavaScript, whose interpreter is part of the server.
#[derive(Clone, Copy, Debug)]
pub struct JavaScript;

impl Language for JavaScript {
    fn spec(&self) -> LanguageSpec {
        LanguageSpec {
            name: "javascript",
            interpreter: InterpreterOrigin::BuiltIn,
            extensions: &["js", "mjs"],
            convertible: &[
                ("ts", COMPILE),
                ("mts", COMPILE),
                ("tsx", COMPILE),
                ("jsx", COMPILE),
            ],
        }
    }

    fn built_in(&self) -> Option<BuiltInInterpreter> {
        Some(BuiltInInterpreter {
            name: "the JavaScript engine",
            wasm: kit::QUICKJS,
        })
    }

    fn define_imports(&self, linker: &mut Linker<Host>, _: &Module) -> Result<()> {
        host_calls::define(linker)
    }

    fn program(
        &self,
        root: &Root,
        file: &Path,
        spec: &mut GuestSpec,
    ) -> Result<Arc<dyn Program>, LoadError> {
        let directory = root.directory(Path::new("")).map_err(|error| {
            LoadError::new(
                LoadErrorKind::Host,
                format!("cannot open the project: {error}"),
            )
        })?;
        Ok(Arc::new(Worker::new(
            file.to_string_lossy().into_owned(),
            Directories::new(vec![(directory.into(), "/".into())]).traced(),
            spec.env.clone(),
        )))
    }

    fn not_a_worker(&self, file: &Path, source: &str) -> Option<String> {
        not_a_worker::reason(file, source)
    }
}
