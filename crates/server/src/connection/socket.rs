//! A client's socket: it records in the connection's [`Activity`] what passes through it and
//! charges long heads to the memory account.

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

use crate::connection::activity::Activity;
use crate::connection::framing::Framing;

/// The most that is read at once, in bytes. hyper's first buffer is one byte larger and grows when
/// a read fills it; hyper would keep the larger buffer as long as the connection lives.
const READ: u64 = (8 << 10) - 1;

/// A head of up to this many bytes fits into the memory that is set aside for a connection.
const SHORT_HEAD: usize = 8 << 10;

pub(crate) struct Socket {
    stream: TcpStream,
    framing: Framing,
    activity: Arc<Activity>,
    /// The account that long heads are charged to.
    heads: Account,
    /// The charge for this connection's heads: hyper keeps the buffer of a long head.
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

    /// Bytes that were written and that the client has not taken.
    fn unsent(&self) -> u64 {
        // SAFETY: 0x5411 is TIOCOUTQ (SIOCOUTQ), which writes one int, and `Getter` has room for
        // it.
        let unsent = unsafe {
            let getter = Getter::<0x5411, c_int>::new();
            ioctl(&self.stream, getter)
        };
        unsent
            .ok()
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0)
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn record_write(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.activity.sending.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.sending.stall(self.unsent()),
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
            // The driver closes the connection.
            self.activity.reading.refuse();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let mut limited = (&mut self.stream).take(READ);
        ready!(Pin::new(&mut limited).poll_read(context, buffer))?;
        let Self {
            framing, activity, ..
        } = &mut *self;
        let arrived = &buffer.filled()[before..];
        framing.feed(arrived);
        activity.received(arrived.len());
        activity
            .reading
            .set_head(framing.in_head(), framing.conflict());
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
        self.record_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.record_write(result)
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
