//! Standard output and error of components: lines of the log, or the response of a program.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::error::Stop;
use crate::host::log::GuestLog;
use crate::memory::account::Charge;

/// Bytes that a guest may write at once.
const MAX_WRITE: usize = 64 << 10;

/// Takes what a guest prints.
pub(crate) trait Print: Send + 'static {
    /// Takes more bytes, or stops the guest.
    fn print(&mut self, bytes: &[u8]) -> Result<(), Stop>;
}

/// A standard stream to which a guest prints. All its clones are one stream.
pub(crate) struct Printer<P>(Arc<Mutex<P>>);

impl<P> Clone for Printer<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> Printer<P> {
    fn of(printed: P) -> Self {
        Self(Arc::new(Mutex::new(printed)))
    }

    fn lock(&self) -> MutexGuard<'_, P> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to the log of one call.
pub(super) type LogStream = Printer<GuestLog>;

impl LogStream {
    pub(super) fn new(log: GuestLog) -> Self {
        Self::of(log)
    }

    /// Replaces the log by that of the next call.
    pub(super) fn replace(&self, log: GuestLog) {
        *self.lock() = log;
    }

    /// Writes a message with a level.
    pub(super) fn write_message(&self, level: tracing::Level, context: &str, text: &str) {
        self.lock().write_message(level, context, text);
    }
}

impl Print for GuestLog {
    fn print(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.write(bytes);
        Ok(())
    }
}

/// Collects what a program prints, which is charged as it grows.
pub(crate) type PrintStream = Printer<PrintedBytes>;

/// What a program has printed.
pub(crate) struct PrintedBytes {
    bytes: Vec<u8>,
    charge: Charge,
    /// Most bytes.
    limit: usize,
}

impl PrintStream {
    pub(super) fn new(limit: usize, charge: Charge) -> Self {
        Self::of(PrintedBytes {
            bytes: Vec::new(),
            charge,
            limit,
        })
    }

    /// Takes what was printed, and the charge for it.
    pub(crate) fn take(&self) -> (Vec<u8>, Charge) {
        let mut printed = self.lock();
        (mem::take(&mut printed.bytes), printed.charge.take())
    }
}

impl Print for PrintedBytes {
    fn print(&mut self, more: &[u8]) -> Result<(), Stop> {
        let Self {
            bytes,
            charge,
            limit,
        } = self;
        let len = bytes.len() + more.len();
        if len > *limit {
            return Err(Stop::Output);
        }
        if len > bytes.capacity() {
            let capacity = len.max(2 * bytes.capacity()).min(*limit);
            // The old bytes are there until they were copied.
            if !charge.grow_to((capacity + bytes.capacity()) as u64) {
                return Err(Stop::Memory);
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(more);
        Ok(())
    }
}

impl<P> IsTerminal for Printer<P> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<P: Print> StdoutStream for Printer<P> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl<P: Print> Pollable for Printer<P> {
    async fn ready(&mut self) {}
}

impl<P: Print> OutputStream for Printer<P> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // Stops the guest: a response of which a part is missing is none.
        self.lock()
            .print(&bytes)
            .map_err(|stop| StreamError::Trap(wasmtime::Error::new(stop)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl<P: Print> AsyncWrite for Printer<P> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(MAX_WRITE)];
        Poll::Ready(match self.lock().print(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(stop) => Err(io::Error::other(stop)),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
