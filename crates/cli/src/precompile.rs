//! `wws precompile` compiles ahead of time; `wws compile` is the process that compiles a module.
//!
//! The compiler reads untrusted modules. A bug in it must not become root on the host, so each
//! module is compiled by its own process, which has given up its rights ([`confine`]) and can only
//! write to its standard output.

mod compiler;
mod confine;
mod filter;
mod landlock;

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use wws_server::{CodeCache, Compiling, Languages, ModuleKind, Precompile};

use crate::args;

/// The maximum size of a module and of its code, in bytes.
const MAX_SIZE: u64 = 1 << 30;

/// Fills the code cache, and reports what was done.
pub(crate) fn precompile(args: &args::Precompile) -> ExitCode {
    let run = || {
        let store = CodeCache::open(&args.store, args.max)?;
        let links = args.links.as_deref();
        let written: Vec<_> = std::iter::once(args.store.as_path()).chain(links).collect();
        confine::bound_reader(&written)?;
        let precompile = Precompile {
            store: &store,
            links,
            container: args.container,
            compiling: &Compiling::default(),
            languages: &Languages::standard(),
            compile: &compiler::in_process,
        };
        precompile.run(&args.path)
    };
    match run() {
        Ok(done) => {
            if done.damaged > 0 {
                eprintln!(
                    "{}: {} entries were damaged and are compiled again",
                    args.store.display(),
                    done.damaged
                );
            }
            println!(
                "{} compiled, {} were in the store, {} left to the server",
                done.compiled, done.cached, done.left
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("wws: cannot compile ahead: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Compiles standard input to standard output.
pub(crate) fn compile(args: &args::Compile) -> ExitCode {
    let run = || -> io::Result<()> {
        confine::give_up_rights(args.parent, args.cpu_time)?;
        let mut wasm = Vec::new();
        io::stdin().lock().take(MAX_SIZE).read_to_end(&mut wasm)?;
        let kind = match args.interpreter {
            true => ModuleKind::Interpreter,
            false => ModuleKind::Module,
        };
        let code = wws_server::compile(kind, &wasm).map_err(io::Error::other)?;
        io::stdout().lock().write_all(&code)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wws: {error}");
            ExitCode::FAILURE
        }
    }
}
