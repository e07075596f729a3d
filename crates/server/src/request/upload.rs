//! Request bodies: collected within bounds for the size, the time and the memory of all bodies.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use wws_engine::{Account, BodyError, Charge};

use crate::connection::incoming::IncomingBody;

/// A body of up to this many bytes that arrives in one piece is in the connection's own buffer.
const IN_BUFFER: usize = 8 << 10;

/// The minimum size of the buffer for a body that arrives in several pieces, in bytes.
const MIN_BUFFER: u64 = 64 << 10;

/// The factor by which the buffer of a body of known length grows: to hold memory, a client has to
/// send this part of it.
const GROWTH: u64 = 8;

/// Divisor: at most this part of the memory is for bodies, unless one body of the maximum size
/// needs more.
const MEMORY_PART: u64 = 4;

/// How often the progress of a body is checked within its time while memory is short.
const PROGRESS_CHECKS: u32 = 6;

/// Why a body was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadError {
    TooLarge,
    TooSlow,
    /// No memory is left for bodies.
    NoMemory,
    /// The client went away or sent an invalid body.
    Broken,
}

impl From<&BodyError> for UploadError {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::TooLarge(_) => Self::TooLarge,
            BodyError::TooSlow => Self::TooSlow,
            _ => Self::Broken,
        }
    }
}

/// Collects request bodies.
pub(crate) struct Uploads {
    max: u64,
    time: Duration,
    /// How long a body waits for memory.
    wait: Duration,
    memory: Account,
}

impl Uploads {
    /// Collects bodies of up to `max` bytes that arrive within `time`. They are charged to
    /// `memory`; a single body of the maximum size always fits.
    pub(crate) fn new(max: u64, memory: &Account, time: Duration, wait: Duration) -> Self {
        // There are two buffers while one grows.
        let one = max.saturating_mul(2).saturating_add(MIN_BUFFER);
        Self {
            max,
            time,
            wait,
            memory: memory.part((memory.total() / MEMORY_PART).max(one)),
        }
    }

    /// Reads a body. Its memory stays charged until the last clone of the bytes is dropped.
    pub(crate) async fn read(&self, body: IncomingBody) -> Result<Bytes, UploadError> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        // Rejected early: a client that sent `Expect` need not send the body.
        if body.size_hint().lower() > self.max {
            return Err(UploadError::TooLarge);
        }
        match tokio::time::timeout(self.time, Box::pin(self.collect(body))).await {
            Ok(bytes) => bytes,
            Err(_) => Err(UploadError::TooSlow),
        }
    }

    async fn collect<B>(&self, mut body: B) -> Result<Bytes, UploadError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let known = body.size_hint().exact();
        let Some(first) = next(&mut body).await? else {
            return Ok(Bytes::new());
        };
        let mut size = first.len() as u64;
        if size > self.max {
            return Err(UploadError::TooLarge);
        }
        // A body that arrives in one piece is not copied.
        if first.len() <= IN_BUFFER && body.is_end_stream() {
            return Ok(first);
        }
        let mut collected = PartialBody::new(self, known);
        let mut data = first;
        while let Some(next) = self.next_in_time(&mut body, &mut collected).await? {
            // Rejected at once: the client may wait for the response.
            size += next.len() as u64;
            if size > self.max {
                return Err(UploadError::TooLarge);
            }
            collected.add(&data).await?;
            data = next;
        }
        if data.len() <= IN_BUFFER && collected.bytes.is_empty() {
            return Ok(data);
        }
        collected.add(&data).await?;
        Ok(collected.finish())
    }

    /// The next piece. While memory is short, the bytes of the buffer have to arrive within the
    /// time, which is checked several times.
    async fn next_in_time<B>(
        &self,
        body: &mut B,
        collected: &mut PartialBody<'_>,
    ) -> Result<Option<Bytes>, UploadError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut next = pin!(next(body));
        loop {
            match tokio::time::timeout_at(collected.next_check, next.as_mut()).await {
                Ok(piece) => return piece,
                Err(_) => {
                    let needed = (collected.capacity() / u64::from(PROGRESS_CHECKS)).max(1);
                    let came = std::mem::take(&mut collected.since_check);
                    if self.memory.is_short() && came < needed {
                        return Err(UploadError::TooSlow);
                    }
                    collected.next_check =
                        tokio::time::Instant::now() + self.time / PROGRESS_CHECKS;
                }
            }
        }
    }

    /// Reserves memory for a body's buffer.
    async fn reserve(&self, bytes: u64) -> Result<Charge, UploadError> {
        if let Some(charge) = self.memory.charge(bytes) {
            return Ok(charge);
        }
        match tokio::time::timeout(self.wait, self.memory.reserve(bytes)).await {
            Ok(Some(charge)) => Ok(charge),
            Ok(None) | Err(_) => Err(UploadError::NoMemory),
        }
    }
}

/// The next piece of a body that is not empty.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, UploadError>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| UploadError::Broken)?.into_data() {
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            _ => {}
        }
    }
    Ok(None)
}

/// A body that is being collected.
struct PartialBody<'u> {
    uploads: &'u Uploads,
    /// The length of the whole body, if it is known.
    known: Option<u64>,
    bytes: Vec<u8>,
    /// Covers the capacity of `bytes`.
    charge: Option<Charge>,
    /// Bytes that arrived since the last check.
    since_check: u64,
    /// The time of the next check.
    next_check: tokio::time::Instant,
}

impl<'u> PartialBody<'u> {
    fn new(uploads: &'u Uploads, known: Option<u64>) -> Self {
        Self {
            uploads,
            known,
            bytes: Vec::new(),
            charge: None,
            since_check: 0,
            next_check: tokio::time::Instant::now() + uploads.time / PROGRESS_CHECKS,
        }
    }

    fn capacity(&self) -> u64 {
        self.bytes.capacity() as u64
    }

    async fn add(&mut self, data: &[u8]) -> Result<(), UploadError> {
        let size = (self.bytes.len() + data.len()) as u64;
        if size > self.capacity() {
            self.grow_to(size).await?;
        }
        self.since_check += data.len() as u64;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Makes room for at least `size` bytes. The memory is charged before it is allocated, for both
    /// buffers while one is copied to the other.
    async fn grow_to(&mut self, size: u64) -> Result<(), UploadError> {
        let capacity = match self.known {
            Some(known) => self.capacity().saturating_mul(GROWTH).min(known),
            None => (self.capacity() / 4 * 5).min(self.uploads.max),
        };
        let capacity = capacity
            .max(MIN_BUFFER.min(self.known.unwrap_or(MIN_BUFFER)))
            .max(size);
        let charge = self.uploads.reserve(capacity).await?;
        let capacity = usize::try_from(capacity).map_err(|_| UploadError::TooLarge)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(capacity)
            .map_err(|_| UploadError::NoMemory)?;
        bytes.extend_from_slice(&self.bytes);
        self.bytes = bytes;
        self.charge = Some(charge);
        Ok(())
    }

    fn finish(self) -> Bytes {
        let bytes = Bytes::from(self.bytes);
        match self.charge {
            Some(charge) => charge.hold(bytes),
            None => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    const MIB: u64 = 1 << 20;

    fn uploads(max: u64, memory: u64) -> Uploads {
        let second = Duration::from_secs(1);
        Uploads::new(max, &Account::new(memory), second, second / 20)
    }

    fn pieces(size: usize, count: usize) -> impl Body<Data = Bytes> + Unpin {
        let piece = Bytes::from(vec![7; size]);
        let pieces = stream::iter(vec![piece; count]);
        StreamBody::new(pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece))))
    }

    #[tokio::test]
    async fn charges_a_body_until_its_bytes_are_dropped() {
        let uploads = uploads(2 * MIB, 16 * MIB);
        let bytes = uploads.collect(pieces(8000, 100)).await.unwrap();
        assert_eq!(bytes.len(), 800_000);
        let held = uploads.memory.total() - uploads.memory.free();
        assert!(
            (800_000..1_050_000).contains(&held),
            "little more than the body: {held}"
        );
        let part = bytes.slice(..10);
        drop(bytes);
        assert!(uploads.memory.free() < uploads.memory.total());
        drop(part);
        assert_eq!(uploads.memory.free(), uploads.memory.total());
    }

    #[tokio::test]
    async fn has_room_for_one_body_of_the_maximum_size() {
        let uploads = uploads(10 * MIB, 24 * MIB);
        let body = Full::new(Bytes::from(vec![1; 10 << 20]));
        let bytes = uploads.collect(body).await.unwrap();
        let held = uploads.memory.total() - uploads.memory.free();
        assert_eq!((bytes.len() as u64, held), (10 * MIB, 10 * MIB));
        let another = uploads.collect(pieces(8000, 1000)).await;
        assert_eq!(another, Err(UploadError::NoMemory));
        drop(bytes);
        assert!(uploads.collect(pieces(8000, 1000)).await.is_ok());
    }

    #[tokio::test]
    async fn rejects_a_body_beyond_the_limit_and_frees_its_memory() {
        let uploads = uploads(MIB, 16 * MIB);
        let result = uploads.collect(pieces(8000, 1000)).await;
        assert_eq!(result, Err(UploadError::TooLarge));
        assert_eq!(uploads.memory.free(), uploads.memory.total());
    }

    #[tokio::test]
    async fn rejects_slow_bodies_while_memory_is_short() {
        let uploads = uploads(10 * MIB, 16 * MIB);
        let slow = |uploads: Uploads| async move {
            let start = std::time::Instant::now();
            let piece = Bytes::from(vec![7; 9000]);
            let pieces = stream::iter([Ok::<_, Infallible>(Frame::data(piece))]);
            let body = StreamBody::new(Box::pin(pieces.chain(stream::pending())));
            let read = tokio::time::timeout(Duration::from_millis(600), uploads.collect(body));
            (read.await.ok(), start.elapsed())
        };
        let all = uploads.memory.charge(uploads.memory.free() - MIB).unwrap();
        let (read, took) = slow(Uploads {
            memory: uploads.memory.clone(),
            ..uploads
        })
        .await;
        assert_eq!(read, Some(Err(UploadError::TooSlow)), "{took:?}");
        drop(all);
        let memory = Account::new(16 * MIB);
        let second = Duration::from_secs(1);
        let (read, _) = slow(Uploads::new(10 * MIB, &memory, second, second)).await;
        assert_eq!(read, None, "it has its time");
    }
}
