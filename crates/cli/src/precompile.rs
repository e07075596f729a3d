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

/// The exit code if a later run may compile what was left, as `sysexits.h` has it.
const TRY_AGAIN: u8 = 75;

/// The exit code of the compiling process if the module cannot be compiled, as `sysexits.h` has it.
const REJECTED: u8 = 65;

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
            patient: args.patient,
            compiling: &Compiling::default(),
            languages: &Languages::standard(),
            compile: &compiler::in_process,
        };
        precompile.run(&args.path, args.file.as_deref())
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
            for failure in &done.failures {
                eprintln!("{failure}");
            }
            println!(
                "{} compiled, {} were in the store, {} left to the server",
                done.compiled, done.cached, done.left
            );
            match done.retry {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::from(TRY_AGAIN),
            }
        }
        Err(error) => {
            eprintln!("wws: cannot compile ahead: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Compiles standard input to standard output.
pub(crate) fn compile(args: &args::Compile) -> ExitCode {
    let run = || -> io::Result<ExitCode> {
        confine::give_up_rights(args.parent, args.cpu_time)?;
        let mut wasm = Vec::new();
        io::stdin().lock().take(MAX_SIZE).read_to_end(&mut wasm)?;
        let kind = match args.interpreter {
            true => ModuleKind::Interpreter,
            false => ModuleKind::Module,
        };
        match wws_server::compile(kind, &wasm) {
            Ok(code) => io::stdout()
                .lock()
                .write_all(&code)
                .map(|()| ExitCode::SUCCESS),
            Err(error) => {
                eprintln!("wws: {error}");
                Ok(ExitCode::from(REJECTED))
            }
        }
    };
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wws: {error}");
            ExitCode::FAILURE
        }
    }
}
