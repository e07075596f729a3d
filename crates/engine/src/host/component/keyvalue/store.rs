//! `wasi:keyvalue/store`: one key at a time, and pages of keys.

use wasmtime::component::{
    ComponentType, Lift, LinkerInstance, Lower, Resource, ResourceType, WasmList, WasmStr,
};
use wws_kv::{ListQuery, PAGE_BYTES};

use super::bucket::{
    Bucket, ENTRY, Failure, HostStore, Listing, Outcome, StoreError, hold, hold_result, key,
    namespace, opened, returned, trap, value,
};
use crate::host::state::Host;

const UNKNOWN_CURSOR: &str =
    "the cursor is not the one that `list-keys` of this bucket returned last";

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

pub(super) fn one_key(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
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

pub(super) fn list(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]bucket.list-keys",
        |mut store, (bucket, cursor): (Resource<Bucket>, Option<u64>)| {
            Box::new(async move { returned(page(&mut store, &bucket, cursor).await) })
        },
    )
}

pub(super) fn list_by_text(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
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
