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
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::PollSemaphore;
use wws_engine::Account;

use crate::activity::Busy;

/// A file is read in parts of this size where there is memory for them, in bytes.
const PART: u64 = 128 << 10;

/// A part of at most this size is read at once: it is most likely in the system's cache, in bytes.
const AT_ONCE: u64 = 64 << 10;

/// Without memory a file is read in parts of this size, each when the one before it was sent, in bytes.
const SMALL_PART: u64 = 16 << 10;

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
    File(FileStream),
}

/// A part of a file that is being read.
struct FileStream {
    file: Arc<File>,
    at: u64,
    left: u64,
    /// What parts are charged to; `None` until the body is being sent.
    memory: Option<Account>,
    /// Has a permit when no small part is on its way.
    small: Option<PollSemaphore>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Body {
    /// `length` bytes of the file from `at` on.
    pub(crate) fn file(file: File, at: u64, length: u64) -> Self {
        let kind = match length {
            0 => Kind::Empty,
            _ => Kind::File(FileStream {
                file: Arc::new(file),
                at,
                left: length,
                memory: None,
                small: None,
                reading: None,
            }),
        };
        Self { kind, busy: None }
    }

    /// Keeps the request busy until the body is dropped. What is read of a file is charged to `memory`.
    pub(crate) fn until_sent(mut self, busy: Busy, memory: &Account) -> Self {
        self.busy = Some(busy);
        if let Kind::File(stream) = &mut self.kind {
            stream.memory = Some(memory.clone());
        }
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

    /// Bytes of it that are in memory.
    pub(crate) fn held(&self) -> u64 {
        match &self.kind {
            Kind::Bytes(bytes) => bytes.len() as u64,
            Kind::Empty | Kind::File(_) => 0,
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

/// A small part; the next one is read when this is dropped.
struct SmallPart(
    Bytes,
    #[allow(dead_code, reason = "dropped with the bytes")] OwnedSemaphorePermit,
);

impl AsRef<[u8]> for SmallPart {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FileStream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let bytes = match &mut self.reading {
            Some(reading) => {
                let read = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                read.map_err(io::Error::other)??
            }
            None => ready!(self.begin(context))?,
        };
        self.at += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Ok(bytes))
    }

    /// Reads the next part, or begins to.
    fn begin(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let at = self.at;
        let length = self.left.min(PART);
        let charge = self
            .memory
            .as_ref()
            .and_then(|memory| memory.charge(length));
        let Some(charge) = charge else {
            let small = self
                .small
                .get_or_insert_with(|| PollSemaphore::new(Arc::new(Semaphore::new(1))));
            let Some(permit) = ready!(small.poll_acquire(context)) else {
                return Poll::Ready(Err(io::Error::other("closed")));
            };
            let bytes = read_at(&self.file, at, self.left.min(SMALL_PART) as usize)?;
            return Poll::Ready(Ok(Bytes::from_owner(SmallPart(bytes, permit))));
        };
        if length <= AT_ONCE {
            let bytes = read_at(&self.file, at, length as usize)?;
            return Poll::Ready(Ok(charge.hold(bytes)));
        }
        let file = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let bytes = read_at(&file, at, length as usize)?;
            Ok(charge.hold(bytes))
        });
        let reading = self.reading.insert(reading);
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(read.map_err(io::Error::other)?)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt;

    fn body(size: usize, memory: &Account) -> (Body, Vec<u8>) {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let busy = crate::activity::Activity::new().request().0;
        let body = Body::file(file, 0, size as u64).until_sent(busy, memory);
        (body, content)
    }

    #[tokio::test]
    async fn parts_of_a_file_are_charged_until_they_are_sent() {
        let memory = Account::new(1 << 20);
        let (mut body, content) = body(300_000, &memory);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(memory.total() - memory.free(), PART);
        let mut read = first.to_vec();
        drop(first);
        assert_eq!(memory.free(), memory.total());
        read.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        assert_eq!(read, content);
    }

    #[tokio::test]
    async fn without_memory_a_file_has_one_small_part_on_its_way() {
        let memory = Account::new(1 << 20);
        let _all = memory.charge(1 << 20).unwrap();
        let (mut body, content) = body(100_000, &memory);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len() as u64, SMALL_PART);
        let second = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut body).poll_frame(context).is_pending())
        });
        assert!(second.await, "the first was not sent");
        let mut read = first.to_vec();
        drop(first);
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(read, content);
    }
}
