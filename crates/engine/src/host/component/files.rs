//! Bounds of `wasi:filesystem`: open files, what is read and written at once, and directories.
//!
//! A file counts until its descriptor and all its streams are dropped: each of them keeps it open.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType, WasmList, WasmStr};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, DirectoryEntry, ErrorCode, Host as _, HostDescriptor,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult, InputStream, OutputStream, Pollable,
    StreamResult,
};
use wasmtime_wasi::p3::bindings::filesystem::types as p3;

use crate::host::component::component_files::OpenFile;
use crate::host::component::streams::MAX_TRANSFER;
use crate::host::component::version::{ASYNC_VERSION, VERSION};
use crate::host::open_files::FileReservation;
use crate::host::readdir::{self, DirectoryEntryHead};
use crate::host::state::Host;
use crate::memory::account::Charge;

/// Longest path that the kernel takes, in bytes.
const LONGEST_PATH: usize = 4096;

/// Most bytes that one write of a file, which is not a stream, copies.
const MAX_WRITE: usize = 1 << 20;

/// Most bytes of entries of a directory that are read at once.
const DIRECTORY_PIECE: usize = 8 << 10;

/// The file of a descriptor.
fn file(descriptor: &Descriptor) -> &Arc<File> {
    match descriptor {
        Descriptor::File(file) => &file.file,
        Descriptor::Dir(directory) => &directory.dir,
    }
}

/// A stream of a file, which keeps the file open, and holds a piece of it if it is read. What is
/// written holds a charge of its own.
struct FileStream<S> {
    stream: S,
    _counted: FileReservation,
    _file: Option<Arc<OpenFile>>,
    _piece: Option<Charge>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for FileStream<DynInputStream> {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for FileStream<DynInputStream> {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for FileStream<DynOutputStream> {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for FileStream<DynOutputStream> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.stream.blocking_write_and_flush(bytes).await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// The entries of a directory, read in pieces.
struct DirectoryEntries {
    directory: Arc<File>,
    /// Keeps a directory that the guest opened counted.
    _file: Option<Arc<OpenFile>>,
    _piece: Charge,
    read: VecDeque<DirectoryEntryHead>,
    /// Where the next piece begins; `None` at the end.
    next: Option<u64>,
}

type HostStore<'a> = StoreContextMut<'a, Host>;

/// What a function returns to the guest.
fn returned<T>(
    store: &mut HostStore<'_>,
    result: FsResult<T>,
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => {
            let code = store.data_mut().filesystem().convert_error_code(error)?;
            Ok((Err(code),))
        }
    }
}

/// A path, which is copied only if the kernel could take it.
fn path(store: &HostStore<'_>, path: &WasmStr) -> FsResult<String> {
    let path = path.to_str(store).map_err(FsError::trap)?;
    if path.len() >= LONGEST_PATH {
        return Err(ErrorCode::NameTooLong.into());
    }
    Ok(path.into_owned())
}

/// Charges `bytes` that the host is about to keep.
fn hold(store: &mut HostStore<'_>, bytes: u64) -> FsResult<Charge> {
    let host = store.data_mut();
    host.hold(bytes).map_err(|_| {
        host.refusal_was_handled();
        ErrorCode::InsufficientMemory.into()
    })
}

/// The count of a file by its descriptor. Preopened directories are not counted.
fn open_file(
    store: &mut HostStore<'_>,
    descriptor: &Resource<Descriptor>,
) -> Option<Arc<OpenFile>> {
    let files = &store.data_mut().component().files;
    files.open.get(&descriptor.rep()).cloned()
}

fn same(descriptor: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(descriptor.rep())
}

/// Defines a function whose last parameter is a path.
macro_rules! of_path {
    (
        $types:ident, $name:literal, $method:ident,
        ($($arg:ident: $type:ty),*), $($more:ident: $more_type:ty),*
    ) => {
        $types.func_wrap_async(
            $name,
            |
                mut store,
                (fd, $($arg,)* at, $($more,)*):
                    (Resource<Descriptor>, $($type,)* WasmStr, $($more_type,)*)
            | {
                Box::new(async move {
                    let result = match path(&store, &at) {
                        Ok(at) => {
                            let mut view = store.data_mut().filesystem();
                            HostDescriptor::$method(&mut view, fd, $($arg,)* at, $($more,)*).await
                        }
                        Err(error) => Err(error),
                    };
                    returned(&mut store, result)
                })
            },
        )?;
    };
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:filesystem/types@{VERSION}"))?;
    opening(&mut types)?;
    file_streams(&mut types)?;
    directories(&mut types)?;
    of_path!(
        types,
        "[method]descriptor.create-directory-at",
        create_directory_at,
        (),
    );
    of_path!(
        types,
        "[method]descriptor.remove-directory-at",
        remove_directory_at,
        (),
    );
    of_path!(
        types,
        "[method]descriptor.unlink-file-at",
        unlink_file_at,
        (),
    );
    of_path!(types, "[method]descriptor.readlink-at", readlink_at, (),);
    of_path!(types, "[method]descriptor.stat-at", stat_at, (flags: PathFlags),);
    of_path!(types, "[method]descriptor.metadata-hash-at", metadata_hash_at, (flags: PathFlags),);
    of_path!(
        types, "[method]descriptor.set-times-at", set_times_at, (flags: PathFlags),
        accessed: NewTimestamp, modified: NewTimestamp
    );
    two_paths(&mut types)
}

/// Counts the files of WASI 0.3.
pub(super) fn add_async_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Opening = (
        Resource<Descriptor>,
        p3::PathFlags,
        String,
        p3::OpenFlags,
        p3::DescriptorFlags,
    );
    let mut types = linker.instance(&format!("wasi:filesystem/types@{ASYNC_VERSION}"))?;
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |accessor, (fd, path_flags, at, open_flags, flags): Opening| {
            Box::pin(async move {
                let reserved = accessor.with(|mut access| {
                    let mut store = access.as_context_mut();
                    store.data_mut().component().files.reserve()
                });
                let Some(file) = reserved else {
                    return Ok((Err(p3::ErrorCode::Quota),));
                };
                let files = accessor.with_getter::<WasiFilesystem>(Host::filesystem);
                let opened = <WasiFilesystem as p3::HostDescriptorWithStore<Host>>::open_at(
                    &files, fd, path_flags, at, open_flags, flags,
                );
                let opened = opened.await;
                accessor.with(|mut access| {
                    let mut store = access.as_context_mut();
                    let host = store.data_mut();
                    match opened {
                        Ok(opened) => {
                            host.component().files.open.insert(opened.rep(), file);
                            Ok((Ok(opened),))
                        }
                        Err(error) => {
                            let code = p3::Host::convert_error_code(&mut host.filesystem(), error)?;
                            Ok((Err(code),))
                        }
                    }
                })
            })
        },
    )?;
    types.resource(
        "descriptor",
        ResourceType::host::<Descriptor>(),
        |mut store, rep| {
            let component = store.data_mut().component();
            let descriptor = component
                .table
                .delete(Resource::<Descriptor>::new_own(rep))?;
            if let Some(open) = component.files.open.remove(&rep) {
                let file = Arc::downgrade(file(&descriptor));
                drop(descriptor);
                component.files.streaming.push((file, open));
            }
            Ok(())
        },
    )
}

/// Functions with two paths.
fn two_paths(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Linking = (
        Resource<Descriptor>,
        PathFlags,
        WasmStr,
        Resource<Descriptor>,
        WasmStr,
    );
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store, (fd, flags, from, to_fd, to): Linking| {
            Box::new(async move {
                let result = match both(&store, &from, &to) {
                    Ok((from, to)) => {
                        let mut view = store.data_mut().filesystem();
                        view.link_at(fd, flags, from, to_fd, to).await
                    }
                    Err(error) => Err(error),
                };
                returned(&mut store, result)
            })
        },
    )?;
    type Renaming = (Resource<Descriptor>, WasmStr, Resource<Descriptor>, WasmStr);
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |mut store, (fd, from, to_fd, to): Renaming| {
            Box::new(async move {
                let result = match both(&store, &from, &to) {
                    Ok((from, to)) => {
                        let mut view = store.data_mut().filesystem();
                        view.rename_at(fd, from, to_fd, to).await
                    }
                    Err(error) => Err(error),
                };
                returned(&mut store, result)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store, (fd, from, to): (Resource<Descriptor>, WasmStr, WasmStr)| {
            Box::new(async move {
                let result = match both(&store, &from, &to) {
                    Ok((from, to)) => {
                        let mut view = store.data_mut().filesystem();
                        view.symlink_at(fd, from, to).await
                    }
                    Err(error) => Err(error),
                };
                returned(&mut store, result)
            })
        },
    )
}

fn both(store: &HostStore<'_>, from: &WasmStr, to: &WasmStr) -> FsResult<(String, String)> {
    Ok((path(store, from)?, path(store, to)?))
}

fn opening(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    type Opening = (
        Resource<Descriptor>,
        PathFlags,
        WasmStr,
        OpenFlags,
        DescriptorFlags,
    );
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store, (fd, path_flags, at, open_flags, flags): Opening| {
            Box::new(async move {
                let opened = async {
                    let at = path(&store, &at)?;
                    // WASI has no code for too many open files.
                    let file = store.data_mut().component().files.reserve();
                    let file = file.ok_or(ErrorCode::Quota)?;
                    let mut view = store.data_mut().filesystem();
                    let opened = view.open_at(fd, path_flags, at, open_flags, flags).await?;
                    let files = &mut store.data_mut().component().files;
                    files.open.insert(opened.rep(), file);
                    Ok(opened)
                };
                let opened = opened.await;
                returned(&mut store, opened)
            })
        },
    )?;
    types.resource(
        "descriptor",
        ResourceType::host::<Descriptor>(),
        |mut store, rep| {
            let host = store.data_mut();
            host.component().files.open.remove(&rep);
            HostDescriptor::drop(&mut host.filesystem(), Resource::new_own(rep))
        },
    )
}

fn file_streams(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store, (fd, bytes, offset): (Resource<Descriptor>, WasmList<u8>, u64)| {
            Box::new(async move {
                let written = async {
                    let len = bytes.len().min(MAX_WRITE);
                    let _charge = hold(&mut store, len as u64)?;
                    let bytes = bytes.as_le_slice(&store)[..len].to_vec();
                    store.data_mut().filesystem().write(fd, bytes, offset).await
                };
                let written = written.await;
                returned(&mut store, written)
            })
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: HostStore<'_>, (fd, offset): (Resource<Descriptor>, u64)| {
            let stream = reading(&mut store, &fd, offset);
            returned(&mut store, stream)
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: HostStore<'_>, (fd, offset): (Resource<Descriptor>, u64)| {
            let stream = writing(&mut store, &fd, |store| {
                store
                    .data_mut()
                    .filesystem()
                    .write_via_stream(same(&fd), offset)
            });
            returned(&mut store, stream)
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: HostStore<'_>, (fd,): (Resource<Descriptor>,)| {
            let stream = writing(&mut store, &fd, |store| {
                store.data_mut().filesystem().append_via_stream(same(&fd))
            });
            returned(&mut store, stream)
        },
    )
}

fn count_stream(store: &mut HostStore<'_>) -> FsResult<FileReservation> {
    let reserved = store.data_mut().component().files.streams.reserve();
    reserved.ok_or_else(|| ErrorCode::Quota.into())
}

fn reading(
    store: &mut HostStore<'_>,
    descriptor: &Resource<Descriptor>,
    offset: u64,
) -> FsResult<Resource<DynInputStream>> {
    let counted = count_stream(store)?;
    let piece = hold(store, MAX_TRANSFER)?;
    let file = open_file(store, descriptor);
    let host = store.data_mut();
    let stream = host
        .filesystem()
        .read_via_stream(same(descriptor), offset)?;
    let table = &mut host.component().table;
    let stream: DynInputStream = Box::new(FileStream {
        stream: table.delete(stream)?,
        _counted: counted,
        _file: file,
        _piece: Some(piece),
    });
    Ok(table.push(stream)?)
}

fn writing(
    store: &mut HostStore<'_>,
    descriptor: &Resource<Descriptor>,
    make: impl FnOnce(&mut HostStore<'_>) -> FsResult<Resource<DynOutputStream>>,
) -> FsResult<Resource<DynOutputStream>> {
    let counted = count_stream(store)?;
    let file = open_file(store, descriptor);
    let stream = make(store)?;
    let table = &mut store.data_mut().component().table;
    let stream: DynOutputStream = Box::new(FileStream {
        stream: table.delete(stream)?,
        _counted: counted,
        _file: file,
        _piece: None,
    });
    Ok(table.push(stream)?)
}

fn directories(types: &mut LinkerInstance<'_, Host>) -> wasmtime::Result<()> {
    types.resource(
        "directory-entry-stream",
        ResourceType::host::<DirectoryEntries>(),
        |mut store, rep| {
            let entries = Resource::<DirectoryEntries>::new_own(rep);
            store.data_mut().component().table.delete(entries)?;
            Ok(())
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-directory",
        |mut store: HostStore<'_>, (fd,): (Resource<Descriptor>,)| {
            let entries = entries(&mut store, &fd);
            returned(&mut store, entries)
        },
    )?;
    types.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store, (entries,): (Resource<DirectoryEntries>,)| {
            Box::new(async move {
                let entry = next_entry(&mut store, &entries).await;
                returned(&mut store, entry)
            })
        },
    )
}

fn entries(
    store: &mut HostStore<'_>,
    descriptor: &Resource<Descriptor>,
) -> FsResult<Resource<DirectoryEntries>> {
    // Names are held once as they were read and once as texts.
    let piece = hold(store, 4 * DIRECTORY_PIECE as u64)?;
    let file = open_file(store, descriptor);
    let table = &mut store.data_mut().component().table;
    let directory = match table.get(descriptor)? {
        Descriptor::Dir(directory) => directory.dir.clone(),
        Descriptor::File(_) => return Err(ErrorCode::NotDirectory.into()),
    };
    Ok(table.push(DirectoryEntries {
        directory,
        _file: file,
        _piece: piece,
        read: VecDeque::new(),
        next: Some(0),
    })?)
}

async fn next_entry(
    store: &mut HostStore<'_>,
    entries: &Resource<DirectoryEntries>,
) -> FsResult<Option<DirectoryEntry>> {
    loop {
        let stream = store.data_mut().component().table.get_mut(entries)?;
        while let Some(entry) = stream.read.pop_front() {
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let Ok(name) = String::from_utf8(entry.name) else {
                return Err(ErrorCode::IllegalByteSequence.into());
            };
            let type_ = match entry.file_type {
                1 => DescriptorType::BlockDevice,
                2 => DescriptorType::CharacterDevice,
                3 => DescriptorType::Directory,
                4 => DescriptorType::RegularFile,
                6 => DescriptorType::Socket,
                7 => DescriptorType::SymbolicLink,
                _ => DescriptorType::Unknown,
            };
            return Ok(Some(DirectoryEntry { type_, name }));
        }
        let Some(cookie) = stream.next else {
            return Ok(None);
        };
        let directory = stream.directory.clone();
        let piece = tokio::task::spawn_blocking(move || {
            readdir::read(&*directory, "", cookie, DIRECTORY_PIECE, false)
        });
        let piece = piece
            .await
            .map_err(FsError::trap)?
            .map_err(std::io::Error::from)?;
        let stream = store.data_mut().component().table.get_mut(entries)?;
        stream.read = readdir::heads(&piece.bytes).collect();
        stream.next = piece.next;
    }
}
