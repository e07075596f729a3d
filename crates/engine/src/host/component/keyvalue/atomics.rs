//! `wasi:keyvalue/atomics`: sums, and compare-and-swap.

use wasmtime::component::{
    ComponentType, Lift, LinkerInstance, Lower, Resource, ResourceType, WasmList, WasmStr,
};

use super::bucket::{
    Bucket, ENTRY, Failure, HostStore, Outcome, StoreError, grow, hold_result, key, namespace,
    opened, returned, trap, value,
};
use crate::host::state::Host;
use crate::memory::account::Charge;

/// A key and the value that it had, for compare-and-swap.
struct Cas {
    key: String,
    /// `None`: the key was missing.
    seen: Option<String>,
    charge: Charge,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(StoreError),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
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

pub(super) fn add_to_number(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
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

pub(super) fn add_to_signed_number(
    instance: &mut LinkerInstance<'_, Host>,
) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "increment",
        |mut store, (bucket, name, delta): (Resource<Bucket>, WasmStr, i64)| {
            Box::new(async move { returned(increment(&mut store, &bucket, &name, delta).await) })
        },
    )
}

pub(super) fn compare_and_swap(instance: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
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
