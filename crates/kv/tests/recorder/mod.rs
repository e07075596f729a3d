//! A file system of SQLite that passes everything on to the usual one, and records what was written
//! and what was synced.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use rusqlite::ffi::{
    SQLITE_OK, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find,
    sqlite3_vfs_register,
};

/// Calls a function of the usual file.
macro_rules! pass_on {
    ($file:ident, $function:ident $(, $argument:expr)*) => {{
        let file = real($file);
        (*(*file).pMethods).$function.unwrap()(file $(, $argument)*)
    }};
}

/// A change of a file.
#[derive(Clone, Debug)]
pub(crate) enum FileChange {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl FileChange {
    /// The offset and the bytes of a write.
    pub(crate) fn bytes(&self) -> Option<(usize, &[u8])> {
        match self {
            Self::Write(offset, bytes) => Some((*offset, bytes)),
            Self::Truncate(_) => None,
        }
    }

    /// The length that a file has been cut to; of a write, its end.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Write(offset, bytes) => offset + bytes.len(),
            Self::Truncate(length) => *length,
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                content.resize(content.len().max(self.length()), 0);
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }
}

/// What a file's disk has, and what it may have.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileImage {
    pub(crate) synced: Vec<u8>,
    /// Changes since, in order.
    pub(crate) pending: Vec<FileChange>,
}

static FILES: Mutex<BTreeMap<PathBuf, FileImage>> = Mutex::new(BTreeMap::new());

/// The recorded files of a directory, all of one moment, by their names.
pub(crate) fn files(directory: &Path) -> BTreeMap<OsString, FileImage> {
    let files = FILES.lock().unwrap();
    let of_directory = files
        .iter()
        .filter(|(path, _)| path.parent() == Some(directory));
    of_directory
        .map(|(path, image)| (path.file_name().unwrap().to_owned(), image.clone()))
        .collect()
}

/// The directories whose files are recorded.
static RECORDED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Records the files of databases that are opened in a directory from now on.
pub(crate) fn record_files_in(directory: &Path) {
    RECORDED.lock().unwrap().push(directory.to_owned());
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: the usual VFS lives as long as the process, and so does its copy, which is
        // leaked. Its other functions take any VFS with the same fields.
        unsafe {
            let usual = sqlite3_vfs_find(std::ptr::null());
            REAL.set(Real(usual)).ok().unwrap();
            let mut recording = *usual;
            recording.szOsFile += size_of::<RecordedFile>() as c_int;
            recording.zName = c"recorder".as_ptr();
            recording.pNext = std::ptr::null_mut();
            recording.xOpen = Some(open);
            recording.xDelete = Some(delete);
            let recording = Box::leak(Box::new(recording));
            assert_eq!(sqlite3_vfs_register(recording, 1), SQLITE_OK);
        }
    });
}

struct Real(*mut sqlite3_vfs);
// SAFETY: SQLite's VFS is for all threads.
unsafe impl Send for Real {}
// SAFETY: as for `Send`.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// An open file. The usual one lies behind it in memory.
#[repr(C)]
struct RecordedFile {
    base: sqlite3_file,
    /// A leaked path; null for a file that is not recorded.
    path: *const PathBuf,
}

/// The usual file behind a recorded one.
unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite has allocated `szOsFile` bytes, of which the usual file's follow ours.
    unsafe { file.cast::<RecordedFile>().add(1).cast() }
}

/// Changes the image of a file.
unsafe fn record(file: *mut sqlite3_file, change: impl FnOnce(&mut FileImage)) {
    // SAFETY: `open` has set the path of every open file, which is never freed.
    let path = unsafe { (*file.cast::<RecordedFile>()).path.as_ref() };
    if let Some(path) = path {
        let mut files = FILES.lock().unwrap();
        change(files.entry(path.clone()).or_default());
    }
}

/// The leaked path of a file that is recorded; null for others.
fn recorded_path(path: &Path) -> *const PathBuf {
    let recorded = RECORDED.lock().unwrap();
    match path.parent() {
        Some(parent) if recorded.iter().any(|directory| directory == parent) => {
            Box::leak(Box::new(path.to_owned()))
        }
        _ => std::ptr::null(),
    }
}

unsafe extern "C" fn open(
    _vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's, passed on to the function that they are meant for.
    unsafe {
        (*file).pMethods = std::ptr::null();
        let usual = REAL.get().unwrap().0;
        let opened = (*usual).xOpen.unwrap()(usual, name, real(file), flags, out);
        if opened != SQLITE_OK {
            return opened;
        }
        let recorded = file.cast::<RecordedFile>();
        (*recorded).path = match name.is_null() {
            true => std::ptr::null(),
            false => recorded_path(Path::new(OsStr::from_bytes(
                CStr::from_ptr(name).to_bytes(),
            ))),
        };
        (*file).pMethods = &METHODS;
        record(file, |_| {});
        SQLITE_OK
    }
}

/// Removes a file: of the rollback journal from before the database has its log. The first sync of
/// the log syncs the directory as well.
unsafe extern "C" fn delete(
    _vfs: *mut sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: as in `open`; the name is a path.
    unsafe {
        let path = Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes()));
        FILES.lock().unwrap().remove(path);
        let usual = REAL.get().unwrap().0;
        (*usual).xDelete.unwrap()(usual, name, sync_directory)
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: as in `open`; SQLite has `length` bytes there.
    unsafe {
        let content = std::slice::from_raw_parts(bytes.cast::<u8>(), length as usize);
        let change = FileChange::Write(offset as usize, content.to_vec());
        record(file, |image| image.pending.push(change));
        pass_on!(file, xWrite, bytes, length, offset)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let change = FileChange::Truncate(length as usize);
        record(file, |image| image.pending.push(change));
        pass_on!(file, xTruncate, length)
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let synced = pass_on!(file, xSync, flags);
        if synced == SQLITE_OK {
            record(file, |image| {
                for change in std::mem::take(&mut image.pending) {
                    change.apply(&mut image.synced);
                }
            });
        }
        synced
    }
}

/// Functions that pass everything on.
macro_rules! passed_on {
    ($($name:ident = $function:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $type)*) -> $result {
            // SAFETY: as in `open`.
            unsafe { pass_on!(file, $function $(, $argument)*) }
        })*
    };
}

passed_on! {
    close = xClose() -> c_int;
    read = xRead(bytes: *mut c_void, length: c_int, offset: sqlite3_int64) -> c_int;
    file_size = xFileSize(size: *mut sqlite3_int64) -> c_int;
    lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    check_reserved_lock = xCheckReservedLock(out: *mut c_int) -> c_int;
    file_control = xFileControl(operation: c_int, argument: *mut c_void) -> c_int;
    sector_size = xSectorSize() -> c_int;
    characteristics = xDeviceCharacteristics() -> c_int;
    shm_map = xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock = xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier() -> ();
    shm_unmap = xShmUnmap(delete: c_int) -> c_int;
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without mapped files.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
