//! Bodies of responses: bytes, or a file that is read as it is sent.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use crate::activity::Busy;

/// A file is read in parts of this size, in bytes.
const PART: usize = 128 << 10;

/// A response's body.
#[derive(Default)]
pub(crate) struct Body {
    kind: Kind,
    /// Dropped with the body: then the request has been answered.
    busy: Option<Busy>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Bytes(Bytes),
    File(Stream),
}

/// A part of a file, being read.
struct Stream {
    file: Arc<File>,
    at: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Body {
    /// `length` bytes of the file from `at` on.
    pub(crate) fn file(file: File, at: u64, length: u64) -> Self {
        let kind = match length {
            0 => Kind::Empty,
            _ => Kind::File(Stream {
                file: Arc::new(file),
                at,
                left: length,
                reading: None,
            }),
        };
        Self { kind, busy: None }
    }

    /// Keeps the request busy until the body is dropped.
    pub(crate) fn until_sent(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::Empty => 0,
            Kind::Bytes(bytes) => bytes.len() as u64,
            Kind::File(stream) => stream.left,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let kind = if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Bytes(bytes)
        };
        Self { kind, busy: None }
    }
}

/// Reads up to `length` bytes; fewer mean that the file has become shorter.
pub(crate) fn read_at(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}

impl Stream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let reading = self.reading.get_or_insert_with(|| {
            let (file, at) = (self.file.clone(), self.at);
            let length = usize::try_from(self.left).unwrap_or(PART).min(PART);
            tokio::task::spawn_blocking(move || read_at(&file, at, length))
        });
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let bytes = read.map_err(io::Error::other)??;
        self.at += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Ok(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::File(stream) => {
                let result = ready!(stream.poll(context));
                if stream.left == 0 || result.is_err() {
                    self.kind = Kind::Empty;
                }
                Poll::Ready(Some(result.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size())
    }
}
