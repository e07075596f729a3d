//! Bounds of `wasi:http`: headers, and what requests and responses hold, are charged.

use std::collections::HashMap;

use wasmtime::StoreContextMut;
use wasmtime::component::{
    ComponentType, Lift, Linker, LinkerInstance, Resource, ResourceType, WasmList, WasmStr,
};
use wasmtime_wasi_http::p2::bindings::http::types::{
    self as wasi_http, HeaderError as GuestHeaderError, Host as _, HostFields,
    HostOutgoingRequest as _, Method, Scheme,
};
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::p2::{HeaderError, HeaderResult};
use wasmtime_wasi_http::{FieldMap, WasiHttpView as _};

use crate::host::component::{MAX_FIELDS, VERSION};
use crate::host::state::{Host, NoMemory};
use crate::memory::account::Charge;

/// Bytes of a set of headers besides its names and values.
const EMPTY_FIELDS: u64 = 256;

/// Bytes of a name with its value besides their text.
const FIELD: u64 = 96;

/// Bytes of a request or a response, and of its body, besides headers and what was written.
const MESSAGE: u64 = 4 << 10;

/// Bytes of all that a component's resources of `wasi:http` hold, by the resource's number. What a
/// resource held that was passed on counts until the end of the call.
pub(super) struct HeldBytes {
    charge: Charge,
    total: u64,
    of: HashMap<u32, u64>,
}

impl HeldBytes {
    pub(super) fn new(charge: Charge) -> Self {
        Self {
            charge,
            total: 0,
            of: HashMap::new(),
        }
    }

    /// Charges bytes that no resource holds yet.
    fn take(&mut self, bytes: u64) -> Result<(), NoMemory> {
        if !self.charge.grow_to(self.total + bytes) {
            return Err(NoMemory(bytes));
        }
        self.total += bytes;
        Ok(())
    }

    /// Records that a new resource holds bytes that were taken.
    fn created(&mut self, rep: u32, bytes: u64) {
        self.of.insert(rep, bytes);
    }

    /// Charges more bytes of a resource.
    fn grow(&mut self, rep: u32, bytes: u64) -> Result<(), NoMemory> {
        self.take(bytes)?;
        *self.of.entry(rep).or_default() += bytes;
        Ok(())
    }

    /// Records that what a resource held is now held by another.
    fn moved(&mut self, from: u32) -> u64 {
        self.of.remove(&from).unwrap_or(0)
    }

    /// Releases what a resource held.
    fn dropped(&mut self, rep: u32) {
        self.release(self.of.get(&rep).copied().unwrap_or(0));
        self.of.remove(&rep);
    }

    fn release(&mut self, bytes: u64) {
        self.total -= bytes;
        self.charge.shrink_to(self.total);
    }
}

type HostStore<'a> = StoreContextMut<'a, Host>;

fn returned<T>(
    store: &mut HostStore<'_>,
    result: HeaderResult<T>,
) -> wasmtime::Result<(Result<T, GuestHeaderError>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(store.data_mut().http().convert_header_error(error)?),)),
    }
}

fn held<'a>(store: &'a mut HostStore<'_>) -> &'a mut HeldBytes {
    &mut store.data_mut().component().held
}

/// Rejects a set of headers that would be too large before anything of it is copied.
fn check(bytes: u64) -> wasmtime::Result<()> {
    if bytes > MAX_FIELDS as u64 {
        wasmtime::bail!("a set of headers of more than {MAX_FIELDS} bytes");
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
    check(text.len() as u64)?;
    Ok(text.into_owned())
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:http/types@{VERSION}"))?;
    sets(&mut types)?;
    changes(&mut types)?;
    requests(&mut types)?;
    responses(&mut types)
}

/// How sets of headers are created, read and dropped.
fn sets(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.func_wrap("[constructor]fields", |mut store: HostStore<'_>, (): ()| {
        held(&mut store).take(EMPTY_FIELDS)?;
        let fields = HostFields::new(&mut store.data_mut().http())?;
        held(&mut store).created(fields.rep(), EMPTY_FIELDS);
        Ok((fields,))
    })?;
    types.func_wrap(
        "[static]fields.from-list",
        |mut store: HostStore<'_>, (list,): (WasmList<(WasmStr, WasmList<u8>)>,)| {
            let fields = from_list(&mut store, &list);
            returned(&mut store, fields)
        },
    )?;
    types.func_wrap(
        "[method]fields.clone",
        |mut store: HostStore<'_>, (fields,): (Resource<FieldMap>,)| {
            let bytes = size(store.data_mut().component().table.get(&fields)?);
            held(&mut store).take(bytes)?;
            let copy = HostFields::clone(&mut store.data_mut().http(), fields)?;
            held(&mut store).created(copy.rep(), bytes);
            Ok((copy,))
        },
    )?;
    types.func_wrap(
        "[method]fields.get",
        |mut store: HostStore<'_>, (fields, name): (Resource<FieldMap>, WasmStr)| {
            let name = text(&store, &name)?;
            Ok((HostFields::get(&mut store.data_mut().http(), fields, name)?,))
        },
    )?;
    types.func_wrap(
        "[method]fields.has",
        |mut store: HostStore<'_>, (fields, name): (Resource<FieldMap>, WasmStr)| {
            let name = text(&store, &name)?;
            Ok((HostFields::has(&mut store.data_mut().http(), fields, name)?,))
        },
    )?;
    types.resource(
        "fields",
        ResourceType::host::<FieldMap>(),
        |mut store, rep| {
            HostFields::drop(&mut store.data_mut().http(), Resource::new_own(rep))?;
            held(&mut store).dropped(rep);
            Ok(())
        },
    )
}

fn from_list(
    store: &mut HostStore<'_>,
    list: &WasmList<(WasmStr, WasmList<u8>)>,
) -> HeaderResult<Resource<FieldMap>> {
    let mut bytes = EMPTY_FIELDS;
    let mut entries = Vec::new();
    for index in 0..list.len() {
        let entry = list.get(&mut *store, index).transpose();
        let Some((name, value)) = entry.map_err(HeaderError::trap)? else {
            break;
        };
        bytes += FIELD + value.len() as u64;
        check(bytes).map_err(HeaderError::trap)?;
        let name = text(store, &name).map_err(HeaderError::trap)?;
        bytes += name.len() as u64;
        check(bytes).map_err(HeaderError::trap)?;
        entries.push((name, value.as_le_slice(&*store).to_vec()));
    }
    held(store).take(bytes).map_err(HeaderError::trap)?;
    let fields = store.data_mut().http().from_list(entries);
    match &fields {
        Ok(fields) => held(store).created(fields.rep(), bytes),
        Err(_) => held(store).release(bytes),
    }
    fields
}

/// How sets of headers are changed.
fn changes(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Setting = (Resource<FieldMap>, WasmStr, WasmList<WasmList<u8>>);
    types.func_wrap(
        "[method]fields.set",
        |mut store: HostStore<'_>, (fields, name, list): Setting| {
            let name = text(&store, &name)?;
            let mut bytes = name.len() as u64;
            let mut values = Vec::new();
            for index in 0..list.len() {
                let Some(value) = list.get(&mut store, index).transpose()? else {
                    break;
                };
                bytes += FIELD + value.len() as u64;
                check(bytes)?;
                values.push(value.as_le_slice(&store).to_vec());
            }
            held(&mut store).grow(fields.rep(), bytes)?;
            let set = HostFields::set(&mut store.data_mut().http(), fields, name, values);
            returned(&mut store, set)
        },
    )?;
    types.func_wrap(
        "[method]fields.append",
        |mut store: HostStore<'_>,
         (fields, name, value): (Resource<FieldMap>, WasmStr, WasmList<u8>)| {
            let name = text(&store, &name)?;
            let bytes = FIELD + (name.len() + value.len()) as u64;
            check(bytes)?;
            held(&mut store).grow(fields.rep(), bytes)?;
            let value = value.as_le_slice(&store).to_vec();
            let appended = HostFields::append(&mut store.data_mut().http(), fields, name, value);
            returned(&mut store, appended)
        },
    )?;
    types.func_wrap(
        "[method]fields.delete",
        |mut store: HostStore<'_>, (fields, name): (Resource<FieldMap>, WasmStr)| {
            let name = text(&store, &name)?;
            let deleted = HostFields::delete(&mut store.data_mut().http(), fields, name);
            returned(&mut store, deleted)
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
            let request = wasi_http::HostOutgoingRequest::new(view, headers)?;
            held(&mut store).created(request.rep(), bytes);
            Ok((request,))
        },
    )?;
    types.resource(
        "outgoing-request",
        ResourceType::host::<HostOutgoingRequest>(),
        |mut store, rep| {
            let view = &mut store.data_mut().http();
            wasi_http::HostOutgoingRequest::drop(view, Resource::new_own(rep))?;
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
            Ok((store.data_mut().http().set_method(request, method)?,))
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
            Ok((store.data_mut().http().set_scheme(request, scheme)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: HostStore<'_>, (request, authority): Naming<Option<WasmStr>>| {
            let authority = authority.map(|name| named(&mut store, &request, &name));
            let authority = authority.transpose()?;
            Ok((store.data_mut().http().set_authority(request, authority)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: HostStore<'_>, (request, path): Naming<Option<WasmStr>>| {
            let path = path.map(|name| named(&mut store, &request, &name));
            let path = path.transpose()?;
            Ok((store.data_mut().http().set_path_with_query(request, path)?,))
        },
    )
}

/// A part of a request, which is charged.
fn named(
    store: &mut HostStore<'_>,
    request: &Resource<HostOutgoingRequest>,
    name: &WasmStr,
) -> wasmtime::Result<String> {
    let bytes = name.to_str(&*store)?.len() as u64;
    check(bytes)?;
    held(store).grow(request.rep(), bytes)?;
    text(store, name)
}

fn responses(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[constructor]outgoing-response",
        |mut store: HostStore<'_>, (headers,): (Resource<FieldMap>,)| {
            held(&mut store).take(MESSAGE)?;
            let bytes = held(&mut store).moved(headers.rep()) + MESSAGE;
            let view = &mut store.data_mut().http();
            let response = wasi_http::HostOutgoingResponse::new(view, headers)?;
            held(&mut store).created(response.rep(), bytes);
            Ok((response,))
        },
    )?;
    types.resource(
        "outgoing-response",
        ResourceType::host::<HostOutgoingResponse>(),
        |mut store, rep| {
            let view = &mut store.data_mut().http();
            wasi_http::HostOutgoingResponse::drop(view, Resource::new_own(rep))?;
            held(&mut store).dropped(rep);
            Ok(())
        },
    )
}
