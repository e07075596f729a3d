//! Reads responses within their limits and the available memory.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use url::Host;

use crate::{
    decode::{self, Coding, Problem},
    error::{Error, ErrorKind, chain},
    memory::{Buffer, Memory},
};

/// Bytes of a redirect's body that are read so that its connection can be used again.
const MAX_REDIRECT_BODY: u64 = 16 << 10;

/// The limit of a response, and where it comes from.
pub(crate) struct Reader<'a> {
    pub(crate) host: &'a Host,
    /// The maximum number of bytes, before and after decoding.
    pub(crate) limit: u64,
    pub(crate) memory: &'a Memory,
}

impl Reader<'_> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::InvalidResponseBody,
            format!("the answer of `{}` {what}", self.host),
        )
    }

    fn too_large(&self) -> Error {
        self.wrong(format_args!("is larger than {} bytes", self.limit))
    }

    fn no_memory(&self) -> Error {
        Error::new(
            ErrorKind::InvalidResponseBody,
            format!(
                "no memory left for the answer of `{}`: too many or too large answers at once",
                self.host
            ),
        )
    }

    /// Reads a body completely, or up to the limit. The bytes stay charged until they are dropped.
    pub(crate) async fn collect(
        &self,
        response: Response<Incoming>,
    ) -> Result<Response<Bytes>, Error> {
        let (parts, mut body) = response.into_parts();
        if body.size_hint().lower() > self.limit {
            return Err(self.too_large());
        }
        // The declared length is not reserved in advance, but it bounds the buffer.
        let most = body.size_hint().upper().unwrap_or(self.limit);
        let mut first = Bytes::new();
        let mut part = self.memory.part();
        let mut all = Buffer::new(self.memory);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| self.wrong(format_args!("broke off: {}", chain(&error))))?;
            // The guest's interface has no trailers.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if (first.len() + all.len() + data.len()) as u64 > self.limit {
                return Err(self.too_large());
            }
            if first.is_empty() && all.len() == 0 {
                // Most responses are one frame, which is not copied.
                if !part.grow_to(data.len() as u64) {
                    return Err(self.no_memory());
                }
                first = data;
                continue;
            }
            part.shrink_to(0);
            if !all.reserve(first.len() + data.len(), most.min(self.limit)) {
                return Err(self.no_memory());
            }
            all.extend(&std::mem::take(&mut first));
            all.extend(&data);
        }
        let all = if all.len() == 0 {
            part.hold(first)
        } else {
            all.freeze()
        };
        Ok(Response::from_parts(parts, all))
    }

    /// Decodes the content codings of a response, if all of them are known.
    pub(crate) async fn decode(&self, response: Response<Bytes>) -> Result<Response<Bytes>, Error> {
        let codings = decode::codings(response.headers());
        if codings.is_empty() {
            return Ok(response);
        }
        let (mut parts, mut body) = response.into_parts();
        if !body.is_empty() {
            body = decode::decode(body, &codings, self.limit, self.memory)
                .await
                .map_err(|problem| match problem {
                    Problem::TooLarge => self.too_large(),
                    Problem::NoMemory => self.no_memory(),
                    Problem::Broken(what) => self.wrong(format_args!(
                        "cannot be decoded as {}: {what}",
                        names(&codings)
                    )),
                })?;
        }
        // The removed codings are no longer named: the response may be passed on as it is.
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
        Ok(Response::from_parts(parts, body))
    }
}

fn names(codings: &[Coding]) -> String {
    let names = codings.iter().map(|coding| match coding {
        Coding::Gzip => "gzip",
        Coding::Deflate => "deflate",
        Coding::Brotli => "br",
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Reads the rest of a redirect if it is short: an unread body costs the connection.
pub(crate) async fn discard(response: Response<Incoming>) {
    let body = response.into_body();
    if body
        .size_hint()
        .upper()
        .is_none_or(|size| size > MAX_REDIRECT_BODY)
    {
        return;
    }
    // The result does not matter: the next hop does.
    let _ = tokio::time::timeout(Duration::from_millis(100), body.collect()).await;
}
