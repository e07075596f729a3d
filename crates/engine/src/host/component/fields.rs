//! Bounds of `wasi:http`: headers, and what requests and responses hold, are charged.

use http::HeaderName;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList, WasmStr,
};
use wasmtime_wasi_http::p2::bindings::http::types::{
    self as p2, HostOutgoingRequest as SetRequest, Method, Scheme,
};
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::p3::Request;
use wasmtime_wasi_http::p3::bindings::http::types::{self as p3, HostRequest};
use wasmtime_wasi_http::{FieldMap, FieldMapError, WasiHttpView as _};

use crate::host::component::held::HeldBytes;
use crate::host::component::io::MAX_FIELDS;
use crate::host::component::version::{ASYNC_VERSION, VERSION};
use crate::host::state::Host;

/// Bytes of a set of headers besides its names and values.
const EMPTY_FIELDS: u64 = 256;

/// Bytes of a name with its value besides their text.
const FIELD: u64 = 96;

/// Bytes of a request or a response, and of its body, besides headers and what was written.
const MESSAGE: u64 = 4 << 10;

type HostStore<'a> = StoreContextMut<'a, Host>;

/// Why a set of headers was not changed, as a version of `wasi:http` has it.
trait FieldsFailure: ComponentType + Lower + Send + Sync + 'static {
    fn new(error: FieldMapError) -> wasmtime::Result<Self>
    where
        Self: Sized;
}

impl FieldsFailure for p2::HeaderError {
    fn new(error: FieldMapError) -> wasmtime::Result<Self> {
        match error {
            FieldMapError::Immutable => Ok(Self::Immutable),
            FieldMapError::Forbidden => Ok(Self::Forbidden),
            FieldMapError::InvalidHeaderName | FieldMapError::InvalidHeaderValue => {
                Ok(Self::InvalidSyntax)
            }
            FieldMapError::TooManyFields | FieldMapError::TotalSizeTooBig => Err(error.into()),
        }
    }
}

impl FieldsFailure for p3::HeaderError {
    fn new(error: FieldMapError) -> wasmtime::Result<Self> {
        Ok(match error {
            FieldMapError::Immutable => Self::Immutable,
            FieldMapError::Forbidden => Self::Forbidden,
            FieldMapError::InvalidHeaderName | FieldMapError::InvalidHeaderValue => {
                Self::InvalidSyntax
            }
            FieldMapError::TooManyFields | FieldMapError::TotalSizeTooBig => Self::SizeExceeded,
        })
    }
}

/// What a function returns to the guest.
fn returned<T, E: FieldsFailure>(
    result: Result<T, FieldMapError>,
) -> wasmtime::Result<(Result<T, E>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(E::new(error)?),)),
    }
}

fn held<'a>(store: &'a mut HostStore<'_>) -> &'a mut HeldBytes {
    &mut store.data_mut().component().held
}

/// Rejects a set of headers that would be too large before anything of it is copied.
fn check(bytes: u64) -> Result<(), FieldMapError> {
    if bytes > MAX_FIELDS as u64 {
        return Err(FieldMapError::TotalSizeTooBig);
    }
    Ok(())
}

/// Bytes of a set of headers.
fn size(fields: &FieldMap) -> u64 {
    let names: usize = fields.keys().map(|name| name.as_str().len()).sum();
    let values: usize = fields.values().map(|value| value.len()).sum();
    EMPTY_FIELDS + (names + values) as u64 + fields.len() as u64 * FIELD
}

/// A text that is no longer than headers may be.
fn text(store: &HostStore<'_>, text: &WasmStr) -> wasmtime::Result<String> {
    let text = text.to_str(store)?;
    if text.len() > MAX_FIELDS {
        wasmtime::bail!("a text of {} bytes; at most {MAX_FIELDS}", text.len());
    }
    Ok(text.into_owned())
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:http/types@{VERSION}"))?;
    sets::<p2::HeaderError>(&mut types)?;
    changes::<p2::HeaderError>(&mut types)?;
    requests(&mut types)?;
    responses(&mut types)
}

/// Bounds headers and requests of `wasi:http` 0.3.
pub(super) fn add_async_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:http/types@{ASYNC_VERSION}"))?;
    sets::<p3::HeaderError>(&mut types)?;
    changes::<p3::HeaderError>(&mut types)?;
    async_requests(&mut types)
}

/// How sets of headers are created, read and dropped.
fn sets<E: FieldsFailure>(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.func_wrap("[constructor]fields", |mut store: HostStore<'_>, (): ()| {
        held(&mut store).take(EMPTY_FIELDS)?;
        let fields = FieldMap::new_mutable(MAX_FIELDS);
        Ok((push(&mut store, fields, EMPTY_FIELDS)?,))
    })?;
    types.func_wrap(
        "[static]fields.from-list",
        |mut store: HostStore<'_>, (list,): (WasmList<(WasmStr, WasmList<u8>)>,)| match from_list(
            &mut store, &list,
        )? {
            Ok((fields, bytes)) => returned::<_, E>(Ok(push(&mut store, fields, bytes)?)),
            Err(error) => returned(Err(error)),
        },
    )?;
    types.func_wrap(
        "[method]fields.clone",
        |mut store: HostStore<'_>, (fields,): (Resource<FieldMap>,)| {
            let table = &mut store.data_mut().component().table;
            // The entries are copied when one of the two is changed.
            let mut copy = table.get(&fields)?.clone();
            copy.set_mutable(MAX_FIELDS);
            let bytes = size(&copy);
            held(&mut store).take(bytes)?;
            Ok((push(&mut store, copy, bytes)?,))
        },
    )?;
    types.func_wrap(
        "[method]fields.get",
        |mut store: HostStore<'_>, (fields, name): (Resource<FieldMap>, WasmStr)| {
            let name = HeaderName::from_bytes(text(&store, &name)?.as_bytes());
            let fields = store.data_mut().component().table.get(&fields)?;
            let values: Vec<Vec<u8>> = match name {
                Ok(name) => fields
                    .get_all(name)
                    .iter()
                    .map(|value| value.as_bytes().to_vec())
                    .collect(),
                Err(_) => Vec::new(),
            };
            Ok((values,))
        },
    )?;
    types.func_wrap(
        "[method]fields.has",
        |mut store: HostStore<'_>, (fields, name): (Resource<FieldMap>, WasmStr)| {
            let name = HeaderName::from_bytes(text(&store, &name)?.as_bytes());
            let fields = store.data_mut().component().table.get(&fields)?;
            Ok((name.is_ok_and(|name| fields.contains_key(name)),))
        },
    )?;
    types.resource(
        "fields",
        ResourceType::host::<FieldMap>(),
        |mut store, rep| {
            let fields = Resource::<FieldMap>::new_own(rep);
            store.data_mut().component().table.delete(fields)?;
            held(&mut store).dropped(rep);
            Ok(())
        },
    )
}

/// Adds a set of headers, whose bytes were taken.
fn push(
    store: &mut HostStore<'_>,
    fields: FieldMap,
    bytes: u64,
) -> wasmtime::Result<Resource<FieldMap>> {
    let fields = store.data_mut().component().table.push(fields)?;
    held(store).created(fields.rep(), bytes);
    Ok(fields)
}

type FieldList = WasmList<(WasmStr, WasmList<u8>)>;

/// A set of headers, and its bytes, which are taken.
fn from_list(
    store: &mut HostStore<'_>,
    list: &FieldList,
) -> wasmtime::Result<Result<(FieldMap, u64), FieldMapError>> {
    let mut bytes = EMPTY_FIELDS;
    let mut fields = FieldMap::new_mutable(MAX_FIELDS);
    held(store).take(EMPTY_FIELDS)?;
    for index in 0..list.len() {
        let Some((name, value)) = list.get(&mut *store, index).transpose()? else {
            break;
        };
        let name_len = name.to_str(&*store)?.len();
        let more = FIELD + (name_len + value.len()) as u64;
        let appended = match check(bytes + more) {
            Ok(()) => {
                held(store).take(more)?;
                bytes += more;
                let name = text(store, &name)?;
                let value = value.as_le_slice(&*store).to_vec();
                let hooks = &mut store.data_mut().component().outgoing;
                fields.append(hooks, name, value)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = appended {
            held(store).release(bytes);
            return Ok(Err(error));
        }
    }
    Ok(Ok((fields, bytes)))
}

/// How sets of headers are changed.
fn changes<E: FieldsFailure>(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Setting = (Resource<FieldMap>, WasmStr, WasmList<WasmList<u8>>);
    types.func_wrap(
        "[method]fields.set",
        |mut store: HostStore<'_>, (fields, name, list): Setting| {
            let mut bytes = name.to_str(&store)?.len() as u64;
            let mut values = Vec::new();
            for index in 0..list.len() {
                let Some(value) = list.get(&mut store, index).transpose()? else {
                    break;
                };
                bytes += FIELD + value.len() as u64;
                if let Err(error) = check(bytes) {
                    return returned::<_, E>(Err(error));
                }
                values.push(value.as_le_slice(&store).to_vec());
            }
            let name = text(&store, &name)?;
            held(&mut store).grow(fields.rep(), bytes)?;
            let component = store.data_mut().component();
            let fields = component.table.get_mut(&fields)?;
            returned(fields.set(&mut component.outgoing, name, values))
        },
    )?;
    types.func_wrap(
        "[method]fields.append",
        |mut store: HostStore<'_>,
         (fields, name, value): (Resource<FieldMap>, WasmStr, WasmList<u8>)| {
            let name_len = name.to_str(&store)?.len();
            let bytes = FIELD + (name_len + value.len()) as u64;
            if let Err(error) = check(bytes) {
                return returned::<_, E>(Err(error));
            }
            let name = text(&store, &name)?;
            held(&mut store).grow(fields.rep(), bytes)?;
            let value = value.as_le_slice(&store).to_vec();
            let component = store.data_mut().component();
            let fields = component.table.get_mut(&fields)?;
            let appended = fields.append(&mut component.outgoing, name, value);
            returned(appended.map(|_| ()))
        },
    )?;
    types.func_wrap(
        "[method]fields.delete",
        |mut store: HostStore<'_>, (fields, name): (Resource<FieldMap>, WasmStr)| {
            let name = text(&store, &name)?;
            let component = store.data_mut().component();
            let fields = component.table.get_mut(&fields)?;
            let removed = fields.remove_all(&mut component.outgoing, name);
            returned::<_, E>(removed.map(|_| ()))
        },
    )
}

/// A method as a guest names it.
#[derive(ComponentType, Lift)]
#[component(variant)]
#[allow(dead_code, reason = "the guest makes the values")]
enum NamedMethod {
    #[component(name = "get")]
    Get,
    #[component(name = "head")]
    Head,
    #[component(name = "post")]
    Post,
    #[component(name = "put")]
    Put,
    #[component(name = "delete")]
    Delete,
    #[component(name = "connect")]
    Connect,
    #[component(name = "options")]
    Options,
    #[component(name = "trace")]
    Trace,
    #[component(name = "patch")]
    Patch,
    #[component(name = "other")]
    Other(WasmStr),
}

/// A scheme as a guest names it.
#[derive(ComponentType, Lift)]
#[component(variant)]
#[allow(dead_code, reason = "the guest makes the values")]
enum NamedScheme {
    #[component(name = "HTTP")]
    Http,
    #[component(name = "HTTPS")]
    Https,
    #[component(name = "other")]
    Other(WasmStr),
}

fn requests(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[constructor]outgoing-request",
        |mut store: HostStore<'_>, (headers,): (Resource<FieldMap>,)| {
            held(&mut store).take(MESSAGE)?;
            let bytes = held(&mut store).moved(headers.rep()) + MESSAGE;
            let view = &mut store.data_mut().http();
            let request = p2::HostOutgoingRequest::new(view, headers)?;
            held(&mut store).created(request.rep(), bytes);
            Ok((request,))
        },
    )?;
    types.resource(
        "outgoing-request",
        ResourceType::host::<HostOutgoingRequest>(),
        |mut store, rep| {
            let view = &mut store.data_mut().http();
            p2::HostOutgoingRequest::drop(view, Resource::new_own(rep))?;
            held(&mut store).dropped(rep);
            Ok(())
        },
    )?;
    type Naming<T> = (Resource<HostOutgoingRequest>, T);
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: HostStore<'_>, (request, method): Naming<NamedMethod>| {
            let method = match method {
                NamedMethod::Get => Method::Get,
                NamedMethod::Head => Method::Head,
                NamedMethod::Post => Method::Post,
                NamedMethod::Put => Method::Put,
                NamedMethod::Delete => Method::Delete,
                NamedMethod::Connect => Method::Connect,
                NamedMethod::Options => Method::Options,
                NamedMethod::Trace => Method::Trace,
                NamedMethod::Patch => Method::Patch,
                NamedMethod::Other(name) => Method::Other(named(&mut store, &request, &name)?),
            };
            let view = &mut store.data_mut().http();
            Ok((SetRequest::set_method(view, request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut store: HostStore<'_>, (request, scheme): Naming<Option<NamedScheme>>| {
            let scheme = match scheme {
                None => None,
                Some(NamedScheme::Http) => Some(Scheme::Http),
                Some(NamedScheme::Https) => Some(Scheme::Https),
                Some(NamedScheme::Other(name)) => {
                    Some(Scheme::Other(named(&mut store, &request, &name)?))
                }
            };
            let view = &mut store.data_mut().http();
            Ok((SetRequest::set_scheme(view, request, scheme)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: HostStore<'_>, (request, authority): Naming<Option<WasmStr>>| {
            let authority = authority.map(|name| named(&mut store, &request, &name));
            let authority = authority.transpose()?;
            let view = &mut store.data_mut().http();
            Ok((SetRequest::set_authority(view, request, authority)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: HostStore<'_>, (request, path): Naming<Option<WasmStr>>| {
            let path = path.map(|name| named(&mut store, &request, &name));
            let path = path.transpose()?;
            let view = &mut store.data_mut().http();
            Ok((SetRequest::set_path_with_query(view, request, path)?,))
        },
    )
}

/// A part of a request, which is charged.
fn named<R: 'static>(
    store: &mut HostStore<'_>,
    request: &Resource<R>,
    name: &WasmStr,
) -> wasmtime::Result<String> {
    let bytes = name.to_str(&*store)?.len().min(MAX_FIELDS) as u64;
    held(store).grow(request.rep(), bytes)?;
    text(store, name)
}

/// Parts of requests of `wasi:http` 0.3, which count until the end of the call.
fn async_requests(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Naming<T> = (Resource<Request>, T);
    types.func_wrap(
        "[method]request.set-method",
        |mut store: HostStore<'_>, (request, method): Naming<NamedMethod>| {
            let method = match method {
                NamedMethod::Get => p3::Method::Get,
                NamedMethod::Head => p3::Method::Head,
                NamedMethod::Post => p3::Method::Post,
                NamedMethod::Put => p3::Method::Put,
                NamedMethod::Delete => p3::Method::Delete,
                NamedMethod::Connect => p3::Method::Connect,
                NamedMethod::Options => p3::Method::Options,
                NamedMethod::Trace => p3::Method::Trace,
                NamedMethod::Patch => p3::Method::Patch,
                NamedMethod::Other(name) => p3::Method::Other(named(&mut store, &request, &name)?),
            };
            let view = &mut store.data_mut().http();
            Ok((HostRequest::set_method(view, request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-scheme",
        |mut store: HostStore<'_>, (request, scheme): Naming<Option<NamedScheme>>| {
            let scheme = match scheme {
                None => None,
                Some(NamedScheme::Http) => Some(p3::Scheme::Http),
                Some(NamedScheme::Https) => Some(p3::Scheme::Https),
                Some(NamedScheme::Other(name)) => {
                    Some(p3::Scheme::Other(named(&mut store, &request, &name)?))
                }
            };
            let view = &mut store.data_mut().http();
            Ok((HostRequest::set_scheme(view, request, scheme)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-authority",
        |mut store: HostStore<'_>, (request, authority): Naming<Option<WasmStr>>| {
            let authority = authority.map(|name| named(&mut store, &request, &name));
            let authority = authority.transpose()?;
            let view = &mut store.data_mut().http();
            Ok((HostRequest::set_authority(view, request, authority)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-path-with-query",
        |mut store: HostStore<'_>, (request, path): Naming<Option<WasmStr>>| {
            let path = path.map(|name| named(&mut store, &request, &name));
            let path = path.transpose()?;
            let view = &mut store.data_mut().http();
            Ok((HostRequest::set_path_with_query(view, request, path)?,))
        },
    )
}

fn responses(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[constructor]outgoing-response",
        |mut store: HostStore<'_>, (headers,): (Resource<FieldMap>,)| {
            held(&mut store).take(MESSAGE)?;
            let bytes = held(&mut store).moved(headers.rep()) + MESSAGE;
            let view = &mut store.data_mut().http();
            let response = p2::HostOutgoingResponse::new(view, headers)?;
            held(&mut store).created(response.rep(), bytes);
            Ok((response,))
        },
    )?;
    types.resource(
        "outgoing-response",
        ResourceType::host::<HostOutgoingResponse>(),
        |mut store, rep| {
            let view = &mut store.data_mut().http();
            p2::HostOutgoingResponse::drop(view, Resource::new_own(rep))?;
            held(&mut store).dropped(rep);
            Ok(())
        },
    )
}
