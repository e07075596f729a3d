//! `wws precompile`: compiles ahead. `wws compile`: the process that does it.
//!
//! The compiler reads what strangers wrote. A bug in it must not become root on the host, so each module is compiled by a process
//! of its own, which has given up its rights, may not run for long or take much memory, and whose only way out is its standard output.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use rustix::process::{Resource, Rlimit, geteuid, setpriority_process, setrlimit};
use wws_server::{CodeCache, Precompile};

use crate::args;

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// Memory of a compiling process, in bytes: address space, of which the engine reserves much and uses little.
const MAX_MEMORY: u64 = 16 << 30;

/// Its CPU time, in seconds; the largest interpreters take about 20.
const MAX_TIME: u64 = 120;

/// The largest module and the largest code, in bytes.
const MAX_SIZE: u64 = 1 << 30;

/// Fills the store, and says what was done.
pub(crate) fn precompile(args: &args::Precompile) -> ExitCode {
    let run = || {
        let store = CodeCache::open(&args.store, args.max)?;
        let precompile = Precompile {
            store: &store,
            links: args.links.as_deref(),
            container: args.container,
            compile: &in_process,
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

/// Compiles in a process of its own.
fn in_process(wasm: &[u8]) -> io::Result<Vec<u8>> {
    // This very program, whatever was installed at its path meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .arg("compile")
        .env_clear()
        .current_dir(Path::new(OsStr::new("/")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let code = std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // One that ends early says so by its status.
                let _ = stdin.write_all(wasm);
            }
        });
        let mut code = Vec::new();
        match stdout {
            Some(stdout) => stdout.take(MAX_SIZE).read_to_end(&mut code).map(|_| code),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    });
    let status = child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!(
            "the compiler ended with {status}"
        )));
    }
    code
}

/// Compiles standard input to standard output.
pub(crate) fn compile() -> ExitCode {
    let run = || -> io::Result<()> {
        give_up_rights()?;
        let mut wasm = Vec::new();
        io::stdin().lock().take(MAX_SIZE).read_to_end(&mut wasm)?;
        let code = wws_server::compile(&wasm).map_err(io::Error::other)?;
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

/// While this is the process' only thread: those of the compiler inherit it.
fn give_up_rights() -> io::Result<()> {
    let bound = |resource, most: u64| {
        setrlimit(
            resource,
            Rlimit {
                current: Some(most),
                maximum: Some(most),
            },
        )
        .map_err(io::Error::from)
    };
    bound(Resource::As, MAX_MEMORY)?;
    bound(Resource::Cpu, MAX_TIME)?;
    bound(Resource::Core, 0)?;
    bound(Resource::Fsize, 0)?;
    let _ = setpriority_process(None, 5);
    rustix::thread::set_no_new_privs(true)?;
    if geteuid().is_root() {
        let (user, group) = (
            rustix::fs::Uid::from_raw(NOBODY),
            rustix::fs::Gid::from_raw(NOBODY),
        );
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    // Only now, that another user's process may not look into.
    bound(Resource::Nofile, 64)
}
