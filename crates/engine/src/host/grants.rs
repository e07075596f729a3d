//! What a guest was given: opened and checked once, shared by all its calls.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::StatVfsMountFlags;
use tracing::level_filters::LevelFilter;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wws_telemetry::WorkerSeries;

use crate::error::{LoadError, WasmError};
use crate::host::directories::Directories;
use crate::host::log_rate::LogRate;
use crate::spec::{GuestLimits, GuestSpec, KvGrant, PreopenedDirectory};

/// What calls of a guest are counted in, and how much of what it prints is logged.
pub(crate) struct GuestReport {
    pub(crate) series: Arc<WorkerSeries>,
    /// The least severe lines that are logged.
    pub(crate) log_level: LevelFilter,
    /// Lines that are logged in a second; 0 sets no bound.
    pub(crate) log_rate: u32,
    pub(crate) rate: LogRate,
}

/// What all calls of a guest share.
pub(crate) struct GuestGrants {
    pub(crate) name: Arc<str>,
    pub(crate) env: Vec<Box<[u8]>>,
    pub(crate) args: Vec<Box<[u8]>>,
    /// `env` and `args` as components are given them.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) arguments: Vec<String>,
    directory_names: Vec<String>,
    pub(crate) directories: Directories,
    /// All preopened directories, in the order of their descriptors.
    pub(crate) preopened: Vec<OwnedFd>,
    pub(crate) files: WasiFilesystemCtx,
    pub(crate) kv: Option<KvGrant>,
    pub(crate) http: Option<(wws_outbound::Policy, wws_outbound::Client)>,
    pub(crate) limits: GuestLimits,
    /// What calls report to, once somebody counts.
    pub(crate) report: OnceLock<GuestReport>,
}

impl GuestGrants {
    /// Opens what `spec` names. The guest can only read the directories of `read_only`, which come
    /// before those of `spec`.
    pub(crate) fn new(
        spec: GuestSpec,
        read_only: Vec<PreopenedDirectory>,
    ) -> Result<Self, LoadError> {
        let mut wasi = WasiCtxBuilder::new();
        let mut directory_names = Vec::with_capacity(spec.directories.len());
        let mut directories = Vec::with_capacity(spec.directories.len());
        let mut preopened = Vec::with_capacity(spec.directories.len());
        let all = read_only
            .into_iter()
            .map(|directory| (directory, FsPerms::ReadOnly, false))
            .chain(spec.directories.into_iter().map(|directory| {
                let permissions = permissions(&directory.dir);
                (directory, permissions, true)
            }));
        for (directory, permissions, is_given) in all {
            // wasmtime-wasi opens directories by path; the descriptor's own path names the very
            // directory that was checked.
            let path = format!("/proc/self/fd/{}", directory.dir.as_raw_fd());
            wasi.preopened_dir(path, &directory.to, permissions)
                .map_err(|error| {
                    LoadError::host(format!("cannot open the directory for {}", directory.to))
                        .caused_by(WasmError::new(error))
                })?;
            directory_names.push(directory.to.clone());
            preopened.push(
                directory
                    .dir
                    .try_clone()
                    .map(OwnedFd::from)
                    .map_err(|error| {
                        LoadError::host(format!("cannot open the directory for {}", directory.to))
                            .caused_by(error)
                    })?,
            );
            if is_given {
                directories.push((directory.dir.into(), directory.to));
            }
        }
        Ok(Self {
            name: spec.name.into(),
            variables: spec.env.clone(),
            arguments: spec.args.clone(),
            env: spec
                .env
                .into_iter()
                .map(|(name, value)| c_string("a variable", format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            args: spec
                .args
                .into_iter()
                .map(|arg| c_string("an argument", arg))
                .collect::<Result<_, _>>()?,
            directory_names,
            directories: Directories::new(directories),
            preopened,
            files: wasi.build().filesystem().clone(),
            kv: spec.kv,
            http: spec.http,
            limits: spec.limits,
            report: OnceLock::new(),
        })
    }

    /// What calls are counted in, if somebody counts.
    pub(crate) fn series(&self) -> Option<&Arc<WorkerSeries>> {
        Some(&self.report.get()?.series)
    }

    /// The path at which the guest sees a preopened descriptor; these begin at 3.
    pub(crate) fn directory_name(&self, fd: i32) -> Option<&str> {
        let index = self.directory_index(fd)?;
        self.directory_names.get(index).map(String::as_str)
    }

    /// The number of a preopened descriptor's directory.
    pub(crate) fn directory_index(&self, fd: i32) -> Option<usize> {
        let index = usize::try_from(fd).ok()?.checked_sub(3)?;
        (index < self.directory_names.len()).then_some(index)
    }
}

/// What a guest may do in a directory. On a file system that is mounted read-only, wasmtime-wasi
/// reports so in WASI's terms; the kernel's error has no counterpart there.
fn permissions(dir: &std::fs::File) -> FsPerms {
    match rustix::fs::fstatvfs(dir) {
        Ok(status) if status.f_flag.contains(StatVfsMountFlags::RDONLY) => FsPerms::ReadOnly,
        _ => FsPerms::ReadWrite,
    }
}

fn c_string(what: &str, text: String) -> Result<Box<[u8]>, LoadError> {
    if text.contains('\0') {
        return Err(LoadError::unsupported(format!(
            "{what} has a NUL character"
        )));
    }
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Ok(bytes.into())
}
