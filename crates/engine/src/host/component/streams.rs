//! Bounds of `wasi:io`: what streams transfer at once, and what a guest writes.
//!
//! What a guest writes is charged before it is copied, and the bytes hold their charge wherever
//! they go: into a body, a file or a buffer.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable, WasmList};
use wasmtime_wasi::p2::bindings::io::streams::{
    Host as _, HostInputStream, HostOutputStream, StreamError as GuestStreamError,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult, bindings::io::poll,
};

use crate::host::component::version::VERSION;
use crate::host::state::Host;

/// Most bytes that a stream transfers at once.
pub(super) const MAX_TRANSFER: u64 = 64 << 10;

/// Most pollables that a guest waits for at once.
const MAX_POLL: usize = 1024;

/// Bytes that `blocking-write-and-flush` takes, as specified.
const MAX_FLUSHED: usize = 4096;

/// What a function of a stream returns to the guest.
fn returned<T>(
    table: &mut ResourceTable,
    result: StreamResult<T>,
) -> wasmtime::Result<(Result<T, GuestStreamError>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(table.convert_stream_error(error)?),)),
    }
}

/// Copies what a guest writes.
fn copied(
    store: &mut StoreContextMut<'_, Host>,
    contents: &WasmList<u8>,
) -> Result<Bytes, StreamError> {
    let charge = store
        .data_mut()
        .hold(contents.len() as u64)
        .map_err(|error| StreamError::LastOperationFailed(error.into()))?;
    let bytes = Bytes::copy_from_slice(contents.as_le_slice(&*store));
    Ok(charge.hold(bytes))
}

fn table<'a>(store: &'a mut StoreContextMut<'_, Host>) -> &'a mut ResourceTable {
    &mut store.data_mut().component().table
}

/// Reads what is there. The bytes are copied once, to the guest's memory.
fn read(
    table: &mut ResourceTable,
    stream: &Resource<DynInputStream>,
    len: u64,
) -> StreamResult<Bytes> {
    table.get_mut(stream)?.read(len.min(MAX_TRANSFER) as usize)
}

/// [`read`] that waits until something is there.
async fn blocking_read(
    table: &mut ResourceTable,
    stream: &Resource<DynInputStream>,
    len: u64,
) -> StreamResult<Bytes> {
    let stream = table.get_mut(stream)?;
    stream.blocking_read(len.min(MAX_TRANSFER) as usize).await
}

fn write(
    store: &mut StoreContextMut<'_, Host>,
    stream: &Resource<DynOutputStream>,
    contents: &WasmList<u8>,
) -> StreamResult<()> {
    let permitted = table(store).get_mut(stream)?.check_write()?;
    if contents.len() > permitted {
        return Err(StreamError::trap(&format!(
            "a write of {} bytes where `check-write` permits {permitted}",
            contents.len()
        )));
    }
    let bytes = copied(store, contents)?;
    table(store).get_mut(stream)?.write(bytes)
}

async fn write_and_flush(
    store: &mut StoreContextMut<'_, Host>,
    stream: &Resource<DynOutputStream>,
    contents: &WasmList<u8>,
) -> StreamResult<()> {
    if contents.len() > MAX_FLUSHED {
        return Err(StreamError::trap(&format!(
            "`blocking-write-and-flush` of {} bytes; it takes {MAX_FLUSHED}",
            contents.len()
        )));
    }
    let bytes = copied(store, contents)?;
    table(store)
        .get_mut(stream)?
        .blocking_write_and_flush(bytes)
        .await
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Reading = (Resource<DynInputStream>, u64);
    type Writing = (Resource<DynOutputStream>, WasmList<u8>);
    type Splicing = (Resource<DynOutputStream>, Resource<DynInputStream>, u64);
    let mut streams = linker.instance(&format!("wasi:io/streams@{VERSION}"))?;
    streams.func_wrap(
        "[method]input-stream.read",
        |mut store: StoreContextMut<'_, Host>, (stream, len): Reading| {
            let table = table(&mut store);
            let read = read(table, &stream, len);
            returned(table, read)
        },
    )?;
    streams.func_wrap_async(
        "[method]input-stream.blocking-read",
        |mut store, (stream, len): Reading| {
            Box::new(async move {
                let table = table(&mut store);
                let read = blocking_read(table, &stream, len).await;
                returned(table, read)
            })
        },
    )?;
    streams.func_wrap(
        "[method]input-stream.skip",
        |mut store: StoreContextMut<'_, Host>, (stream, len): Reading| {
            let table = table(&mut store);
            let skipped = HostInputStream::skip(table, stream, len.min(MAX_TRANSFER));
            returned(table, skipped)
        },
    )?;
    streams.func_wrap_async(
        "[method]input-stream.blocking-skip",
        |mut store, (stream, len): Reading| {
            Box::new(async move {
                let table = table(&mut store);
                let len = len.min(MAX_TRANSFER);
                let skipped = HostInputStream::blocking_skip(table, stream, len).await;
                returned(table, skipped)
            })
        },
    )?;
    streams.func_wrap(
        "[method]output-stream.write",
        |mut store: StoreContextMut<'_, Host>, (stream, contents): Writing| {
            let written = write(&mut store, &stream, &contents);
            returned(table(&mut store), written)
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |mut store, (stream, contents): Writing| {
            Box::new(async move {
                let written = write_and_flush(&mut store, &stream, &contents).await;
                returned(table(&mut store), written)
            })
        },
    )?;
    streams.func_wrap(
        "[method]output-stream.splice",
        |mut store: StoreContextMut<'_, Host>, (to, from, len): Splicing| {
            let table = table(&mut store);
            let spliced = HostOutputStream::splice(table, to, from, len.min(MAX_TRANSFER));
            returned(table, spliced)
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-splice",
        |mut store, (to, from, len): Splicing| {
            Box::new(async move {
                let table = table(&mut store);
                let len = len.min(MAX_TRANSFER);
                let spliced = HostOutputStream::blocking_splice(table, to, from, len).await;
                returned(table, spliced)
            })
        },
    )
}

/// Bounds the list of a poll, for an engine in which functions do not run at once: the list is read
/// while the function runs.
pub(super) fn add_poll_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:io/poll@{VERSION}"))?
        .func_wrap_async(
            "poll",
            |mut store, (list,): (WasmList<Resource<DynPollable>>,)| {
                Box::new(async move {
                    let count = list.len();
                    if count > MAX_POLL {
                        wasmtime::bail!("a poll of {count} pollables at once; at most {MAX_POLL}");
                    }
                    let pollables = (0..count)
                        .filter_map(|index| list.get(&mut store, index))
                        .collect::<wasmtime::Result<Vec<_>>>()?;
                    let table = table(&mut store);
                    Ok((poll::Host::poll(table, pollables).await?,))
                })
            },
        )
}
