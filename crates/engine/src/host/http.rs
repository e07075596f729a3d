//! Outgoing HTTP for core modules: the import `http.send-http-request`, in the canonical ABI of
//! wit-bindgen 0.2.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use wasmtime::{Caller, Linker, Memory, Result, TypedFunc};
use wws_outbound::{Decode, ErrorKind};

use crate::host::outgoing::HttpFailure;
use crate::host::state::Host;
use crate::memory::account::Charge;

/// Most headers, and most parameters, of one request.
const MAX_PAIRS: u32 = 1024;

/// Most bytes of a request's headers, and of its URI with its parameters.
const MAX_TEXT: usize = 64 << 10;

/// Methods in the order of the interface's enumeration.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::HEAD,
];

/// The import's flattened parameters: body (tag, pointer, length), headers, method, params, uri,
/// return area.
type Params = (i32, u32, u32, u32, u32, i32, u32, u32, u32, u32, u32);

/// Defines the import.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap_async(
        "http",
        "send-http-request",
        |mut caller: Caller<'_, Host>, params: Params| {
            Box::new(async move {
                let return_area = params.10;
                let memory = caller
                    .get_export("memory")
                    .and_then(wasmtime::Extern::into_memory)
                    .ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?;
                if caller.data().in_allocator {
                    return Err(wasmtime::Error::msg(
                        "send-http-request was called by canonical_abi_realloc",
                    ));
                }
                // Nothing is copied for a guest that may not send requests.
                let result = match caller.data_mut().may_send_http() {
                    Err(failure) => Err(failure),
                    Ok(()) => {
                        let (bytes, host) = memory.data_and_store_mut(&mut caller);
                        match read_request(bytes, host, &params) {
                            Some(Ok((mut request, _charge))) => {
                                // A guest that asks for a content coding decodes it; for others,
                                // the client does.
                                request.extensions_mut().insert(Decode::IfUnasked);
                                caller.data_mut().send_allowed_http(request).await
                            }
                            Some(Err(failure)) => Err(failure),
                            None => {
                                return Err(wasmtime::Error::msg(
                                    "send-http-request: a pointer lies outside of memory",
                                ));
                            }
                        }
                    }
                };
                match result {
                    Ok(response) => {
                        write_response(&mut caller, memory, return_area, response).await
                    }
                    Err(failure) => write_failure(&mut caller, memory, return_area, failure).await,
                }
            })
        },
    )?;
    Ok(())
}

fn bytes(memory: &[u8], at: u32, len: u32) -> Option<&[u8]> {
    let at = at as usize;
    memory.get(at..at.checked_add(len as usize)?)
}

fn word(memory: &[u8], at: u32) -> Option<u32> {
    Some(u32::from_le_bytes(bytes(memory, at, 4)?.try_into().ok()?))
}

/// Reads a `list<tuple<string, string>>` without copying the strings.
fn pairs(memory: &[u8], at: u32, count: u32) -> Option<Vec<(&[u8], &[u8])>> {
    (0..count.min(MAX_PAIRS))
        .map(|index| {
            let at = at.checked_add(index.checked_mul(16)?)?;
            let field = |offset| word(memory, at.checked_add(offset)?);
            Some((
                bytes(memory, field(0)?, field(4)?)?,
                bytes(memory, field(8)?, field(12)?)?,
            ))
        })
        .collect()
}

fn invalid(message: impl Into<String>) -> HttpFailure {
    HttpFailure::new(ErrorKind::InvalidRequest, message)
}

/// The number of bytes of all names and values.
fn text_len(pairs: &[(&[u8], &[u8])]) -> usize {
    pairs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum()
}

/// Reads a request, and charges what is copied of it. Returns `None` if a pointer lies outside of
/// memory.
fn read_request(
    memory: &[u8],
    host: &mut Host,
    params: &Params,
) -> Option<Result<(Request<Bytes>, Charge), HttpFailure>> {
    let &(
        has_body,
        body,
        body_len,
        headers,
        headers_len,
        method,
        query,
        query_len,
        uri,
        uri_len,
        _,
    ) = params;
    let body = match has_body {
        0 => &[],
        _ => bytes(memory, body, body_len)?,
    };
    let headers = pairs(memory, headers, headers_len)?;
    let query = pairs(memory, query, query_len)?;
    let uri = bytes(memory, uri, uri_len)?;
    // Checks the sizes before anything is copied: a guest can name the same bytes a thousand times.
    if headers_len > MAX_PAIRS || text_len(&headers) > MAX_TEXT {
        return Some(Err(invalid(format!(
            "more than {MAX_PAIRS} headers, or than {MAX_TEXT} bytes of them"
        ))));
    }
    if query_len > MAX_PAIRS || uri.len().saturating_add(text_len(&query)) > MAX_TEXT {
        return Some(Err(invalid(format!(
            "more than {MAX_PAIRS} parameters, or than {MAX_TEXT} bytes of URI and parameters"
        ))));
    }
    // Percent-encoding makes a parameter three times as long.
    let charge = match host.hold((body.len() + 6 * MAX_TEXT) as u64) {
        Ok(charge) => charge,
        Err(error) => {
            return Some(Err(HttpFailure::new(
                ErrorKind::Internal,
                error.to_string(),
            )));
        }
    };
    let body = Bytes::copy_from_slice(body);
    Some(build_request(body, &headers, method, &query, uri).map(|request| (request, charge)))
}

fn build_request(
    body: Bytes,
    headers: &[(&[u8], &[u8])],
    method: i32,
    query: &[(&[u8], &[u8])],
    uri: &[u8],
) -> Result<Request<Bytes>, HttpFailure> {
    let method = usize::try_from(method)
        .ok()
        .and_then(|method| METHODS.get(method))
        .ok_or_else(|| invalid("unknown method"))?;
    let mut target =
        String::from_utf8(uri.to_vec()).map_err(|_| invalid("the URI is not UTF-8"))?;
    for (name, value) in query {
        target.push(if target.contains('?') { '&' } else { '?' });
        percent_encode(&mut target, name);
        target.push('=');
        percent_encode(&mut target, value);
    }
    let uri: Uri = target
        .parse()
        .map_err(|_| invalid("the URI is not valid"))?;
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    for (name, value) in headers {
        let name =
            HeaderName::from_bytes(name).map_err(|_| invalid("a header's name is not valid"))?;
        let value =
            HeaderValue::from_bytes(value).map_err(|_| invalid("a header's value is not valid"))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

/// Percent-encodes all but unreserved characters of a query's name or value (RFC 3986, 2.3).
fn percent_encode(out: &mut String, bytes: &[u8]) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(*byte as char);
            }
            _ => {
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
}

/// Allocates in the guest's memory with the guest's allocator.
struct GuestAllocator {
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
    memory: Memory,
}

impl GuestAllocator {
    fn of(caller: &mut Caller<'_, Host>, memory: Memory) -> Result<Self> {
        let realloc = caller
            .get_export("canonical_abi_realloc")
            .and_then(wasmtime::Extern::into_func)
            .ok_or_else(|| {
                wasmtime::Error::msg(
                    "the module exports no canonical_abi_realloc, which send-http-request needs",
                )
            })?
            .typed(&mut *caller)?;
        Ok(Self { realloc, memory })
    }

    async fn put(
        &self,
        caller: &mut Caller<'_, Host>,
        bytes: &[u8],
        align: u32,
    ) -> Result<(u32, u32)> {
        let len = u32::try_from(bytes.len())?;
        if len == 0 {
            return Ok((align, 0));
        }
        caller.data_mut().in_allocator = true;
        let at = self
            .realloc
            .call_async(&mut *caller, (0, 0, align, len))
            .await?;
        caller.data_mut().in_allocator = false;
        self.memory.write(&mut *caller, at as usize, bytes)?;
        Ok((at, len))
    }
}

async fn write_response(
    caller: &mut Caller<'_, Host>,
    memory: Memory,
    area: u32,
    response: Response<Bytes>,
) -> Result<()> {
    let allocator = GuestAllocator::of(caller, memory)?;
    let body = allocator.put(caller, response.body(), 1).await?;
    let mut list = Vec::with_capacity(response.headers().len() * 16);
    for (name, value) in response.headers() {
        // The interface's strings are UTF-8. Other values are read as Latin-1, as in the worker
        // protocol.
        let value: String = match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => value.to_owned(),
            Err(_) => value.as_bytes().iter().map(|b| *b as char).collect(),
        };
        for text in [name.as_str(), &value] {
            let (at, len) = allocator.put(caller, text.as_bytes(), 1).await?;
            list.extend_from_slice(&at.to_le_bytes());
            list.extend_from_slice(&len.to_le_bytes());
        }
    }
    let count = u32::try_from(response.headers().len())?;
    let (headers, _) = allocator.put(caller, &list, 4).await?;
    let mut out = [0u8; 28];
    out[4] = 1;
    out[8..12].copy_from_slice(&body.0.to_le_bytes());
    out[12..16].copy_from_slice(&body.1.to_le_bytes());
    out[16..20].copy_from_slice(&headers.to_le_bytes());
    out[20..24].copy_from_slice(&count.to_le_bytes());
    out[24..26].copy_from_slice(&response.status().as_u16().to_le_bytes());
    memory.write(&mut *caller, area as usize, &out)?;
    Ok(())
}

async fn write_failure(
    caller: &mut Caller<'_, Host>,
    memory: Memory,
    area: u32,
    failure: HttpFailure,
) -> Result<()> {
    let allocator = GuestAllocator::of(caller, memory)?;
    let (at, len) = allocator.put(caller, failure.message.as_bytes(), 1).await?;
    let mut out = [0u8; 16];
    out[0] = 1;
    out[4] = failure.kind as u8;
    out[8..12].copy_from_slice(&at.to_le_bytes());
    out[12..16].copy_from_slice(&len.to_le_bytes());
    memory.write(&mut *caller, area as usize, &out)?;
    Ok(())
}
