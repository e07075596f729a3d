//! Reading answers, within what one may have and within what all may have together.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use url::Host;

use crate::error::{Error, ErrorKind, chain};

/// Bytes of a redirect's body that are read so that its connection can be used again.
const MAX_REDIRECT_BODY: u64 = 16 << 10;

/// Bytes of answers that are being read, of all requests together.
pub(crate) struct Budget {
    used: AtomicU64,
    limit: u64,
}

/// What one answer took of it; given back when the answer is the guest's, or nobody's.
struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            limit,
        }
    }
}

impl Share<'_> {
    /// `false` where there is not as much left.
    fn take(&mut self, bytes: u64) -> bool {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        used.saturating_add(bytes) <= self.budget.limit
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body to its end, or to the limit.
pub(crate) async fn collect(
    response: Response<Incoming>,
    host: &Host,
    limit: u64,
    budget: &Budget,
) -> Result<Response<Bytes>, Error> {
    let wrong = |message: String| Error::new(ErrorKind::InvalidResponseBody, message);
    let too_large = || {
        wrong(format!(
            "the answer of `{host}` is larger than {limit} bytes"
        ))
    };
    let (parts, mut body) = response.into_parts();
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let mut share = Share { budget, bytes: 0 };
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            wrong(format!(
                "the answer of `{host}` broke off: {}",
                chain(&error)
            ))
        })?;
        // Trailers are nothing that the guest's interface could carry.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if share.bytes + data.len() as u64 > limit {
            return Err(too_large());
        }
        if !share.take(data.len() as u64) {
            return Err(wrong(format!(
                "no memory left for the answer of `{host}`: too many large answers at once"
            )));
        }
        if first.is_empty() && all.is_empty() {
            // Most answers are one frame, which needs no copy.
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    let all = if all.is_empty() { first } else { all.freeze() };
    Ok(Response::from_parts(parts, all))
}

/// Reads the rest of a redirect where it is short: an unread body costs the connection.
pub(crate) async fn discard(response: Response<Incoming>) {
    let body = response.into_body();
    if body
        .size_hint()
        .upper()
        .is_none_or(|size| size > MAX_REDIRECT_BODY)
    {
        return;
    }
    // Whatever comes of it: the next hop matters.
    let _ = tokio::time::timeout(Duration::from_millis(100), body.collect()).await;
}
