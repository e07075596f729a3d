//! A stream of HTTP/2 that carries the bytes of a WebSocket (RFC 8441).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::activity::Activity;

/// The longest piece that is sent at once, in bytes.
const PIECE: usize = 16 << 10;

/// Both directions of a stream.
pub(crate) struct Http2Socket {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// What has come and was not read.
    unread: Bytes,
    has_ended: bool,
    /// That of the stream.
    activity: Arc<Activity>,
    /// That of the connection.
    parent: Arc<Activity>,
}

impl Http2Socket {
    pub(crate) fn new(
        receive: RecvStream,
        send: SendStream<Bytes>,
        activity: Arc<Activity>,
        parent: Arc<Activity>,
    ) -> Self {
        Self {
            receive,
            send,
            unread: Bytes::new(),
            has_ended: false,
            activity,
            parent,
        }
    }
}

impl AsyncRead for Http2Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && !self.has_ended {
            match ready!(self.receive.poll_data(context)) {
                Some(Ok(piece)) => self.unread = piece,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => self.has_ended = true,
            }
        }
        let len = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..len]);
        self.unread.advance(len);
        // The client may send as much again.
        let _ = self.receive.flow_control().release_capacity(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gone = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        if self.send.poll_reset(context).is_ready() {
            return gone();
        }
        self.send.reserve_capacity(bytes.len().min(PIECE));
        while self.send.capacity() == 0 {
            match self.send.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None | Some(Err(_))) => return gone(),
                Poll::Pending => {
                    self.activity.sending.stall(0);
                    return Poll::Pending;
                }
            }
        }
        let len = self.send.capacity().min(bytes.len()).min(PIECE);
        let piece = Bytes::copy_from_slice(&bytes[..len]);
        if self.send.send_data(piece, false).is_err() {
            return gone();
        }
        self.activity.sending.wrote(len);
        self.parent.reading.sent_piece();
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.send.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}
