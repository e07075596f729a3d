//! `serve`: runs the shim until containerd does not need it any more.

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
use crate::container::ShimContext;
use crate::containerd::events::{EventDestination, EventQueue};
use crate::error::{Error, Result};
use crate::server::ServerProgram;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::task::service::Service;
use crate::trace::Tracer;

/// The variable with the address of containerd's ttrpc socket.
pub(super) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// How long containerd may take to accept the last events.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// How long the collector may take to accept the last spans. Nobody waits for the shim meanwhile.
const TRACES_LIMIT: Duration = Duration::from_secs(2);

/// How long the response to the last request takes to be sent.
const RESPONSE_PAUSE: Duration = Duration::from_millis(20);

/// How often to check whether the first container will still come.
const ABANDONED_INTERVAL: Duration = Duration::from_secs(5);

/// Signals that kill a process without a handler, and that containerd's own shim ignores.
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

/// Serves until containerd does not need this shim any more.
///
/// # Errors
/// The shim cannot start.
pub(crate) fn serve(args: &Args) -> Result<()> {
    log::open(Path::new("log"), args.level);
    let listener = take_listener()?;
    // The shim must not hold the bundle, which containerd removes.
    let bundle = std::env::current_dir().unwrap_or_default();
    std::env::set_current_dir("/").map_err(|error| Error::io("change to /", error))?;
    limit_heap();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))
        .and_then(|runtime| runtime.block_on(run(args, listener, &bundle)));
    if let Err(error) = &result {
        log::error!("{error:#}");
    }
    result
}

async fn run(args: &Args, listener: UnixListener, bundle: &Path) -> Result<()> {
    let reaper = Reaper::start().map_err(|error| Error::io("watch child processes", error))?;
    let destination = EventDestination {
        ttrpc: std::env::var(TTRPC_ADDRESS).unwrap_or_default(),
        address: args.address.clone(),
        publisher: args.publisher.clone(),
    };
    let events = EventQueue::start(&args.namespace, destination, Arc::clone(&reaper));
    let tracer = Tracer::from_env();
    let service = Service::new(Arc::new(ShimContext {
        namespace: args.namespace.clone(),
        server: Arc::new(ServerProgram::of_this_shim()?),
        reaper,
        events: Arc::clone(&events),
        tracer: tracer.clone(),
        debug: args.level == log::Level::Debug,
        sockets: socket::directory(Path::new(&args.socket)).to_owned(),
    }));
    let listener = Listener::try_from(listener)
        .map_err(|error| Error::unknown("take over the socket").with_source(error))?;
    let version_3 = create_task(Arc::new(service.clone()));
    // The same methods and messages under an older name.
    let version_2 = create_task(Arc::new(service.clone()))
        .into_iter()
        .map(|(name, methods)| (name.replace(".v3.", ".v2."), methods))
        .collect();
    handle_signals(service.clone())?;
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(version_3)
        .register_service(version_2);
    server
        .start()
        .await
        .map_err(|error| Error::unknown("serve containerd").with_source(error))?;
    if !args.link.is_empty() {
        // Only containerd's tools need the link.
        let linked = socket::create_link(Path::new(&args.link), Path::new(&args.socket));
        linked.unwrap_or_else(|error| log::warning!("{error:#}"));
    }
    tokio::select! {
        () = service.wait_for_shutdown() => {}
        () = service.rest_after_starts() => {}
        () = wait_until_abandoned(&service, bundle) => {
            log::warning!("no container came: the bundle is removed");
        },
    }
    if !args.socket.is_empty() {
        if !args.link.is_empty()
            && let Err(error) = socket::remove_link(Path::new(&args.link), Path::new(&args.socket))
        {
            log::warning!("{error:#}");
        }
        // From now on, containers of this group start another shim. containerd may have removed
        // the socket.
        let _ = fs::remove_file(&args.socket);
    }
    tokio::join!(events.flush(FLUSH_LIMIT), tracer.flush(TRACES_LIMIT));
    tokio::time::sleep(RESPONSE_PAUSE).await;
    Ok(())
}

/// Handles SIGUSR1, which logs the state of all containers, and the signals that must not kill the
/// shim with its containers. They are handled rather than ignored, as programs inherit ignored
/// signals.
fn handle_signals(service: Service) -> Result<()> {
    let handle = |signal| {
        let kind = SignalKind::from_raw(signal);
        unix::signal(kind).map_err(|error| Error::io(format_args!("handle signal {signal}"), error))
    };
    let mut requests = handle(libc::SIGUSR1)?;
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in HARMLESS_SIGNALS.into_iter().chain(real_time) {
        // The handler remains.
        drop(handle(signal)?);
    }
    tokio::spawn(async move {
        while requests.recv().await.is_some() {
            service.report();
        }
    });
    Ok(())
}

/// Waits until no first container can come any more: containerd may fail between `start` and the
/// first call (on a full disk), and then removes the bundle and forgets the shim.
async fn wait_until_abandoned(service: &Service, bundle: &Path) {
    loop {
        tokio::time::sleep(ABANDONED_INTERVAL).await;
        if service.was_used() {
            return std::future::pending().await;
        }
        if !bundle.exists() {
            return;
        }
    }
}

/// Takes the socket that `start` passed as standard input, and replaces standard input by
/// `/dev/null`.
fn take_listener() -> Result<UnixListener> {
    let failed = |error: std::io::Error| Error::io("take over the socket", error);
    let stdin = std::io::stdin();
    let listener: OwnedFd = stdin.as_fd().try_clone_to_owned().map_err(failed)?;
    let null = fs::File::open("/dev/null").map_err(failed)?;
    // SAFETY: `dup2` closes what was open as standard input. Nothing else uses it: `listener` is a
    // duplicate, and no other thread runs yet.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Limits the heap: one for all threads, whose free end is returned to the OS early.
fn limit_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` requires that no other thread allocates meanwhile: there is no other thread
    // yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_TOP_PAD, 16 * 1024);
    }
}
