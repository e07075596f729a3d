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

/// Writes to the log of one call.
#[derive(Clone)]
pub(super) struct LogStream(Arc<Mutex<GuestLog>>);

impl LogStream {
    pub(super) fn new(log: GuestLog) -> Self {
        Self(Arc::new(Mutex::new(log)))
    }

    fn print(&self, bytes: &[u8]) {
        self.lock().write(bytes);
    }

    /// Writes a message with a level.
    pub(super) fn write_message(&self, level: tracing::Level, context: &str, text: &str) {
        self.lock().write_message(level, context, text);
    }

    fn lock(&self) -> MutexGuard<'_, GuestLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(MAX_WRITE)];
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Collects what a program prints, which is charged as it grows.
#[derive(Clone)]
pub(crate) struct PrintStream(Arc<Mutex<PrintedBytes>>);

struct PrintedBytes {
    bytes: Vec<u8>,
    charge: Charge,
    /// Most bytes.
    limit: usize,
}

impl PrintStream {
    pub(super) fn new(limit: usize, charge: Charge) -> Self {
        Self(Arc::new(Mutex::new(PrintedBytes {
            bytes: Vec::new(),
            charge,
            limit,
        })))
    }

    /// Takes what was printed, and the charge for it.
    pub(crate) fn take(&self) -> (Vec<u8>, Charge) {
        let mut printed = self.lock();
        (mem::take(&mut printed.bytes), printed.charge.take())
    }

    fn print(&self, more: &[u8]) -> Result<(), Stop> {
        let mut printed = self.lock();
        let PrintedBytes {
            bytes,
            charge,
            limit,
        } = &mut *printed;
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

    fn lock(&self) -> MutexGuard<'_, PrintedBytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for PrintStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for PrintStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for PrintStream {
    async fn ready(&mut self) {}
}

impl OutputStream for PrintStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // Stops the guest: a response of which a part is missing is none.
        self.print(&bytes)
            .map_err(|stop| StreamError::Trap(wasmtime::Error::new(stop)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl AsyncWrite for PrintStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(MAX_WRITE)];
        Poll::Ready(match self.print(bytes) {
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
