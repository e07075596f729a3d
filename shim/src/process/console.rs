//! Terminals: the OCI runtime sends the master of a new terminal to a socket of the shim, which
//! copies between it and the client's FIFOs. A client that stops reading stops the copying; nothing
//! is dropped and nothing else waits.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::error::{Error, PathContext, Result};
use crate::stdio::sink::OutputSink;

/// The most that is copied at once, in bytes.
const CHUNK: usize = 4096;

/// How long to wait for the OCI runtime's message once the runtime has succeeded: it is sent
/// before.
const RECEIVE_LIMIT: Duration = Duration::from_secs(5);

/// A socket that receives one terminal.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    /// Where the socket is.
    pub(crate) path: PathBuf,
}

impl Socket {
    /// Creates a socket in `directory`, whose path must be short.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("wws-pty-{}-{number}", std::process::id()));
        std::fs::create_dir_all(directory).with_path("create", directory)?;
        // Left behind by a shim that had the same PID.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_path("listen at", &path)?;
        Ok(Self { listener, path })
    }

    /// Receives the terminal that the OCI runtime sent.
    ///
    /// # Errors
    /// No terminal came.
    pub(crate) async fn receive(&self) -> Result<OwnedFd> {
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            stream
                .async_io(tokio::io::Interest::READABLE, || receive(&stream))
                .await
        };
        tokio::time::timeout(RECEIVE_LIMIT, receive)
            .await
            .map_err(|_| Error::unknown("the OCI runtime sent no terminal"))?
            .map_err(|error| Error::io("receive the terminal", error))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn receive(stream: impl AsFd) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // The message itself is the terminal's name.
    let mut name = [0; CHUNK];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    files
        .flatten()
        .next()
        .ok_or_else(|| std::io::Error::other("a message without a descriptor"))
}

/// The terminal of a process.
#[derive(Debug)]
pub(crate) struct Console {
    master: Arc<AsyncFd<OwnedFd>>,
    output: Option<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
}

impl Console {
    /// Starts copying.
    ///
    /// # Errors
    /// The input is missing, or the descriptor is not a terminal.
    pub(crate) fn start(
        master: OwnedFd,
        stdin: Option<OwnedFd>,
        mut sink: OutputSink,
    ) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("set up the terminal", error);
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| failed(error.into()))?;
        // SAFETY: `register` requires a descriptor that stays open and the same while it is
        // registered: the `AsyncFd` owns it.
        let master = unsafe { AsyncFd::register(master) };
        let master = Arc::new(master.map_err(|error| failed(error.into()))?);
        let mut input = None;
        if let Some(read) = stdin {
            let mut fifo = pipe::Receiver::from_owned_fd(read).map_err(failed)?;
            let master = Arc::clone(&master);
            input = Some(tokio::spawn(async move {
                let mut buffer = vec![0; CHUNK];
                while let Ok(count @ 1..) = fifo.read(&mut buffer).await {
                    if write_all(&master, &buffer[..count]).await.is_err() {
                        break;
                    }
                }
            }));
        }
        let reader = Arc::clone(&master);
        let output = tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            // The end is an error here: the last process has closed its side.
            while let Ok(count @ 1..) = read(&reader, &mut buffer).await {
                sink.write_all(&buffer[..count]).await;
            }
        });
        Ok(Self {
            master,
            output: Some(output),
            input,
        })
    }

    /// Changes the size, in characters.
    ///
    /// # Errors
    /// The terminal is closed.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<()> {
        let size = rustix::termios::Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(self.master.get_ref(), size)
            .map_err(|error| Error::io("resize the terminal", error))
    }

    /// Waits until all output is copied, but no longer than `limit`, as its reader may have
    /// stopped.
    pub(crate) async fn finish(mut self, limit: Duration) {
        if let Some(output) = self.output.take() {
            let abort = output.abort_handle();
            if tokio::time::timeout(limit, output).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        for copying in [&self.output, &self.input].into_iter().flatten() {
            copying.abort();
        }
    }
}

async fn read(master: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        let mut ready = master.readable().await?;
        let result = ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?));
        match result {
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_not_ready) => {}
        }
    }
}

async fn write_all(master: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = master.writable().await?;
        if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
            bytes = &bytes[written?..];
        }
    }
    Ok(())
}
