//! Bodies of requests: collected within bounds of size, time, and of the memory for all of them.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use wws_engine::{Account, Charge};

/// A body that came in one piece of at most this size is in the connection's own buffer, in bytes.
const IN_BUFFER: usize = 8 << 10;

/// The least that is set aside for a body that came in several pieces, in bytes.
const FIRST: u64 = 64 << 10;

/// A body whose length is known gets so many times the memory that it has filled: it has to send this part of what it holds.
const GROWTH: u64 = 8;

/// At most this part of the memory is for bodies, unless one of the largest size needs more.
const MEMORY_PART: u64 = 4;

/// While memory is short, what a client sends is looked at so often within the time that it has.
const LOOKS: u32 = 6;

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadUpload {
    TooLarge,
    TooSlow,
    /// All bodies together are too large.
    NoRoom,
    /// The client has gone, or sent nonsense.
    Broken,
}

/// Bounds of bodies.
pub(crate) struct Uploads {
    max: u64,
    time: Duration,
    /// For a body to wait for memory.
    wait: Duration,
    memory: Account,
}

impl Uploads {
    /// Bodies of at most `max` bytes each, which have `time` to arrive. They are charged to `memory`, of which one of the largest
    /// size always finds enough when it is alone.
    pub(crate) fn new(max: u64, memory: &Account, time: Duration, wait: Duration) -> Self {
        // While a buffer grows there are two of them.
        let one = max.saturating_mul(2).saturating_add(FIRST);
        Self {
            max,
            time,
            wait,
            memory: memory.part((memory.total() / MEMORY_PART).max(one)),
        }
    }

    /// Reads a body. Its memory stays charged until the last clone of the bytes is dropped.
    pub(crate) async fn read(&self, body: Incoming) -> Result<Bytes, BadUpload> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        // Said beforehand: the client that asks first (`expect`) need not send it.
        if body.size_hint().lower() > self.max {
            return Err(BadUpload::TooLarge);
        }
        match tokio::time::timeout(self.time, Box::pin(self.collect(body))).await {
            Ok(bytes) => bytes,
            Err(_) => Err(BadUpload::TooSlow),
        }
    }

    async fn collect<B>(&self, mut body: B) -> Result<Bytes, BadUpload>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let known = body.size_hint().exact();
        let Some(first) = next(&mut body).await? else {
            return Ok(Bytes::new());
        };
        let mut size = first.len() as u64;
        if size > self.max {
            return Err(BadUpload::TooLarge);
        }
        // A body that comes in one piece is not copied.
        if first.len() <= IN_BUFFER && body.is_end_stream() {
            return Ok(first);
        }
        let mut collected = Collected::new(self, known);
        let mut data = first;
        while let Some(next) = self.next_in_time(&mut body, &mut collected).await? {
            // Said at once: the client may wait for the answer.
            size += next.len() as u64;
            if size > self.max {
                return Err(BadUpload::TooLarge);
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

    /// The next piece. While memory is short, what a body holds has to arrive within its time, and is looked at several times.
    async fn next_in_time<B>(
        &self,
        body: &mut B,
        collected: &mut Collected<'_>,
    ) -> Result<Option<Bytes>, BadUpload>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut next = pin!(next(body));
        loop {
            match tokio::time::timeout_at(collected.look, next.as_mut()).await {
                Ok(piece) => return piece,
                Err(_) => {
                    let needed = (collected.capacity() / u64::from(LOOKS)).max(1);
                    let came = std::mem::take(&mut collected.since_look);
                    if self.memory.is_short() && came < needed {
                        return Err(BadUpload::TooSlow);
                    }
                    collected.look = tokio::time::Instant::now() + self.time / LOOKS;
                }
            }
        }
    }

    /// Memory for a body's buffer.
    async fn reserve(&self, bytes: u64) -> Result<Charge, BadUpload> {
        if let Some(charge) = self.memory.charge(bytes) {
            return Ok(charge);
        }
        match tokio::time::timeout(self.wait, self.memory.reserve(bytes)).await {
            Ok(Some(charge)) => Ok(charge),
            Ok(None) | Err(_) => Err(BadUpload::NoRoom),
        }
    }
}

/// The next piece of a body that has bytes.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, BadUpload>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| BadUpload::Broken)?.into_data() {
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            _ => {}
        }
    }
    Ok(None)
}

/// A body that is being collected.
struct Collected<'u> {
    uploads: &'u Uploads,
    /// Length of the whole body, if that was said.
    known: Option<u64>,
    bytes: Vec<u8>,
    /// Of the capacity of `bytes`.
    charge: Option<Charge>,
    /// Bytes that came since the last look.
    since_look: u64,
    /// When it is looked at next.
    look: tokio::time::Instant,
}

impl<'u> Collected<'u> {
    fn new(uploads: &'u Uploads, known: Option<u64>) -> Self {
        Self {
            uploads,
            known,
            bytes: Vec::new(),
            charge: None,
            since_look: 0,
            look: tokio::time::Instant::now() + uploads.time / LOOKS,
        }
    }

    fn capacity(&self) -> u64 {
        self.bytes.capacity() as u64
    }

    async fn add(&mut self, data: &[u8]) -> Result<(), BadUpload> {
        let size = (self.bytes.len() + data.len()) as u64;
        if size > self.capacity() {
            self.grow_to(size).await?;
        }
        self.since_look += data.len() as u64;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Makes room for `size` bytes and some more. The memory is charged before it is allocated, and both buffers while one is
    /// copied to the other.
    async fn grow_to(&mut self, size: u64) -> Result<(), BadUpload> {
        let capacity = match self.known {
            Some(known) => self.capacity().saturating_mul(GROWTH).min(known),
            None => (self.capacity() / 4 * 5).min(self.uploads.max),
        };
        let capacity = capacity
            .max(FIRST.min(self.known.unwrap_or(FIRST)))
            .max(size);
        let charge = self.uploads.reserve(capacity).await?;
        let capacity = usize::try_from(capacity).map_err(|_| BadUpload::TooLarge)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(capacity)
            .map_err(|_| BadUpload::NoRoom)?;
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
    async fn a_body_is_charged_until_its_bytes_are_dropped() {
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
    async fn one_of_the_largest_size_has_room_when_it_is_alone() {
        let uploads = uploads(10 * MIB, 24 * MIB);
        let body = Full::new(Bytes::from(vec![1; 10 << 20]));
        let bytes = uploads.collect(body).await.unwrap();
        let held = uploads.memory.total() - uploads.memory.free();
        assert_eq!((bytes.len() as u64, held), (10 * MIB, 10 * MIB));
        let another = uploads.collect(pieces(8000, 1000)).await;
        assert_eq!(another, Err(BadUpload::NoRoom));
        drop(bytes);
        assert!(uploads.collect(pieces(8000, 1000)).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_too_large_and_leaves_nothing() {
        let uploads = uploads(MIB, 16 * MIB);
        let result = uploads.collect(pieces(8000, 1000)).await;
        assert_eq!(result, Err(BadUpload::TooLarge));
        assert_eq!(uploads.memory.free(), uploads.memory.total());
    }

    #[tokio::test]
    async fn while_memory_is_short_what_a_body_holds_has_to_come_in_time() {
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
        assert_eq!(read, Some(Err(BadUpload::TooSlow)), "{took:?}");
        drop(all);
        let memory = Account::new(16 * MIB);
        let second = Duration::from_secs(1);
        let (read, _) = slow(Uploads::new(10 * MIB, &memory, second, second)).await;
        assert_eq!(read, None, "it has its time");
    }
}
