//! Compression of responses of workers.

use std::{
    io::{self, Write},
    sync::Arc,
};

use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::Semaphore;
use wws_engine::{Account, Charge};

use crate::assets::coding::{Coding, preferred, vary};

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
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory: memory.part(memory.total() / 4),
            permits: Arc::new(Semaphore::new(processors)),
        }
    }

    /// Returns the response in the coding that the client prefers, if compression pays off and
    /// there is memory for it.
    pub(crate) async fn compress(
        &self,
        method: &Method,
        accepted: &HeaderMap,
        mut response: Response<Bytes>,
    ) -> Response<Bytes> {
        if !is_worth_it(&response) {
            return response;
        }
        vary(response.headers_mut());
        // A response to HEAD would name the length of the plain content.
        if *method == Method::HEAD {
            return response;
        }
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

fn is_worth_it(response: &Response<Bytes>) -> bool {
    let headers = response.headers();
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let has_content = response.status() != StatusCode::PARTIAL_CONTENT
        && response.body().len() >= MIN_SIZE
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE);
    has_content
        && text(header::CONTENT_TYPE).is_some_and(is_compressible)
        && !text(header::CACHE_CONTROL).is_some_and(|value| value.contains("no-transform"))
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
                let (method, accepted) = (Method::GET, headers(accepted));
                let response = compressor.compress(&method, &accepted, response).await;
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
            let answer = compressor.compress(&Method::GET, &accepted, answer).await;
            let after = (
                answer.headers().get(header::CONTENT_ENCODING).cloned(),
                answer.into_body(),
            );
            assert_eq!(before, after);
        }
        let _all = memory.charge(memory.total());
        let answer = response("text/plain", text());
        let answer = compressor.compress(&Method::GET, &accepted, answer).await;
        assert_eq!(answer.body().len(), 5000, "no memory is left");
        assert!(answer.headers().contains_key(header::VARY));
    }
}
