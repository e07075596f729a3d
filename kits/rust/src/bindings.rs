//! What the server does for a worker beyond the request it answers: outgoing HTTP.
//!
//! The import `http.send-http-request` in the interface that workers have had since the first
//! version (`docs/reference/guest-protocol.md`), written by hand: it is one function.

// Half of it is for tests only where there is no server.
#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

use std::fmt;

use http::{HeaderName, HeaderValue, Method, Request, Response};

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// The request is none that can be sent.
    InvalidRequest,
    /// The request's body cannot be sent.
    InvalidRequestBody,
    /// The response's body is broken off, or larger than is allowed.
    InvalidResponseBody,
    /// The worker's TOML does not allow this host, method or scheme, or the address is one that
    /// nobody may reach.
    NotAllowed,
    /// Anything else: no such host, no connection, a certificate that is not trusted.
    InternalError,
    /// The answer took too long.
    Timeout,
    /// Too many redirects.
    RedirectLoop,
}

/// A request that got no response.
#[derive(Clone, Debug)]
pub struct HttpRequestError {
    /// What kind of failure it is.
    pub error: HttpError,
    /// The server's words, for the log.
    pub message: String,
}

impl fmt::Display for HttpRequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.error {
            HttpError::InvalidRequest => "invalid-request",
            HttpError::InvalidRequestBody => "invalid-request-body",
            HttpError::InvalidResponseBody => "invalid-response-body",
            HttpError::NotAllowed => "not-allowed",
            HttpError::InternalError => "internal-error",
            HttpError::Timeout => "timeout",
            HttpError::RedirectLoop => "redirect-loop",
        };
        write!(f, "{kind}: {}", self.message)
    }
}

impl std::error::Error for HttpRequestError {}

fn invalid(message: String) -> HttpRequestError {
    HttpRequestError {
        error: HttpError::InvalidRequest,
        message,
    }
}

/// Sends a request and waits for the whole response. The worker's TOML must allow its host and
/// method (`[features.http_requests]`).
///
/// # Errors
/// It is not allowed, or there is no response. A response of any status is none.
pub fn send_http_request<T: Into<Vec<u8>>>(
    request: Request<T>,
) -> Result<Response<Vec<u8>>, HttpRequestError> {
    let (head, body) = request.into_parts();
    let method = number(&head.method)?;
    let uri = head.uri.to_string();
    let body: Vec<u8> = body.into();
    let mut headers = Vec::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| invalid(format!("the value of the header {name} is not UTF-8")))?;
        headers.push(Pair(Slice::of(name.as_str()), Slice::of(value)));
    }
    call(&body, &headers, method, &uri)
}

/// The method as the interface counts them.
fn number(method: &Method) -> Result<i32, HttpRequestError> {
    const METHODS: [Method; 7] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::HEAD,
    ];
    let place = METHODS.iter().position(|known| known == method);
    place
        .and_then(|place| i32::try_from(place).ok())
        .ok_or_else(|| invalid(format!("the method {method} cannot be sent")))
}

/// A string of the interface: where it is and how long.
#[repr(C)]
struct Slice(*const u8, usize);

impl Slice {
    fn of(text: &str) -> Self {
        Self(text.as_ptr(), text.len())
    }
}

/// A header of the interface: name and value.
#[repr(C)]
struct Pair(Slice, Slice);

/// Bytes of the area that the server fills.
const AREA: usize = 28;

/// The area that the server fills, aligned as its widest field.
#[repr(C, align(4))]
struct Area([u8; AREA]);

impl Area {
    fn word(&self, at: usize) -> u32 {
        let bytes = [self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]];
        u32::from_le_bytes(bytes)
    }

    /// Reads the result. `take` makes bytes of the guest's memory its own, by address and length.
    fn read(
        &self,
        mut take: impl FnMut(u32, u32) -> Vec<u8>,
    ) -> Result<Response<Vec<u8>>, HttpRequestError> {
        if self.0[0] != 0 {
            return Err(HttpRequestError {
                error: error(self.0[4]),
                message: String::from_utf8_lossy(&take(self.word(8), self.word(12))).into_owned(),
            });
        }
        let mut response = Response::new(Vec::new());
        if self.0[4] != 0 {
            *response.body_mut() = take(self.word(8), self.word(12));
        }
        let (list, count) = (self.word(16), self.word(20));
        let list = take(list, count.saturating_mul(16));
        for pair in list.chunks_exact(16) {
            let word = |at: usize| {
                u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]])
            };
            let (name, value) = (take(word(0), word(4)), take(word(8), word(12)));
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(&name), HeaderValue::try_from(value))
            {
                response.headers_mut().append(name, value);
            }
        }
        let status = u16::from_le_bytes([self.0[24], self.0[25]]);
        *response.status_mut() = status.try_into().map_err(|_| HttpRequestError {
            error: HttpError::InternalError,
            message: format!("the response has the status {status}"),
        })?;
        Ok(response)
    }
}

fn error(number: u8) -> HttpError {
    match number {
        0 => HttpError::InvalidRequest,
        1 => HttpError::InvalidRequestBody,
        2 => HttpError::InvalidResponseBody,
        3 => HttpError::NotAllowed,
        5 => HttpError::Timeout,
        6 => HttpError::RedirectLoop,
        _ => HttpError::InternalError,
    }
}

#[cfg(target_arch = "wasm32")]
fn call(
    body: &[u8],
    headers: &[Pair],
    method: i32,
    uri: &str,
) -> Result<Response<Vec<u8>>, HttpRequestError> {
    let mut area = Area([0; AREA]);
    // SAFETY: all pointers are of slices that outlive the call with the lengths beside them, and
    // the area has the size and alignment of the interface's result.
    unsafe {
        abi::send_http_request(
            i32::from(!body.is_empty()),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            method,
            std::ptr::dangling(),
            0,
            uri.as_ptr(),
            uri.len(),
            &raw mut area,
        );
    }
    area.read(|at, length| {
        if length == 0 {
            return Vec::new();
        }
        let (at, length) = (at as *mut u8, length as usize);
        // SAFETY: the server put these bytes into memory that it took from `canonical_abi_realloc`
        // with this length and an alignment that may be larger than a byte's: they are copied, and
        // what they lie in ends with the process.
        unsafe { std::slice::from_raw_parts(at, length) }.to_vec()
    })
}

/// Outside of a worker there is no server to send it.
#[cfg(not(target_arch = "wasm32"))]
fn call(
    _body: &[u8],
    _headers: &[Pair],
    _method: i32,
    _uri: &str,
) -> Result<Response<Vec<u8>>, HttpRequestError> {
    Err(HttpRequestError {
        error: HttpError::InternalError,
        message: "only a worker can send requests, not a native program".to_owned(),
    })
}

#[cfg(target_arch = "wasm32")]
mod abi {
    use std::alloc::{Layout, alloc, handle_alloc_error, realloc};

    use super::{Area, Pair};

    #[link(wasm_import_module = "http")]
    unsafe extern "C" {
        #[link_name = "send-http-request"]
        pub(super) fn send_http_request(
            has_body: i32,
            body: *const u8,
            body_length: usize,
            headers: *const Pair,
            headers_length: usize,
            method: i32,
            params: *const Pair,
            params_length: usize,
            uri: *const u8,
            uri_length: usize,
            result: *mut Area,
        );
    }

    /// Memory for what the server hands over.
    ///
    /// # Safety
    /// `old` is null, or was given by this function for `old_size` bytes of the same alignment, a
    /// power of two.
    #[unsafe(export_name = "canonical_abi_realloc")]
    unsafe extern "C" fn canonical_abi_realloc(
        old: *mut u8,
        old_size: usize,
        align: usize,
        new_size: usize,
    ) -> *mut u8 {
        if new_size == 0 {
            return align as *mut u8;
        }
        // SAFETY: the caller keeps to the alignment; a size beyond memory is refused by the
        // allocator.
        let new = unsafe {
            let layout = Layout::from_size_align_unchecked(new_size, align);
            let at = if old_size == 0 {
                alloc(layout)
            } else {
                realloc(
                    old,
                    Layout::from_size_align_unchecked(old_size, align),
                    new_size,
                )
            };
            if at.is_null() {
                handle_alloc_error(layout);
            }
            at
        };
        new
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The guest's memory: what is at which address.
    fn memory(at: u32, length: u32) -> Vec<u8> {
        let mut list = Vec::new();
        for word in [
            300u32, 3, 310, 3, 320, 10, 330, 3, 320, 10, 333, 3, 340, 3, 310, 3,
        ] {
            list.extend_from_slice(&word.to_le_bytes());
        }
        let bytes: &[u8] = match at {
            100 => b"a body",
            200 => &list,
            300 => b"x-a",
            310 => b"a b",
            320 => b"set-cookie",
            330 => b"a=1",
            333 => b"b=2",
            340 => b"n o",
            400 => b"why",
            _ => unreachable!("{at}"),
        };
        assert_eq!(bytes.len(), length as usize);
        bytes.to_vec()
    }

    fn area(fields: &[(usize, u32)]) -> Area {
        let mut area = Area([0; AREA]);
        for (at, value) in fields {
            area.0[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
        }
        area
    }

    #[test]
    fn a_response_is_read_from_memory() {
        let area = area(&[(4, 1), (8, 100), (12, 6), (16, 200), (20, 4), (24, 404)]);
        let response = area.read(memory).unwrap();
        assert_eq!(response.status(), 404);
        assert_eq!(response.body(), b"a body");
        assert_eq!(response.headers()["x-a"], "a b");
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        // The name with a space is no header: left out.
        assert_eq!(response.headers().len(), 3);
    }

    #[test]
    fn a_response_without_a_body() {
        let area = area(&[(8, 100), (12, 6), (16, 4), (24, 204)]);
        let response = area.read(|_, length| vec![0; length as usize]).unwrap();
        assert_eq!(
            (response.status().as_u16(), response.body().len()),
            (204, 0)
        );
    }

    #[test]
    fn an_error_is_read_from_memory() {
        let error = area(&[(0, 1), (4, 3), (8, 400), (12, 3)])
            .read(memory)
            .unwrap_err();
        assert_eq!(error.error, HttpError::NotAllowed);
        assert_eq!(error.to_string(), "not-allowed: why");
    }

    #[test]
    fn rejects_an_invalid_status() {
        let error = area(&[(24, 7)]).read(|_, _| Vec::new()).unwrap_err();
        assert!(error.message.contains("status 7"));
    }

    #[test]
    fn methods_are_numbered_as_the_interface_does() {
        assert_eq!(number(&Method::GET).unwrap(), 0);
        assert_eq!(number(&Method::PATCH).unwrap(), 3);
        assert_eq!(number(&Method::HEAD).unwrap(), 6);
        let error = number(&Method::TRACE).unwrap_err();
        assert!(error.message.contains("TRACE"));
    }

    #[test]
    fn explains_that_a_native_program_cannot_serve() {
        let request = Request::get("https://a.example/").body("").unwrap();
        let error = send_http_request(request).unwrap_err();
        assert!(error.message.contains("native"));
    }
}
