//! Stores uploads in a directory: `PUT /upload?name=photo.jpg` stores the body as it comes, `GET`
//! with the same URL returns it, `GET /upload` lists the names.

use std::fs::{self, File};
use std::io::{self, Read, Write};

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasi::io::streams::StreamError;

/// The directory, as `upload.toml` names it.
const UPLOADS: &str = "/uploads";

/// What one `blocking-write-and-flush` takes.
const PART: usize = 4096;

struct Upload;

wasi::http::proxy::export!(Upload);

impl Guest for Upload {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let name = path.split_once("?name=").map(|(_, name)| name);
        match (request.method(), name) {
            (Method::Get, None) => match names() {
                Ok(names) => answer(out, 200, &mut names.as_bytes()),
                Err(error) => fail(out, 500, &error),
            },
            (_, None) => answer(out, 400, &mut &b"which name?\n"[..]),
            (_, Some(name)) if !is_file_name(name) => {
                answer(out, 400, &mut &b"not a file name\n"[..]);
            }
            (Method::Get, Some(name)) => match File::open(format!("{UPLOADS}/{name}")) {
                Ok(mut file) => answer(out, 200, &mut file),
                Err(error) => fail(out, 404, &error),
            },
            (Method::Put | Method::Post, Some(name)) => match store(&request, name) {
                Ok(count) => answer(out, 201, &mut format!("{count} bytes\n").as_bytes()),
                Err(error) => fail(out, 500, &error),
            },
            _ => answer(out, 405, &mut &b"GET, PUT or POST\n"[..]),
        }
    }
}

/// Whether `name` is one plain name: no path, no hidden file, nothing that is encoded.
fn is_file_name(name: &str) -> bool {
    !name.starts_with('.')
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn names() -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(UPLOADS)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| is_file_name(name));
    names.sort();
    Ok(names.iter().map(|name| format!("{name}\n")).collect())
}

/// Writes the body to a hidden file, which gets its name when it is complete: nobody reads half an
/// upload.
fn store(request: &IncomingRequest, name: &str) -> io::Result<usize> {
    let hidden = format!(
        "{UPLOADS}/.{name}.{:x}",
        wasi::random::random::get_random_u64()
    );
    let copied = copy(request, &hidden)
        .and_then(|count| fs::rename(&hidden, format!("{UPLOADS}/{name}")).map(|()| count));
    if copied.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&hidden);
    }
    copied
}

fn copy(request: &IncomingRequest, path: &str) -> io::Result<usize> {
    let no_body = |()| io::Error::other("the body was taken before");
    let body = request.consume().map_err(no_body)?;
    let stream = body.stream().map_err(no_body)?;
    let mut file = File::create(path)?;
    let mut count = 0;
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(part) => {
                file.write_all(&part)?;
                count += part.len();
            }
            Err(StreamError::Closed) => return Ok(count),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// The log has the cause.
fn fail(out: ResponseOutparam, status: u16, error: &io::Error) {
    eprintln!("{error}");
    answer(out, status, &mut &b"that did not work\n"[..]);
}

fn answer(out: ResponseOutparam, status: u16, source: &mut dyn Read) {
    let response = OutgoingResponse::new(Fields::new());
    let (Ok(()), Ok(body)) = (response.set_status_code(status), response.body()) else {
        unreachable!("a fresh answer takes a valid status and has its body");
    };
    ResponseOutparam::set(out, Ok(response));
    // Without an end, the caller sees that the body is not complete.
    match send(&body, source) {
        Ok(()) => drop(OutgoingBody::finish(body, None)),
        Err(error) => eprintln!("the answer broke off: {error}"),
    }
}

fn send(body: &OutgoingBody, source: &mut dyn Read) -> io::Result<()> {
    let stream = body
        .write()
        .map_err(|()| io::Error::other("the body has its stream"))?;
    let mut part = [0; PART];
    loop {
        let length = source.read(&mut part)?;
        if length == 0 {
            return Ok(());
        }
        stream
            .blocking_write_and_flush(&part[..length])
            .map_err(io::Error::other)?;
    }
}
