//! A client's socket: it records in the connection's [`Activity`] what passes through it and
//! charges long heads to the memory account.

use std::{
    ffi::c_int,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rustix::ioctl::{Getter, ioctl};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use wws_engine::{Account, Charge};

use crate::connection::activity::Activity;
use crate::connection::frames::{Frames, PREFACE};
use crate::connection::framing::Framing;

/// The most that is read at once, in bytes. hyper's first buffer is one byte larger and grows when
/// a read fills it; hyper would keep the larger buffer as long as the connection lives.
const READ: u64 = (8 << 10) - 1;

/// The most that is read at once within a long body, in bytes: what it costs to pass a piece on
/// hardly depends on its size. hyper's buffer grows to one byte more.
const LONG_READ: u64 = (64 << 10) - 1;

/// Bytes at the end of a body that are read in short pieces: hyper halves its buffer after two of
/// them, down to its first size.
const LONG_END: u64 = 8 * READ;

/// What long reads take, in bytes: hyper's buffer, a piece that waits, and one that is in use.
const LONG_READ_COST: u64 = 3 * (LONG_READ + 1);

/// A head of up to this many bytes fits into the memory that is set aside for a connection.
const SHORT_HEAD: usize = 8 << 10;

pub(crate) struct Socket {
    stream: TcpStream,
    protocol: Protocol,
    activity: Arc<Activity>,
    /// The account that long heads are charged to.
    heads: Account,
    /// The charge for this connection's heads: hyper keeps the buffer of a long head.
    charge: Option<Charge>,
    /// The charge for long reads, until the end of the body.
    long_reads: Option<Charge>,
}

/// What the client speaks.
enum Protocol {
    /// All that the client has sent so far is the beginning of HTTP/2's preface: so many bytes.
    Unknown {
        preface: usize,
    },
    Http1(Framing),
    Http2 {
        frames: Frames,
        /// What was read before the protocol was known.
        read: Bytes,
    },
    /// Not HTTP any more.
    Other,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>, heads: Account) -> Self {
        Self {
            stream,
            protocol: Protocol::Unknown { preface: 0 },
            activity,
            heads,
            charge: None,
            long_reads: None,
        }
    }

    /// What follows is not HTTP.
    pub(crate) fn leave_http(&mut self) {
        self.protocol = Protocol::Other;
        self.activity.reading.set_head(false, None);
        self.charge = None;
        self.long_reads = None;
    }

    /// Whether there is memory for more of a head.
    fn has_room(&mut self) -> bool {
        let Protocol::Http1(framing) = &self.protocol else {
            return true;
        };
        let head = framing.head_len();
        if head < SHORT_HEAD {
            return true;
        }
        // hyper doubles its buffer when less than a read is free, and has both while it copies.
        let buffer = (head + SHORT_HEAD).next_power_of_two() as u64;
        let charge = self.charge.get_or_insert_with(|| self.heads.nothing());
        charge.grow_to(buffer + buffer / 2)
    }

    /// The most that is read now.
    fn read_size(&mut self) -> u64 {
        let Protocol::Http1(framing) = &self.protocol else {
            return READ;
        };
        let left = framing.body_left();
        if left <= LONG_READ + LONG_END || self.heads.is_short() {
            return READ;
        }
        if self.long_reads.is_none() {
            self.long_reads = self.heads.charge(LONG_READ_COST);
        }
        match self.long_reads {
            Some(_) => LONG_READ,
            None => READ,
        }
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

    pub(crate) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
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

impl Drop for Socket {
    fn drop(&mut self) {
        // To a client of HTTP/1.0, a response without a length is complete when its connection
        // ends, unless that is a reset.
        if self.activity.sending.is_until_close() {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Socket {
    /// Reads at most `most` bytes. Returns how many came.
    fn read_some(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let mut limited = (&mut self.stream).take(most);
        ready!(Pin::new(&mut limited).poll_read(context, buffer))?;
        Poll::Ready(Ok(buffer.filled().len() - before))
    }

    /// Reads the first bytes of the connection, which tell the protocol. What is the beginning of
    /// HTTP/2's preface is kept back.
    fn read_first(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        mut preface: usize,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let room = buffer.remaining().saturating_sub(preface).max(1) as u64;
            let came = ready!(self.read_some(context, buffer, READ.min(room)))?;
            let arrived = &buffer.filled()[before..];
            let missing = &PREFACE[preface..];
            let compared = came.min(missing.len());
            if came == 0 || arrived[..compared] != missing[..compared] {
                let mut framing = Framing::new();
                if preface > 0 {
                    let arrived = arrived.to_vec();
                    buffer.set_filled(before);
                    buffer.put_slice(&PREFACE[..preface]);
                    buffer.put_slice(&arrived);
                }
                framing.feed(&buffer.filled()[before..]);
                let reading = &self.activity.reading;
                reading.set_head(framing.in_head(), framing.conflict());
                self.protocol = Protocol::Http1(framing);
                return Poll::Ready(Ok(()));
            }
            preface += compared;
            if preface == PREFACE.len() {
                let read = [PREFACE, &arrived[compared..]].concat();
                buffer.set_filled(before);
                self.protocol = Protocol::Http2 {
                    frames: Frames::new(),
                    read: read.into(),
                };
                // The driver goes on with HTTP/2.
                self.activity.reading.set_http2();
                return Poll::Pending;
            }
            buffer.set_filled(before);
            self.protocol = Protocol::Unknown { preface };
        }
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
        if let Protocol::Unknown { preface } = self.protocol {
            return self.read_first(context, buffer, preface);
        }
        let before = buffer.filled().len();
        match &mut self.protocol {
            Protocol::Http2 { read, .. } if !read.is_empty() => {
                buffer.put_slice(&read.split_to(read.len().min(buffer.remaining())));
            }
            _ => {
                let most = self.read_size();
                ready!(self.read_some(context, buffer, most))?;
            }
        }
        let Self {
            protocol,
            activity,
            long_reads,
            ..
        } = &mut *self;
        let arrived = &buffer.filled()[before..];
        activity.received(arrived.len());
        match protocol {
            Protocol::Unknown { .. } | Protocol::Other => {}
            Protocol::Http1(framing) => {
                framing.feed(arrived);
                if framing.body_left() == 0 {
                    *long_reads = None;
                }
                activity
                    .reading
                    .set_head(framing.in_head(), framing.conflict());
            }
            Protocol::Http2 { frames, .. } => {
                frames.feed(arrived);
                let (control, body) = frames.take_counts();
                activity.reading.received_frames(control, body);
                activity.reading.set_head(frames.in_head(), None);
            }
        }
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
