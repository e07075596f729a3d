//! Compression of responses of workers.

use std::{
    io::{self, Write},
    sync::Arc,
};

use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, response::Parts};
use http_body::Frame;
use tokio::sync::Semaphore;
use wws_engine::{Account, Charge};

use crate::assets::coding::{Coding, preferred, vary};
use crate::connection::headers;

/// A body of fewer bytes is not compressed: its head and the packets cost more.
const MIN_SIZE: usize = 1 << 10;

/// A body of up to this many bytes is compressed on the serving thread, a larger one on another.
const INLINE_SIZE: usize = 16 << 10;

/// Brotli's window, as a power of two: larger ones need megabytes for each response.
const WINDOW: i32 = 18;

/// Brotli's quality, of 11: it takes as long as gzip's default level.
const QUALITY: i32 = 4;

/// The codings that responses are compressed with, the preferred one last.
const OFFERED: [Coding; 2] = [Coding::Gzip, Coding::Brotli];

/// Memory that compression takes in addition to input and output, in bytes.
fn memory_for(coding: Coding) -> u64 {
    match coding {
        Coding::Gzip => 512 << 10,
        Coding::Brotli | Coding::Zstd => 3 << 20,
    }
}

/// The lines of a request that say which codings its client accepts.
pub(crate) fn accepted(headers: &HeaderMap) -> HeaderMap {
    let mut accepted = HeaderMap::new();
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        accepted.append(header::ACCEPT_ENCODING, line.clone());
    }
    accepted
}

/// Whether content of a type becomes smaller.
fn is_compressible(kind: &str) -> bool {
    let essence = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence == "text/event-stream" {
        return false;
    }
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || essence.ends_with("+text")
        || matches!(
            essence.as_str(),
            "application/json"
                | "application/javascript"
                | "application/ecmascript"
                | "application/xml"
                | "application/wasm"
                | "application/x-ndjson"
                | "application/manifest+json"
                | "application/rtf"
                | "application/x-yaml"
                | "application/yaml"
                | "application/toml"
                | "application/graphql"
                | "image/bmp"
                | "image/x-icon"
                | "image/vnd.microsoft.icon"
                | "font/ttf"
                | "font/otf"
                | "font/collection"
                | "application/vnd.ms-fontobject"
        )
}

/// Compresses responses of workers.
pub(crate) struct Compressor {
    memory: Account,
    /// Bounds how many large responses are compressed at the same time.
    permits: Arc<Semaphore>,
}

impl Compressor {
    /// Charges compressed responses to `memory`.
    pub(crate) fn new(memory: &Account) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory: memory.part(memory.total() / 4),
            permits: Arc::new(Semaphore::new(cpus)),
        }
    }

    /// Returns the response in the coding that the client prefers, if compression pays off and
    /// there is memory for it. A response to a `HEAD` as well, which has the length of one to a
    /// `GET`.
    pub(crate) async fn compress(
        &self,
        accepted: &HeaderMap,
        mut response: Response<Bytes>,
    ) -> Response<Bytes> {
        let is_long = response.body().len() >= MIN_SIZE;
        if !is_long || !is_compressible_response(response.status(), response.headers()) {
            return response;
        }
        vary(response.headers_mut());
        let Some(coding) = preferred(accepted, &OFFERED) else {
            return response;
        };
        match self.body(coding, response.body().clone()).await {
            Some(body) if body.len() < response.body().len() => {
                *response.body_mut() = body;
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_ENCODING, coding.header_value());
                headers.remove(header::ACCEPT_RANGES);
                weaken(headers);
                response
            }
            _ => response,
        }
    }

    /// Prepares the head of a streamed response for compression: the encoder of its body, if the
    /// client accepts gzip, compression may pay off and there is memory for it.
    ///
    /// The head of a response to a `HEAD` is prepared as for a `GET`.
    ///
    /// Streams are never compressed with Brotli: its encoder needs megabytes, and a stream may
    /// last.
    pub(crate) fn encoder(
        &self,
        method: &Method,
        accepted: &HeaderMap,
        head: &mut Parts,
    ) -> Option<Encoder> {
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length < MIN_SIZE)
            || !is_compressible_response(head.status, &head.headers)
        {
            return None;
        }
        vary(&mut head.headers);
        if headers::status_has_no_body(head.status) {
            return None;
        }
        let coding = preferred(accepted, &[Coding::Gzip])?;
        let charge = self.memory.charge(memory_for(coding))?;
        let headers = &mut head.headers;
        headers.insert(header::CONTENT_ENCODING, coding.header_value());
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::ACCEPT_RANGES);
        weaken(headers);
        (*method != Method::HEAD).then(|| Encoder::new(charge))
    }

    async fn body(&self, coding: Coding, body: Bytes) -> Option<Bytes> {
        // Content that does not become smaller is sent plain: output is never longer than input.
        let length = body.len();
        let charge = self.memory.charge(length as u64 + memory_for(coding))?;
        if length <= INLINE_SIZE {
            return compressed(coding, &body, charge).ok();
        }
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        let compressing = tokio::task::spawn_blocking(move || {
            let compressed = compressed(coding, &body, charge);
            drop(permit);
            compressed
        });
        compressing.await.ok()?.ok()
    }
}

/// Whether the content of a response becomes smaller, and may be changed.
fn is_compressible_response(status: StatusCode, headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    status != StatusCode::PARTIAL_CONTENT
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && text(header::CONTENT_TYPE).is_some_and(is_compressible)
        && !text(header::CACHE_CONTROL).is_some_and(|value| value.contains("no-transform"))
}

/// Compresses a stream piece by piece. What a worker has made is sent once it makes no more at
/// once.
pub(crate) struct Encoder {
    gzip: GzEncoder<Vec<u8>>,
    /// The part of the last piece that is not compressed yet.
    rest: Bytes,
    /// Something was compressed since the last flush.
    unflushed: bool,
    /// What is in the output is to be sent, however little it is.
    flushed: bool,
    ended: bool,
    trailers: Option<HeaderMap>,
    _charge: Charge,
}

impl Encoder {
    /// The usual size of a frame of output, in bytes.
    const OUTPUT: usize = 16 << 10;

    /// Bytes that are compressed at once, and before what they became is sent.
    const INPUT: usize = 64 << 10;

    fn new(charge: Charge) -> Self {
        Self {
            gzip: GzEncoder::new(Vec::new(), Compression::new(5)),
            rest: Bytes::new(),
            unflushed: false,
            flushed: false,
            ended: false,
            trailers: None,
            _charge: charge,
        }
    }

    /// Adds a frame; the previous one has been compressed.
    pub(crate) fn add(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(piece) => self.rest = piece,
            Err(frame) => {
                self.finish();
                self.trailers = frame.into_trailers().ok();
            }
        }
    }

    /// The next frame to be sent, if there is one.
    pub(crate) fn take(&mut self) -> Option<Frame<Bytes>> {
        let mut left = Self::INPUT;
        while !self.rest.is_empty() && self.gzip.get_ref().len() < Self::OUTPUT {
            let piece = self.rest.split_to(self.rest.len().min(left));
            left -= piece.len();
            self.unflushed = true;
            // Writing to a vector cannot fail.
            let _ = self.gzip.write_all(&piece);
            if left == 0 {
                self.flush();
                break;
            }
        }
        let length = self.gzip.get_ref().len();
        if length >= Self::OUTPUT || self.flushed && length > 0 {
            self.flushed = false;
            let output = std::mem::take(self.gzip.get_mut());
            return Some(Frame::data(output.into()));
        }
        self.trailers.take().map(Frame::trailers)
    }

    /// Makes what was added complete for a client. Returns whether there is something to take.
    pub(crate) fn flush(&mut self) -> bool {
        if std::mem::take(&mut self.unflushed) && !self.ended {
            let _ = self.gzip.flush();
            self.flushed = true;
        }
        self.flushed && !self.gzip.get_ref().is_empty()
    }

    /// Ends the output. Returns whether it had not ended before.
    pub(crate) fn finish(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let _ = self.gzip.try_finish();
        (self.ended, self.flushed) = (true, true);
        true
    }

    /// Whether all was taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended && self.gzip.get_ref().is_empty() && self.trailers.is_none()
    }
}

/// Makes a strong ETag weak, because the bytes differ.
fn weaken(headers: &mut HeaderMap) {
    let weak = headers.get(header::ETAG).and_then(|etag| {
        let etag = etag.to_str().ok().filter(|etag| etag.starts_with('"'))?;
        HeaderValue::try_from(format!("W/{etag}")).ok()
    });
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

/// Output of a bounded size.
struct BoundedOutput {
    bytes: Vec<u8>,
    max: usize,
}

impl Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max {
            return Err(io::Error::other("it does not become smaller"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses bytes. `charge` covers the memory meanwhile; the output stays charged.
fn compressed(coding: Coding, bytes: &[u8], mut charge: Charge) -> io::Result<Bytes> {
    let out = BoundedOutput {
        bytes: Vec::with_capacity(bytes.len() / 4),
        max: bytes.len(),
    };
    let out = match coding {
        Coding::Brotli => {
            let mut out = out;
            let params = BrotliEncoderParams {
                quality: QUALITY,
                lgwin: WINDOW,
                size_hint: bytes.len(),
                ..BrotliEncoderParams::default()
            };
            brotli::BrotliCompress(&mut &*bytes, &mut out, &params)?;
            out
        }
        Coding::Gzip | Coding::Zstd => {
            let mut encoder = GzEncoder::new(out, Compression::new(5));
            encoder.write_all(bytes)?;
            encoder.finish()?
        }
    };
    let mut bytes = out.bytes;
    bytes.shrink_to_fit();
    charge.shrink_to(bytes.len() as u64);
    Ok(charge.hold(bytes.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read;

    fn headers(accepted: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
        headers
    }

    fn response(kind: &str, body: Vec<u8>) -> Response<Bytes> {
        Response::builder()
            .header(header::CONTENT_TYPE, kind)
            .header(header::ETAG, "\"1\"")
            .body(body.into())
            .unwrap()
    }

    #[tokio::test]
    async fn compresses_without_loss_and_charges_the_output() {
        let memory = Account::new(64 << 20);
        let compressor = Compressor::new(&memory);
        let text: Vec<u8> = (0..20_000)
            .flat_map(|n| format!("line {n}\n").into_bytes())
            .collect();
        for size in [1024, 10_000, text.len()] {
            for (accepted, coding) in [("gzip", "gzip"), ("br", "br")] {
                let body = text[..size].to_vec();
                let response = response("text/plain; charset=utf-8", body.clone());
                let accepted = headers(accepted);
                let response = compressor.compress(&accepted, response).await;
                assert_eq!(response.headers()["content-encoding"], coding);
                assert_eq!(response.headers()["vary"], "accept-encoding");
                assert_eq!(response.headers()["etag"], "W/\"1\"");
                let sent = response.into_body();
                assert!(sent.len() < size / 2 && memory.free() < memory.total());
                let mut read = Vec::new();
                match coding {
                    "gzip" => flate2::read::GzDecoder::new(&*sent)
                        .read_to_end(&mut read)
                        .unwrap(),
                    _ => brotli::Decompressor::new(&*sent, 4096)
                        .read_to_end(&mut read)
                        .unwrap(),
                };
                assert!(read == body, "{coding} of {size}");
                drop(sent);
                assert_eq!(memory.free(), memory.total());
            }
        }
    }

    #[tokio::test]
    async fn sends_plain_content_where_compression_does_not_pay_off() {
        let memory = Account::new(64 << 20);
        let compressor = Compressor::new(&memory);
        let accepted = headers("gzip, br");
        let text = || vec![b'a'; 5000];
        let mut random = vec![0; 5000];
        getrandom::fill(&mut random).unwrap();
        let mut encoded = response("text/plain", text());
        encoded
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let mut fixed = response("text/plain", text());
        fixed.headers_mut().insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, no-transform"),
        );
        let mut part = response("text/plain", text());
        *part.status_mut() = StatusCode::PARTIAL_CONTENT;
        for answer in [
            response("text/plain", vec![b'a'; 1000]),
            response("image/png", text()),
            response("text/event-stream", text()),
            response("text/plain", random),
            encoded,
            fixed,
            part,
        ] {
            let before = (
                answer.headers().get(header::CONTENT_ENCODING).cloned(),
                answer.body().clone(),
            );
            let answer = compressor.compress(&accepted, answer).await;
            let after = (
                answer.headers().get(header::CONTENT_ENCODING).cloned(),
                answer.into_body(),
            );
            assert_eq!(before, after);
        }
        let _all = memory.charge(memory.total());
        let answer = response("text/plain", text());
        let answer = compressor.compress(&accepted, answer).await;
        assert_eq!(answer.body().len(), 5000, "no memory is left");
        assert!(answer.headers().contains_key(header::VARY));
    }

    fn head(kind: &str) -> Parts {
        response(kind, vec![]).into_parts().0
    }

    #[tokio::test]
    async fn compresses_streams_piece_by_piece() {
        let memory = Account::new(64 << 20);
        let compressor = Compressor::new(&memory);
        let mut head = head("text/plain");
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("100000"));
        let accepted = headers("br, gzip");
        let mut encoder = compressor
            .encoder(&Method::GET, &accepted, &mut head)
            .unwrap();
        assert_eq!(head.headers["content-encoding"], "gzip");
        assert_eq!(head.headers["vary"], "accept-encoding");
        assert_eq!(head.headers["etag"], "W/\"1\"");
        assert!(!head.headers.contains_key(header::CONTENT_LENGTH));
        assert!(memory.free() < memory.total());
        let mut decoder = flate2::write::GzDecoder::new(Vec::new());
        let mut all = Vec::new();
        // The largest is compressed in several steps.
        for size in [1, 10, 100_000, 3] {
            let piece: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
            all.extend_from_slice(&piece);
            encoder.add(Frame::data(piece.into()));
            loop {
                while let Some(frame) = encoder.take() {
                    let output = frame.into_data().unwrap();
                    assert!(!output.is_empty() && output.len() < 32 << 10);
                    decoder.write_all(&output).unwrap();
                }
                if !encoder.flush() {
                    break;
                }
            }
            decoder.flush().unwrap();
            assert!(*decoder.get_ref() == all, "after {size} more");
            assert!(!encoder.has_ended());
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("1"));
        encoder.add(Frame::trailers(trailers));
        let end = encoder.take().unwrap().into_data().unwrap();
        decoder.write_all(&end).unwrap();
        assert!(!encoder.has_ended());
        assert!(encoder.take().unwrap().is_trailers());
        assert!(encoder.take().is_none() && encoder.has_ended() && !encoder.finish());
        assert!(decoder.finish().unwrap() == all);
        drop(encoder);
        assert_eq!(memory.free(), memory.total());
    }

    #[test]
    fn streams_that_are_not_compressed() {
        let memory = Account::new(64 << 20);
        let compressor = Compressor::new(&memory);
        let encoder = |method: Method, accepted: &str, kind: &str| {
            let mut head = head(kind);
            let encoder = compressor.encoder(&method, &headers(accepted), &mut head);
            encoder.is_some() && head.headers.contains_key(header::CONTENT_ENCODING)
        };
        assert!(encoder(Method::GET, "gzip", "text/html"));
        assert!(!encoder(Method::GET, "br", "text/html"));
        let mut head_of_head = head("text/html");
        let accepted = headers("gzip");
        let none = compressor.encoder(&Method::HEAD, &accepted, &mut head_of_head);
        assert!(none.is_none());
        assert_eq!(head_of_head.headers["content-encoding"], "gzip");
        assert!(!encoder(Method::GET, "gzip", "text/event-stream"));
        assert!(!encoder(Method::GET, "gzip", "application/grpc"));
        let _all = memory.charge(memory.total());
        assert!(!encoder(Method::GET, "gzip", "text/html"));
    }
}
