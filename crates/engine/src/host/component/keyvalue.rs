//! `wasi:keyvalue`: the worker's namespace of the key/value store.
//!
//! The two drafts that toolchains use differ in the types of a cursor and of a sum, in what
//! `get-many` returns, and in that only the second has compare-and-swap.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{
    ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList, WasmStr,
};
use wws_kv::{Change, ListQuery, PAGE_BYTES, Store};

use crate::host::no_memory::NoMemory;
use crate::host::slices::WorkSlices;
use crate::host::state::Host;
use crate::memory::account::Charge;

/// Most keys of one call of a batch function.
const MAX_BATCH: usize = 10_000;

/// Bytes of a key or a value that the host keeps besides its text.
const ENTRY: u64 = 64;

/// The worker's namespace, as a guest holds it.
struct Bucket {
    /// Where the next page begins.
    listing: Option<Listing>,
}

/// The end of a page of keys.
struct Listing {
    /// The number of keys up to here.
    cursor: u64,
    /// The last of them.
    last: String,
    _charge: Charge,
}

const UNKNOWN_CURSOR: &str =
    "the cursor is not the one that `list-keys` of this bucket returned last";

/// A key and the value that it had, for compare-and-swap.
struct Cas {
    key: String,
    /// `None`: the key was missing.
    seen: Option<String>,
    charge: Charge,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StoreError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(StoreError),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeyPage {
    #[component(name = "keys")]
    keys: Vec<String>,
    #[component(name = "cursor")]
    cursor: Option<u64>,
}

/// A page whose cursor is a text, as the second draft has it.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct TextKeyPage {
    #[component(name = "keys")]
    keys: Vec<String>,
    #[component(name = "cursor")]
    cursor: Option<String>,
}

/// Why an operation ended.
enum Failure {
    /// An error that the guest gets.
    Store(StoreError),
    /// The guest stops.
    Trap(wasmtime::Error),
}

type Outcome<T> = Result<T, Failure>;

impl Failure {
    fn other(text: impl Into<String>) -> Self {
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
fn returned<T>(outcome: Outcome<T>) -> wasmtime::Result<(Result<T, StoreError>,)> {
    match outcome {
        Ok(value) => Ok((Ok(value),)),
        Err(Failure::Store(error)) => Ok((Err(error),)),
        Err(Failure::Trap(error)) => Err(error),
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    for version in ["0.2.0-draft", "0.2.0-draft2"] {
        let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
        one_key(&mut store)?;
        if version == "0.2.0-draft" {
            list(&mut store)?;
        } else {
            list_by_text(&mut store)?;
        }
        let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
        many_keys(&mut batch)?;
        if version == "0.2.0-draft" {
            batch.func_wrap_async("get-many", |mut store, (bucket, keys): KeysOfBucket| {
                Box::new(async move {
                    let found = get_many(&mut store, &bucket, &keys).await;
                    returned(found.map(|found| {
                        found
                            .into_iter()
                            .map(|(key, value)| value.map(|value| (key, value)))
                            .collect::<Vec<_>>()
                    }))
                })
            })?;
        } else {
            batch.func_wrap_async("get-many", |mut store, (bucket, keys): KeysOfBucket| {
                Box::new(async move { returned(get_many(&mut store, &bucket, &keys).await) })
            })?;
        }
        let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{version}"))?;
        if version == "0.2.0-draft" {
            add_to_number(&mut atomics)?;
        } else {
            add_to_signed_number(&mut atomics)?;
            compare_and_swap(&mut atomics)?;
        }
    }
    Ok(())
}

type KeysOfBucket = (Resource<Bucket>, WasmList<WasmStr>);

type HostStore<'a> = StoreContextMut<'a, Host>;

/// The store and the namespace of the guest that has this bucket.
fn opened(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
) -> Outcome<(Arc<dyn Store>, Arc<str>)> {
    let host = store.data_mut();
    host.component().table.get(bucket).map_err(trap)?;
    namespace(host)
}

fn namespace(host: &Host) -> Outcome<(Arc<dyn Store>, Arc<str>)> {
    match &host.grants.kv {
        Some(grant) => Ok((grant.store.clone(), grant.namespace.as_str().into())),
        None => Err(Failure::Store(StoreError::AccessDenied)),
    }
}

fn trap(error: impl Into<wasmtime::Error>) -> Failure {
    Failure::Trap(error.into())
}

/// Charges `bytes` that the host copies out of the guest's memory.
fn hold(store: &mut HostStore<'_>, bytes: u64) -> Outcome<Charge> {
    let host = store.data_mut();
    host.hold(bytes).map_err(|error| {
        host.refusal_was_handled();
        Failure::other(error.to_string())
    })
}

/// Charges `bytes` of what is returned to the guest, until the next result.
fn hold_result(store: &mut HostStore<'_>, bytes: u64) -> Outcome<()> {
    store
        .data_mut()
        .component()
        .hold_result(bytes)
        .map_err(|error| Failure::other(error.to_string()))
}

/// A key, with the charge for it.
fn key(store: &mut HostStore<'_>, key: &WasmStr) -> Outcome<(String, Charge)> {
    let len = key.to_str(&*store)?.len() as u64;
    let charge = hold(store, len + ENTRY)?;
    Ok((key.to_str(&*store)?.into_owned(), charge))
}

/// A value, with the charge for it.
fn value(store: &mut HostStore<'_>, value: &WasmList<u8>) -> Outcome<(String, Charge)> {
    let charge = hold(store, value.len() as u64 + ENTRY)?;
    let bytes = value.as_le_slice(&*store);
    let text = std::str::from_utf8(bytes).map_err(|_| {
        Failure::other("the value is not UTF-8: values of the key/value store are text")
    })?;
    Ok((text.to_owned(), charge))
}

fn one_key(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.resource(
        "bucket",
        ResourceType::host::<Bucket>(),
        |mut store, rep| {
            let bucket = Resource::<Bucket>::new_own(rep);
            store.data_mut().component().table.delete(bucket)?;
            Ok(())
        },
    )?;
    instance.func_wrap("open", |mut store: HostStore<'_>, (name,): (WasmStr,)| {
        let is_own = matches!(&*name.to_str(&store)?, "" | "default");
        let host = store.data_mut();
        returned(match namespace(host) {
            Err(denied) => Err(denied),
            Ok(_) if !is_own => Err(Failure::Store(StoreError::NoSuchStore)),
            Ok(_) => {
                let bucket = Bucket { listing: None };
                host.component().table.push(bucket).map_err(trap)
            }
        })
    })?;
    instance.func_wrap_async(
        "[method]bucket.get",
        |mut store, (bucket, name): (Resource<Bucket>, WasmStr)| {
            Box::new(async move { returned(get(&mut store, &bucket, &name).await) })
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.exists",
        |mut store, (bucket, name): (Resource<Bucket>, WasmStr)| {
            Box::new(async move { returned(exists(&mut store, &bucket, &name).await) })
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.set",
        |mut store, (bucket, name, bytes): (Resource<Bucket>, WasmStr, WasmList<u8>)| {
            Box::new(async move { returned(set(&mut store, &bucket, &name, &bytes).await) })
        },
    )?;
    instance.func_wrap_async(
        "[method]bucket.delete",
        |mut store, (bucket, name): (Resource<Bucket>, WasmStr)| {
            Box::new(async move { returned(delete(&mut store, &bucket, &name).await) })
        },
    )
}

async fn get(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    name: &WasmStr,
) -> Outcome<Option<Vec<u8>>> {
    let (kv, namespace) = opened(store, bucket)?;
    let (name, _name) = key(store, name)?;
    let Some(value) = kv.get(&namespace, &name).await? else {
        return Ok(None);
    };
    hold_result(store, value.len() as u64)?;
    Ok(Some(value.into_bytes()))
}

async fn exists(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    name: &WasmStr,
) -> Outcome<bool> {
    let (kv, namespace) = opened(store, bucket)?;
    let (name, _name) = key(store, name)?;
    Ok(kv.get(&namespace, &name).await?.is_some())
}

async fn set(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    name: &WasmStr,
    bytes: &WasmList<u8>,
) -> Outcome<()> {
    let (kv, namespace) = opened(store, bucket)?;
    let (name, _name) = key(store, name)?;
    let (text, _text) = value(store, bytes)?;
    Ok(kv.set(&namespace, name, text).await?)
}

async fn delete(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    name: &WasmStr,
) -> Outcome<()> {
    let (kv, namespace) = opened(store, bucket)?;
    let (name, _name) = key(store, name)?;
    Ok(kv.delete(&namespace, name).await?)
}

fn list(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]bucket.list-keys",
        |mut store, (bucket, cursor): (Resource<Bucket>, Option<u64>)| {
            Box::new(async move { returned(page(&mut store, &bucket, cursor).await) })
        },
    )
}

fn list_by_text(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]bucket.list-keys",
        |mut store, (bucket, cursor): (Resource<Bucket>, Option<WasmStr>)| {
            Box::new(async move {
                let cursor = match cursor {
                    None => None,
                    Some(text) => match text.to_str(&store)?.parse() {
                        Ok(cursor) => Some(cursor),
                        Err(_) => {
                            return returned(Err(Failure::other(UNKNOWN_CURSOR)));
                        }
                    },
                };
                let page = page(&mut store, &bucket, cursor).await;
                returned(page.map(|page| TextKeyPage {
                    keys: page.keys,
                    cursor: page.cursor.map(|cursor| cursor.to_string()),
                }))
            })
        },
    )
}

/// A page of keys. The cursor is the number of keys before it; the bucket keeps the last of them.
async fn page(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    cursor: Option<u64>,
) -> Outcome<KeyPage> {
    let (kv, namespace) = opened(store, bucket)?;
    let table = &mut store.data_mut().component().table;
    let listing = table.get_mut(bucket).map_err(trap)?.listing.take();
    let before = match (cursor, listing) {
        (None, _) => None,
        (Some(cursor), Some(listing)) if listing.cursor == cursor => Some(listing),
        (Some(_), _) => return Err(Failure::other(UNKNOWN_CURSOR)),
    };
    hold_result(store, PAGE_BYTES as u64)?;
    let query = ListQuery {
        after: before.as_ref().map(|listing| listing.last.as_str()),
        ..ListQuery::default()
    };
    let page = kv.list(&namespace, query).await?;
    let cursor = match page.keys.last() {
        Some(last) if !page.is_last => {
            let charge = hold(store, last.len() as u64 + ENTRY)?;
            let cursor = before.map_or(0, |listing| listing.cursor) + page.keys.len() as u64;
            let listing = Listing {
                cursor,
                last: last.clone(),
                _charge: charge,
            };
            let table = &mut store.data_mut().component().table;
            table.get_mut(bucket).map_err(trap)?.listing = Some(listing);
            Some(cursor)
        }
        _ => None,
    };
    Ok(KeyPage {
        keys: page.keys,
        cursor,
    })
}

fn many_keys(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Pairs = WasmList<(WasmStr, WasmList<u8>)>;
    instance.func_wrap_async(
        "set-many",
        |mut store, (bucket, pairs): (Resource<Bucket>, Pairs)| {
            Box::new(async move { returned(set_many(&mut store, &bucket, &pairs).await) })
        },
    )?;
    instance.func_wrap_async("delete-many", |mut store, (bucket, keys): KeysOfBucket| {
        Box::new(async move { returned(delete_many(&mut store, &bucket, &keys).await) })
    })
}

fn check_batch(len: usize) -> Outcome<()> {
    if len > MAX_BATCH {
        return Err(Failure::other(format!(
            "{len} keys at once; at most {MAX_BATCH}"
        )));
    }
    Ok(())
}

async fn get_many(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    keys: &WasmList<WasmStr>,
) -> Outcome<Vec<(String, Option<Vec<u8>>)>> {
    let (kv, namespace) = opened(store, bucket)?;
    check_batch(keys.len())?;
    // One state of all keys, where that costs nothing.
    let version = kv.version(&namespace);
    let mut slices = WorkSlices::new(store.data_mut());
    let mut bytes = 0;
    let mut found = Vec::new();
    for index in 0..keys.len() {
        let Some(name) = keys.get(&mut *store, index).transpose()? else {
            break;
        };
        bytes += name.to_str(&*store)?.len() as u64 + ENTRY;
        hold_result(store, bytes)?;
        let name = name.to_str(&*store)?.into_owned();
        let value = match &version {
            Some(map) => map
                .get(name.as_str())
                .map(|value| value.as_str().to_owned()),
            None => kv.get(&namespace, &name).await?,
        };
        bytes += value.as_ref().map_or(0, String::len) as u64;
        hold_result(store, bytes)?;
        found.push((name, value.map(String::into_bytes)));
        slices.next(store.data_mut()).await?;
    }
    Ok(found)
}

async fn set_many(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    pairs: &WasmList<(WasmStr, WasmList<u8>)>,
) -> Outcome<()> {
    let (kv, namespace) = opened(store, bucket)?;
    check_batch(pairs.len())?;
    let mut slices = WorkSlices::new(store.data_mut());
    let mut charge = hold(store, 0)?;
    let mut bytes = 0;
    let mut changes = Vec::new();
    for index in 0..pairs.len() {
        let Some((name, list)) = pairs.get(&mut *store, index).transpose()? else {
            break;
        };
        bytes += (name.to_str(&*store)?.len() + list.len()) as u64 + ENTRY;
        grow(&mut charge, bytes)?;
        let text = std::str::from_utf8(list.as_le_slice(&*store)).map_err(|_| {
            Failure::other("a value is not UTF-8: values of the key/value store are text")
        })?;
        changes.push(Change::Set(
            name.to_str(&*store)?.into_owned(),
            text.to_owned(),
        ));
        slices.next(store.data_mut()).await?;
    }
    Ok(kv.apply(&namespace, changes).await?)
}

async fn delete_many(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    keys: &WasmList<WasmStr>,
) -> Outcome<()> {
    let (kv, namespace) = opened(store, bucket)?;
    check_batch(keys.len())?;
    let mut slices = WorkSlices::new(store.data_mut());
    let mut charge = hold(store, 0)?;
    let mut bytes = 0;
    let mut changes = Vec::new();
    for index in 0..keys.len() {
        let Some(name) = keys.get(&mut *store, index).transpose()? else {
            break;
        };
        bytes += name.to_str(&*store)?.len() as u64 + ENTRY;
        grow(&mut charge, bytes)?;
        changes.push(Change::Delete(name.to_str(&*store)?.into_owned()));
        slices.next(store.data_mut()).await?;
    }
    Ok(kv.apply(&namespace, changes).await?)
}

fn grow(charge: &mut Charge, bytes: u64) -> Outcome<()> {
    if charge.grow_to(bytes) {
        return Ok(());
    }
    Err(Failure::other(NoMemory(bytes).to_string()))
}

async fn increment(
    store: &mut HostStore<'_>,
    bucket: &Resource<Bucket>,
    name: &WasmStr,
    delta: i64,
) -> Outcome<i64> {
    let (kv, namespace) = opened(store, bucket)?;
    let (name, _name) = key(store, name)?;
    Ok(kv.increment(&namespace, &name, delta).await?)
}

fn add_to_number(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "increment",
        |mut store, (bucket, name, delta): (Resource<Bucket>, WasmStr, u64)| {
            Box::new(async move {
                let Ok(delta) = i64::try_from(delta) else {
                    return returned(Err(Failure::other(format!(
                        "{delta} is more than can be added; at most {}",
                        i64::MAX
                    ))));
                };
                let sum = increment(&mut store, &bucket, &name, delta).await;
                returned(sum.and_then(|sum| {
                    u64::try_from(sum).map_err(|_| {
                        Failure::other(format!("the sum {sum} is negative, and cannot be returned"))
                    })
                }))
            })
        },
    )
}

fn add_to_signed_number(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "increment",
        |mut store, (bucket, name, delta): (Resource<Bucket>, WasmStr, i64)| {
            Box::new(async move { returned(increment(&mut store, &bucket, &name, delta).await) })
        },
    )
}

fn compare_and_swap(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.resource("cas", ResourceType::host::<Cas>(), |mut store, rep| {
        let cas = Resource::<Cas>::new_own(rep);
        store.data_mut().component().table.delete(cas)?;
        Ok(())
    })?;
    instance.func_wrap_async(
        "[static]cas.new",
        |mut store, (bucket, name): (Resource<Bucket>, WasmStr)| {
            Box::new(async move {
                let cas = async {
                    opened(&mut store, &bucket)?;
                    let (name, charge) = key(&mut store, &name)?;
                    look_at(&mut store, name, charge).await
                };
                let cas = cas.await;
                returned(cas)
            })
        },
    )?;
    instance.func_wrap(
        "[method]cas.current",
        |mut store: HostStore<'_>, (cas,): (Resource<Cas>,)| {
            let len = match &store.data_mut().component().table.get(&cas)?.seen {
                Some(seen) => seen.len() as u64,
                None => return returned(Ok(None)),
            };
            if let Err(refused) = hold_result(&mut store, len) {
                return returned(Err(refused));
            }
            let cas = store.data_mut().component().table.get(&cas)?;
            returned(Ok(cas.seen.as_ref().map(|seen| seen.as_bytes().to_vec())))
        },
    )?;
    instance.func_wrap_async(
        "swap",
        |mut store, (cas, bytes): (Resource<Cas>, WasmList<u8>)| {
            Box::new(async move {
                match swap(&mut store, cas, &bytes).await {
                    Ok(None) => Ok((Ok(()),)),
                    Ok(Some(changed)) => Ok((Err(CasError::Failed(changed)),)),
                    Err(Failure::Store(error)) => Ok((Err(CasError::Store(error)),)),
                    Err(Failure::Trap(error)) => Err(error),
                }
            })
        },
    )
}

/// Remembers the value that a key has now.
async fn look_at(
    store: &mut HostStore<'_>,
    name: String,
    mut charge: Charge,
) -> Outcome<Resource<Cas>> {
    let (kv, namespace) = namespace(store.data())?;
    let seen = kv.get(&namespace, &name).await?;
    let len = seen.as_ref().map_or(0, String::len);
    grow(&mut charge, (name.len() + len) as u64 + 2 * ENTRY)?;
    let cas = Cas {
        seen,
        key: name,
        charge,
    };
    store.data_mut().component().table.push(cas).map_err(trap)
}

/// Sets the value if the key still has the one that was seen. Returns what it has now otherwise.
async fn swap(
    store: &mut HostStore<'_>,
    cas: Resource<Cas>,
    bytes: &WasmList<u8>,
) -> Outcome<Option<Resource<Cas>>> {
    let cas = store
        .data_mut()
        .component()
        .table
        .delete(cas)
        .map_err(trap)?;
    let (kv, namespace) = namespace(store.data())?;
    let (text, _text) = value(store, bytes)?;
    let swapped = kv
        .compare_and_swap(&namespace, &cas.key, cas.seen.as_deref(), &text, None)
        .await?;
    if swapped {
        return Ok(None);
    }
    let Cas { key, charge, .. } = cas;
    look_at(store, key, charge).await.map(Some)
}
