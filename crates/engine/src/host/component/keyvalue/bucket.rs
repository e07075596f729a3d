//! What all interfaces of `wasi:keyvalue` share: the bucket, errors, and charges for copies.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Lower, Resource, WasmList, WasmStr};
use wws_kv::Store;

use crate::host::no_memory::NoMemory;
use crate::host::state::Host;
use crate::memory::account::Charge;

/// Bytes of a key or a value that the host keeps besides its text.
pub(super) const ENTRY: u64 = 64;

/// The worker's namespace, as a guest holds it.
pub(super) struct Bucket {
    /// Where the next page begins.
    pub(super) listing: Option<Listing>,
}

/// The end of a page of keys.
pub(super) struct Listing {
    /// The number of keys up to here.
    pub(super) cursor: u64,
    /// The last of them.
    pub(super) last: String,
    pub(super) _charge: Charge,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum StoreError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

/// Why an operation ended.
pub(super) enum Failure {
    /// An error that the guest gets.
    Store(StoreError),
    /// The guest stops.
    Trap(wasmtime::Error),
}

pub(super) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self::Store(StoreError::Other(text.into()))
    }
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl From<wws_kv::Error> for Failure {
    fn from(error: wws_kv::Error) -> Self {
        Self::other(error.to_string())
    }
}

/// What a function returns to the guest.
pub(super) fn returned<T>(outcome: Outcome<T>) -> wasmtime::Result<(Result<T, StoreError>,)> {
    match outcome {
        Ok(value) => Ok((Ok(value),)),
        Err(Failure::Store(error)) => Ok((Err(error),)),
        Err(Failure::Trap(error)) => Err(error),
    }
}

pub(super) type HostStore<'a> = StoreContextMut<'a, Host>;

/// The store and the namespace of the guest that has this bucket.
pub(super) fn opened(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
) -> Outcome<(Arc<dyn Store>, Arc<str>)> {
    let host = store.data_mut();
    host.component().table.get(bucket).map_err(trap)?;
    namespace(host)
}

pub(super) fn namespace(host: &Host) -> Outcome<(Arc<dyn Store>, Arc<str>)> {
    match &host.grants.kv {
        Some(grant) => Ok((grant.store.clone(), grant.namespace.as_str().into())),
        None => Err(Failure::Store(StoreError::AccessDenied)),
    }
}

pub(super) fn trap(error: impl Into<wasmtime::Error>) -> Failure {
    Failure::Trap(error.into())
}

/// Charges `bytes` that the host copies out of the guest's memory.
pub(super) fn hold(store: &mut HostStore<'_>, bytes: u64) -> Outcome<Charge> {
    let host = store.data_mut();
    host.hold(bytes).map_err(|error| {
        host.refusal_was_handled();
        Failure::other(error.to_string())
    })
}

/// Charges `bytes` of what is returned to the guest, until the next result.
pub(super) fn hold_result(store: &mut HostStore<'_>, bytes: u64) -> Outcome<()> {
    store
        .data_mut()
        .component()
        .hold_result(bytes)
        .map_err(|error| Failure::other(error.to_string()))
}

/// A key, with the charge for it.
pub(super) fn key(store: &mut HostStore<'_>, key: &WasmStr) -> Outcome<(String, Charge)> {
    let len = key.to_str(&*store)?.len() as u64;
    let charge = hold(store, len + ENTRY)?;
    Ok((key.to_str(&*store)?.into_owned(), charge))
}

/// A value, with the charge for it.
pub(super) fn value(store: &mut HostStore<'_>, value: &WasmList<u8>) -> Outcome<(String, Charge)> {
    let charge = hold(store, value.len() as u64 + ENTRY)?;
    let bytes = value.as_le_slice(&*store);
    let text = std::str::from_utf8(bytes).map_err(|_| {
        Failure::other("the value is not UTF-8: values of the key/value store are text")
    })?;
    Ok((text.to_owned(), charge))
}

pub(super) fn grow(charge: &mut Charge, bytes: u64) -> Outcome<()> {
    if charge.grow_to(bytes) {
        return Ok(());
    }
    Err(Failure::other(NoMemory(bytes).to_string()))
}
