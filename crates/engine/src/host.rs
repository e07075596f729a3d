//! A call's side of the host: what the functions that a guest imports work on.

use std::{sync::Arc, time::Instant};

use wasmtime::Memory;
use wasmtime_wasi::{WasiCtxBuilder, WasiView, p1::WasiP1Ctx};

use crate::{budget::Quota, guest::Inner, guest_log::GuestLog};

/// State of one call.
pub(crate) struct Host {
    pub(crate) guest: Arc<Inner>,
    pub(crate) stdin: Vec<u8>,
    /// How much of `stdin` was read.
    pub(crate) read: usize,
    pub(crate) stdout: Vec<u8>,
    pub(crate) log: GuestLog,
    /// Standard streams that the guest closed.
    pub(crate) closed: [bool; 3],
    /// The guest's memory, once it was needed.
    pub(crate) memory: Option<Memory>,
    pub(crate) quota: Quota,
    /// Outgoing HTTP requests that are left.
    pub(crate) http_calls: u32,
    pub(crate) start: Instant,
    wasi: Option<Box<WasiP1Ctx>>,
}

impl Host {
    pub(crate) fn new(guest: Arc<Inner>, stdin: Vec<u8>, log: GuestLog, quota: Quota) -> Self {
        Self {
            http_calls: guest.limits.http_calls,
            guest,
            stdin,
            read: 0,
            stdout: Vec::new(),
            log,
            closed: [false; 3],
            memory: None,
            quota,
            start: Instant::now(),
            wasi: None,
        }
    }

    /// State of `wasmtime-wasi`, made when first asked for: most guests never do.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi.get_or_insert_with(|| {
            let mut wasi = WasiCtxBuilder::new().build_p1();
            // The folders were opened once, at start.
            *WasiView::ctx(&mut wasi).ctx.filesystem() = self.guest.files.clone();
            Box::new(wasi)
        })
    }
}
