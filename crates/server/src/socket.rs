//! A client's socket that tells the connection's [`Activity`] what passes through it, and has long heads charged.

use std::{
    ffi::c_int,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::ioctl::{Getter, ioctl};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use wws_engine::{Account, Charge};

use crate::{activity::Activity, framing::Framing};

/// The most that is read at once, in bytes: hyper's first buffer is one byte larger, and grows when a read fills it. It would
/// keep the larger one as long as the connection lives.
const READ: u64 = (8 << 10) - 1;

/// A head of this size needs no more than the connection's own memory, in bytes.
const SHORT_HEAD: usize = 8 << 10;

pub(crate) struct Socket {
    stream: TcpStream,
    framing: Framing,
    activity: Arc<Activity>,
    /// What long heads are charged to.
    heads: Account,
    /// Of this connection's heads. hyper keeps the buffer of a long one.
    charge: Option<Charge>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>, heads: Account) -> Self {
        Self {
            stream,
            framing: Framing::new(),
            activity,
            heads,
            charge: None,
        }
    }

    /// Whether there is memory for more of a head.
    fn has_room(&mut self) -> bool {
        let head = self.framing.head_len();
        if head < SHORT_HEAD {
            return true;
        }
        // hyper doubles its buffer when less than a read is free, and has both while it copies.
        let buffer = (head + SHORT_HEAD).next_power_of_two() as u64;
        let charge = self.charge.get_or_insert_with(|| self.heads.nothing());
        charge.grow_to(buffer + buffer / 2)
    }

    /// Bytes that were written and not taken by the client.
    fn waiting(&self) -> u64 {
        // SAFETY: the number is TIOCOUTQ (SIOCOUTQ), which writes an int.
        let waiting = unsafe {
            let getter = Getter::<0x5411, c_int>::new();
            ioctl(&self.stream, getter)
        };
        waiting
            .ok()
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0)
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.activity.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.write_stalled(self.waiting()),
        }
        result
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_room() {
            // The connection's driver ends it.
            self.activity.refuse();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let mut limited = (&mut self.stream).take(READ);
        ready!(Pin::new(&mut limited).poll_read(context, buffer))?;
        let Self {
            framing, activity, ..
        } = &mut *self;
        let came = &buffer.filled()[before..];
        framing.feed(came);
        activity.read(came.len());
        activity.set_head(framing.in_head(), framing.conflict());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
