//! Bodies of requests: collected within bounds of size, time, and of the memory for all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

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
    pub(crate) max: u64,
    pub(crate) time: Duration,
    left: Arc<AtomicU64>,
}

/// A body's part of the memory for all; free again when dropped.
pub(crate) struct Room {
    left: Arc<AtomicU64>,
    taken: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.left.fetch_add(self.taken, Relaxed);
        }
    }
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<(), BadUpload> {
        self.left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes))
            .map_err(|_| BadUpload::NoRoom)?;
        self.taken += bytes;
        Ok(())
    }
}

impl Uploads {
    /// Bodies of at most `max` bytes each and `total` bytes together; one of the largest size always has room when it is alone.
    pub(crate) fn new(max: u64, total: u64, time: Duration) -> Self {
        Self {
            max,
            time,
            left: Arc::new(AtomicU64::new(total.max(max))),
        }
    }

    /// Reads a body.
    pub(crate) async fn read(&self, body: Incoming) -> Result<(Bytes, Room), BadUpload> {
        let mut room = Room {
            left: self.left.clone(),
            taken: 0,
        };
        if body.is_end_stream() {
            return Ok((Bytes::new(), room));
        }
        // Said beforehand: the client that asks first (`expect`) need not send it.
        if body.size_hint().lower() > self.max {
            return Err(BadUpload::TooLarge);
        }
        match tokio::time::timeout(self.time, Box::pin(self.collect(body, &mut room))).await {
            Ok(bytes) => Ok((bytes?, room)),
            Err(_) => Err(BadUpload::TooSlow),
        }
    }

    async fn collect(&self, mut body: Incoming, room: &mut Room) -> Result<Bytes, BadUpload> {
        // A body that comes in one piece is not copied.
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BadUpload::Broken)?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let size = (first.len() + rest.len() + data.len()) as u64;
            if size > self.max {
                return Err(BadUpload::TooLarge);
            }
            room.take(data.len() as u64)?;
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        Ok(if rest.is_empty() {
            first
        } else {
            rest.freeze()
        })
    }
}
