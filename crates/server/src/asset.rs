//! Files of `public/`. Each is opened beneath the project's root when it is asked for, so that a changed file is seen and none
//! that a link names outside is.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use wws_project::beneath::Root;

use crate::{
    body::{Body, read_at},
    range::{self, Version, Wanted},
};

/// A part of at most this size, in bytes, is read at once. Larger ones are charged while they are sent.
const SMALL: u64 = 16 << 10;

/// Methods that assets answer.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// Answers a request for a file, relative to the root.
pub(crate) fn serve(
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
    let wanted = match range::wanted(headers, &version, size) {
        // A range is of GET alone (RFC 9110, 14.2).
        Wanted::Part(..) | Wanted::Unsatisfiable if head => Wanted::All,
        wanted => wanted,
    };
    let (status, part) = match wanted {
        Wanted::All => (StatusCode::OK, Some((0, size))),
        Wanted::Part(at, length) => (StatusCode::PARTIAL_CONTENT, Some((at, length))),
        Wanted::NotModified => (StatusCode::NOT_MODIFIED, None),
        Wanted::Changed => (StatusCode::PRECONDITION_FAILED, None),
        Wanted::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, None),
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
    if let Some(kind) = part.and_then(|_| content_type(path)) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(
        headers,
        header::LAST_MODIFIED,
        &httpdate::fmt_http_date(version.modified),
    );
    insert(headers, header::ETAG, &version.etag);
    match wanted {
        Wanted::Part(at, length) => {
            insert(
                headers,
                header::CONTENT_RANGE,
                &format!("bytes {at}-{}/{size}", at + length - 1),
            );
        }
        Wanted::Unsatisfiable => insert(headers, header::CONTENT_RANGE, &format!("bytes */{size}")),
        _ => {}
    }
    Ok(response)
}

/// Sends a client to the one path that an asset has.
pub(crate) fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    insert(response.headers_mut(), header::LOCATION, &location);
    response
}

/// `public/404.html`, as the body of a 404.
pub(crate) fn not_found(root: &Root, path: &Path) -> io::Result<Response<Body>> {
    let mut response = serve(root, path, &Method::GET, &HeaderMap::new())?;
    *response.status_mut() = StatusCode::NOT_FOUND;
    // They describe the page, not what was asked for.
    for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

fn read(file: File, at: u64, length: u64) -> io::Result<Body> {
    match usize::try_from(length) {
        Ok(short) if length <= SMALL => Ok(read_at(&file, at, short)?.into()),
        _ => Ok(Body::file(file, at, length)),
    }
}

fn version(metadata: &Metadata) -> io::Result<Version> {
    // Images are often built with one date for all files: the time of unpacking tells them apart.
    let etag = format!(
        "\"{:x}-{:x}.{:x}-{:x}.{:x}\"",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    );
    Ok(Version {
        etag,
        modified: range::whole_seconds(metadata.modified()?),
    })
}

/// All of these are visible ASCII.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

pub(crate) fn content_type(path: &Path) -> Option<HeaderValue> {
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
