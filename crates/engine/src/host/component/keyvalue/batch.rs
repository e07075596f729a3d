//! `wasi:keyvalue/batch`: many keys at once.

use wasmtime::component::{LinkerInstance, Resource, WasmList, WasmStr};
use wws_kv::Change;

use super::bucket::{
    Bucket, ENTRY, Failure, HostStore, Outcome, grow, hold, hold_result, opened, returned,
};
use crate::host::slices::WorkSlices;
use crate::host::state::Host;

/// Most keys of one call of a batch function.
const MAX_BATCH: usize = 10_000;

type KeysOfBucket = (Resource<Bucket>, WasmList<WasmStr>);

pub(super) fn many_keys(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
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

/// `get-many` of the first draft: a pair for each key, or nothing where the key is missing.
pub(super) fn get_found(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async("get-many", |mut store, (bucket, keys): KeysOfBucket| {
        Box::new(async move {
            let found = get_many(&mut store, &bucket, &keys).await;
            returned(found.map(|found| {
                found
                    .into_iter()
                    .map(|(key, value)| value.map(|value| (key, value)))
                    .collect::<Vec<_>>()
            }))
        })
    })
}

/// `get-many` of the second draft: each key, with its value if it is there.
pub(super) fn get_each(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    instance.func_wrap_async("get-many", |mut store, (bucket, keys): KeysOfBucket| {
        Box::new(async move { returned(get_many(&mut store, &bucket, &keys).await) })
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
