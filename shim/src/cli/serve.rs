//! `serve`: the life of a shim, from its socket to the end of its last container.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc::asynchronous::Server;
use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::args::Args;
use crate::cli::socket;
use crate::container::Shared;
use crate::containerd::events::{Destination, Events};
use crate::error::{Error, Result};
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::task::service::Service;

/// The program that a container of workers runs, in our own folder.
const SERVER: &str = "wws";

/// How long containerd may take to take the last events.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// What the answer to the last request needs to leave.
const LAST_WORD: Duration = Duration::from_millis(20);

/// How long after one another it is looked whether the first container will still come.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Signals that end a process unless it handles them, and that containerd's own shim takes no notice of.
const HARMLESS_SIGNALS: [i32; 8] = [
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Serves until containerd has no more use for this shim.
///
/// # Errors
/// The shim cannot start.
pub(crate) fn serve(args: &Args) -> Result<()> {
    log::open(Path::new("log"), args.debug);
    let listener = take_listener()?;
    // The bundle is containerd's to remove.
    let bundle = std::env::current_dir().unwrap_or_default();
    std::env::set_current_dir("/").map_err(|error| Error::io("change to /", error))?;
    spare_memory();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))
        .and_then(|runtime| runtime.block_on(run(args, listener, &bundle)));
    if let Err(error) = &result {
        log::error!("{error}");
    }
    result
}

async fn run(args: &Args, listener: UnixListener, bundle: &Path) -> Result<()> {
    let reaper = Reaper::start().map_err(|error| Error::io("watch child processes", error))?;
    let destination = Destination {
        ttrpc: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        address: args.address.clone(),
        publisher: args.publisher.clone(),
    };
    let events = Events::start(&args.namespace, destination, Arc::clone(&reaper));
    let own = std::env::current_exe().map_err(|error| Error::io("find this program", error))?;
    let service = Service::new(Arc::new(Shared {
        namespace: args.namespace.clone(),
        server: own.with_file_name(SERVER),
        reaper,
        events: Arc::clone(&events),
        debug: args.debug,
    }));
    let failed = |error: &dyn std::fmt::Display| Error::Other(format!("serve containerd: {error}"));
    let listener = Listener::try_from(listener).map_err(|error| failed(&error))?;
    let version_3 = create_task(Arc::new(service.clone()));
    // The same methods and messages under an older name.
    let version_2 = create_task(Arc::new(service.clone()))
        .into_iter()
        .map(|(name, methods)| (name.replace(".v3.", ".v2."), methods))
        .collect();
    report_on_request(service.clone())?;
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(version_3)
        .register_service(version_2);
    server.start().await.map_err(|error| failed(&error))?;
    if !args.link.is_empty() {
        // containerd itself does without.
        let linked = socket::link(Path::new(&args.link), Path::new(&args.socket));
        linked.unwrap_or_else(|error| log::warning!("{error}"));
    }
    tokio::select! {
        () = service.over() => {}
        () = abandoned(&service, bundle) => log::warning!("no container came: its folder is gone"),
    }
    if !args.socket.is_empty() {
        if !args.link.is_empty()
            && let Err(error) = socket::unlink(Path::new(&args.link), Path::new(&args.socket))
        {
            log::warning!("{error}");
        }
        // From now on others start shims of their own. containerd may have removed it.
        let _ = fs::remove_file(&args.socket);
    }
    events.flush(FLUSH_LIMIT).await;
    tokio::time::sleep(LAST_WORD).await;
    Ok(())
}

/// Has SIGUSR1 write the state of all containers to the log, as operators expect it of a shim, and lets no other signal that is
/// harmless to containerd's own shim end this one, and with it its containers. Handled rather than ignored: programs that we start
/// would ignore what we do.
fn report_on_request(service: Service) -> Result<()> {
    let handle = |signal| {
        let kind = SignalKind::from_raw(signal);
        unix::signal(kind).map_err(|error| Error::io(format_args!("handle signal {signal}"), error))
    };
    let mut requests = handle(libc::SIGUSR1)?;
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in HARMLESS_SIGNALS.into_iter().chain(real_time) {
        // It stays handled.
        drop(handle(signal)?);
    }
    tokio::spawn(async move {
        while requests.recv().await.is_some() {
            service.report();
        }
    });
    Ok(())
}

/// Waits until it is certain that no first container will come. containerd may fail between our `start` and the first call (a full
/// disk), and then removes the bundle and forgets the shim.
async fn abandoned(service: &Service, bundle: &Path) {
    loop {
        tokio::time::sleep(FIRST_LOOK).await;
        if service.was_used() {
            return std::future::pending().await;
        }
        if !bundle.exists() {
            return;
        }
    }
}

/// The socket that `start` passed as standard input, which becomes `/dev/null`.
fn take_listener() -> Result<UnixListener> {
    let failed = |error: std::io::Error| Error::io("take over the socket", error);
    let stdin = std::io::stdin();
    let listener: OwnedFd = stdin.as_fd().try_clone_to_owned().map_err(failed)?;
    let null = fs::File::open("/dev/null").map_err(failed)?;
    // SAFETY: standard input is nobody's but this function's, and stays open.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// One heap for all threads, whose free end goes back to the system early.
fn spare_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers of the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_TOP_PAD, 16 * 1024);
    }
}
