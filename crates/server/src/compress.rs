//! Compressed answers: what a client accepts, what is worth compressing, and files that were compressed before.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::Semaphore;
use wws_engine::{Account, Charge};

/// A smaller body is sent as it is, in bytes: its head and the packets cost more.
const LEAST: usize = 1 << 10;

/// A body of at most this size is compressed at once; a larger one beside the threads that serve, in bytes.
const AT_ONCE: usize = 16 << 10;

/// Brotli's window, as a power of two: larger ones need megabytes for each answer.
const WINDOW: i32 = 18;

/// Brotli's quality, of 11: it takes as long as gzip's usual level.
const QUALITY: i32 = 4;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    const ALL: [Self; 3] = [Self::Gzip, Self::Brotli, Self::Zstd];

    /// Codings that answers are compressed with, the preferred one last.
    const MADE: [Self; 2] = [Self::Gzip, Self::Brotli];

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// What is added to the name of a file.
    fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
        }
    }

    /// Memory that compressing takes beside input and output, in bytes.
    fn cost(self) -> u64 {
        match self {
            Self::Gzip => 512 << 10,
            Self::Brotli | Self::Zstd => 3 << 20,
        }
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }
}

/// What a client says of codings.
pub(crate) fn accepted(headers: &HeaderMap) -> HeaderMap {
    let mut accepted = HeaderMap::new();
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        accepted.append(header::ACCEPT_ENCODING, line.clone());
    }
    accepted
}

/// The coding among `offered` that a client prefers, the last of those that it likes equally. `None`: it takes none, or prefers
/// the content as it is.
fn preferred(headers: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    let items: Vec<(&str, u32)> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(weighted)
        .collect();
    let weight = |name: &str| {
        let of = |name: &str| {
            items
                .iter()
                .find(|(item, _)| item.eq_ignore_ascii_case(name))
        };
        of(name).map(|(_, weight)| *weight)
    };
    let identity = weight("identity").unwrap_or(0);
    let accepted = offered.iter().filter_map(|coding| {
        let weight = weight(coding.name()).or_else(|| weight("*")).unwrap_or(0);
        (weight > 0 && weight >= identity).then_some((weight, *coding))
    });
    // The last of the largest.
    accepted
        .max_by_key(|(weight, _)| *weight)
        .map(|(_, coding)| coding)
}

/// A coding and its weight in thousandths: `gzip`, `gzip;q=0.5`. A weight that is none refuses.
fn weighted(item: &str) -> (&str, u32) {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let weight = match weight {
        None => 1000,
        Some(text) => text
            .parse::<f32>()
            .ok()
            .filter(|weight| (0.0..=1.0).contains(weight))
            .map_or(0, |weight| (weight * 1000.0) as u32),
    };
    (name.trim(), weight)
}

/// Says that the answer is another one for other clients.
pub(crate) fn vary(headers: &mut HeaderMap) {
    let name = HeaderValue::from_static("accept-encoding");
    let all = headers.get_all(header::VARY).iter();
    let is_said = all.filter_map(|line| line.to_str().ok()).any(|line| {
        line.split(',')
            .map(str::trim)
            .any(|item| item == "*" || item.eq_ignore_ascii_case("accept-encoding"))
    });
    if !is_said {
        headers.append(header::VARY, name);
    }
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

/// Compresses answers of workers.
pub(crate) struct Compressor {
    memory: Account,
    /// Large answers that are compressed at the same time.
    places: Arc<Semaphore>,
}

impl Compressor {
    /// What is compressed is charged to `memory`.
    pub(crate) fn new(memory: &Account) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory: memory.part(memory.total() / 4),
            places: Arc::new(Semaphore::new(processors)),
        }
    }

    /// The answer in the coding that the client prefers, where that is worth it and there is memory for it.
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
        // What HEAD says of a length would be that of the content as it is.
        if *method == Method::HEAD {
            return response;
        }
        let Some(coding) = preferred(accepted, &Coding::MADE) else {
            return response;
        };
        match self.body(coding, response.body().clone()).await {
            Some(body) if body.len() < response.body().len() => {
                *response.body_mut() = body;
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_ENCODING, coding.value());
                headers.remove(header::ACCEPT_RANGES);
                weaken(headers);
                response
            }
            _ => response,
        }
    }

    async fn body(&self, coding: Coding, body: Bytes) -> Option<Bytes> {
        // What does not become smaller is sent as it is: there is never more output.
        let length = body.len();
        let charge = self.memory.charge(length as u64 + coding.cost())?;
        if length <= AT_ONCE {
            return compressed(coding, &body, charge).ok();
        }
        let place = self.places.clone().acquire_owned().await.ok()?;
        let compressing = tokio::task::spawn_blocking(move || {
            let compressed = compressed(coding, &body, charge);
            drop(place);
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
        && response.body().len() >= LEAST
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE);
    has_content
        && text(header::CONTENT_TYPE).is_some_and(is_compressible)
        && !text(header::CACHE_CONTROL).is_some_and(|value| value.contains("no-transform"))
}

/// The bytes differ from those that a strong version names.
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
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::Error::other("it does not become smaller"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses bytes, for which `charge` has the memory; what they take afterwards stays charged.
fn compressed(coding: Coding, bytes: &[u8], mut charge: Charge) -> io::Result<Bytes> {
    let out = Bounded {
        bytes: Vec::with_capacity(bytes.len() / 4),
        most: bytes.len(),
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

/// Assets that have compressed ones beside them: `style.css` and `style.css.br`.
#[derive(Default)]
pub(crate) struct Precompressed(HashMap<PathBuf, Vec<Coding>>);

impl Precompressed {
    /// Of all assets of a project.
    pub(crate) fn of<'a>(assets: impl Iterator<Item = &'a Path> + Clone) -> Self {
        let mut found: HashMap<PathBuf, Vec<Coding>> = HashMap::new();
        let mut others = HashMap::new();
        for path in assets.clone() {
            for coding in Coding::ALL {
                let plain = path
                    .to_str()
                    .and_then(|path| path.strip_suffix(coding.suffix()));
                if let Some(plain) = plain {
                    others
                        .entry(PathBuf::from(plain))
                        .or_insert_with(Vec::new)
                        .push(coding);
                }
            }
        }
        for path in assets {
            if let Some(mut codings) = others.remove(path) {
                codings.sort_unstable();
                found.insert(path.to_owned(), codings);
            }
        }
        Self(found)
    }

    /// Whether an asset has others beside it.
    pub(crate) fn has(&self, asset: &Path) -> bool {
        !self.0.is_empty() && self.0.contains_key(asset)
    }

    /// The file that a client prefers to an asset, and its coding. Parts are always of the asset itself.
    pub(crate) fn find(&self, asset: &Path, headers: &HeaderMap) -> Option<(PathBuf, HeaderValue)> {
        let codings = self.0.get(asset)?;
        if headers.contains_key(header::RANGE) {
            return None;
        }
        let coding = preferred(headers, codings)?;
        let mut path = asset.as_os_str().to_owned();
        path.push(coding.suffix());
        Some((path.into(), coding.value()))
    }
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

    #[test]
    fn a_client_gets_the_coding_that_it_prefers() {
        for (accepted, coding) in [
            ("gzip, deflate, br", Some(Coding::Brotli)),
            ("gzip", Some(Coding::Gzip)),
            ("GZIP;q=0.5", Some(Coding::Gzip)),
            ("br;q=0.5, gzip", Some(Coding::Gzip)),
            ("br;q=0, *", Some(Coding::Gzip)),
            ("*;q=0.1", Some(Coding::Brotli)),
            ("br;q=0, gzip;q=0.0", None),
            ("identity, br;q=0.5", None),
            ("br;q=2", None),
            ("br;q=x", None),
            ("deflate", None),
            ("", None),
        ] {
            assert_eq!(
                preferred(&headers(accepted), &Coding::MADE),
                coding,
                "{accepted}"
            );
        }
        assert_eq!(preferred(&HeaderMap::new(), &Coding::ALL), None);
    }

    fn response(kind: &str, body: Vec<u8>) -> Response<Bytes> {
        Response::builder()
            .header(header::CONTENT_TYPE, kind)
            .header(header::ETAG, "\"1\"")
            .body(body.into())
            .unwrap()
    }

    #[tokio::test]
    async fn what_is_compressed_is_the_same_and_charged() {
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
    async fn what_is_not_worth_it_is_sent_as_it_is() {
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
        assert_eq!(answer.body().len(), 5000, "there is no memory");
        assert!(answer.headers().contains_key(header::VARY));
    }

    #[test]
    fn files_that_were_compressed_before_are_found() {
        let assets = [
            "public/a.css",
            "public/a.css.br",
            "public/a.css.gz",
            "public/b.gz",
        ];
        let assets = Precompressed::of(assets.iter().map(Path::new));
        let find = |asset: &str, accepted: &str| {
            let found = assets.find(Path::new(asset), &headers(accepted));
            found.map(|(path, _)| path.to_str().unwrap().to_owned())
        };
        assert_eq!(
            find("public/a.css", "gzip, br, zstd").as_deref(),
            Some("public/a.css.br")
        );
        assert_eq!(
            find("public/a.css", "gzip").as_deref(),
            Some("public/a.css.gz")
        );
        assert_eq!(find("public/a.css", "zstd"), None);
        assert_eq!(find("public/b", "gzip"), None);
        let mut part = headers("br");
        part.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(assets.find(Path::new("public/a.css"), &part), None);
    }
}
