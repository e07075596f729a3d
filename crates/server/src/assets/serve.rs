//! Serves files of `public/`. Each file is opened beneath the project's root at each request, so
//! that changes are visible and symbolic links cannot lead outside.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use wws_project::beneath::Root;

use crate::assets::coding::vary;
use crate::assets::conditions::{self, FileVersion, Selection};
use crate::assets::precompressed::Precompressed;
use crate::connection::body::{Body, read_at};

/// A part of up to this many bytes is read into memory. Larger ones are charged while they are
/// sent.
const SMALL: u64 = 16 << 10;

/// Methods that assets answer.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// The static files of a project.
pub(crate) struct StaticFiles {
    pub(crate) root: Root,
    pub(crate) precompressed: Precompressed,
}

impl StaticFiles {
    /// Answers a request for a file, or for the precompressed variant that the client prefers.
    /// `path` is relative to the root.
    pub(crate) fn serve(
        &self,
        path: &Path,
        method: &Method,
        headers: &HeaderMap,
    ) -> io::Result<Response<Body>> {
        if !self.precompressed.has(path) {
            return serve(&self.root, path, method, headers);
        }
        let mut response = match self.precompressed.find(path, headers) {
            Some((variant, coding)) => {
                let mut response = serve(&self.root, &variant, method, headers)?;
                let headers = response.headers_mut();
                if headers.contains_key(header::CONTENT_TYPE) {
                    headers.insert(header::CONTENT_ENCODING, coding);
                    if let Some(content_type) = content_type(path) {
                        headers.insert(header::CONTENT_TYPE, content_type);
                    }
                }
                response
            }
            None => serve(&self.root, path, method, headers)?,
        };
        vary(response.headers_mut());
        Ok(response)
    }

    /// `public/404.html`, as the body of a 404.
    pub(crate) fn not_found(&self, path: &Path) -> io::Result<Response<Body>> {
        let mut response = serve(&self.root, path, &Method::GET, &HeaderMap::new())?;
        *response.status_mut() = StatusCode::NOT_FOUND;
        // They describe the page, not the requested path.
        for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
            response.headers_mut().remove(name);
        }
        Ok(response)
    }
}

fn serve(
    root: &Root,
    path: &Path,
    method: &Method,
    headers: &HeaderMap,
) -> io::Result<Response<Body>> {
    let head = match *method {
        Method::GET => false,
        Method::HEAD => true,
        _ => {
            let mut response = Response::new(Body::default());
            let options = *method == Method::OPTIONS;
            *response.status_mut() = if options {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::METHOD_NOT_ALLOWED
            };
            response.headers_mut().insert(header::ALLOW, ALLOW);
            return Ok(response);
        }
    };
    let file = root.file(path)?;
    let metadata = file.metadata()?;
    let size = metadata.len();
    let version = version(&metadata)?;
    let selection = match conditions::select(headers, &version, size) {
        // Ranges apply to GET only (RFC 9110, 14.2).
        Selection::Part(..) | Selection::Unsatisfiable if head => Selection::All,
        selection => selection,
    };
    let (status, part) = match selection {
        Selection::All => (StatusCode::OK, Some((0, size))),
        Selection::Part(at, length) => (StatusCode::PARTIAL_CONTENT, Some((at, length))),
        Selection::NotModified => (StatusCode::NOT_MODIFIED, None),
        Selection::Changed => (StatusCode::PRECONDITION_FAILED, None),
        Selection::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, None),
    };
    let mut response = match part {
        Some((at, length)) if !head => Response::new(read(file, at, length)?),
        Some((_, length)) => {
            let mut response = Response::new(Body::default());
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
            response
        }
        None => Response::new(Body::default()),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(content_type) = part.and_then(|_| content_type(path)) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(
        headers,
        header::LAST_MODIFIED,
        &httpdate::fmt_http_date(version.modified),
    );
    insert(headers, header::ETAG, &version.etag);
    match selection {
        Selection::Part(at, length) => {
            insert(
                headers,
                header::CONTENT_RANGE,
                &format!("bytes {at}-{}/{size}", at + length - 1),
            );
        }
        Selection::Unsatisfiable => {
            insert(headers, header::CONTENT_RANGE, &format!("bytes */{size}"))
        }
        _ => {}
    }
    Ok(response)
}

/// Redirects to the canonical path of an asset.
pub(crate) fn redirect(path: &str, query: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    insert(response.headers_mut(), header::LOCATION, &location);
    response
}

fn read(file: File, at: u64, length: u64) -> io::Result<Body> {
    match usize::try_from(length) {
        Ok(short) if length <= SMALL => Ok(read_at(&file, at, short)?.into()),
        _ => Ok(Body::file(file, at, length)),
    }
}

fn version(metadata: &Metadata) -> io::Result<FileVersion> {
    // Images are often built with one date for all files: the time of unpacking differs.
    let etag = format!(
        "\"{:x}-{:x}.{:x}-{:x}.{:x}\"",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    );
    Ok(FileVersion {
        etag,
        modified: conditions::whole_seconds(metadata.modified()?),
    })
}

/// Inserts a value of visible ASCII.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn content_type(path: &Path) -> Option<HeaderValue> {
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    let text = kind.essence_str();
    let is_text = kind.type_() == "text"
        || matches!(
            text,
            "application/javascript" | "application/json" | "application/xml" | "image/svg+xml"
        );
    let value = if is_text {
        format!("{text}; charset=utf-8")
    } else {
        text.to_owned()
    };
    HeaderValue::try_from(value).ok()
}
