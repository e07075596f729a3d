//! Error numbers of WASI preview 1.
//!
//! Source: `wasi_snapshot_preview1.witx`.

pub(crate) const SUCCESS: i32 = 0;
pub(crate) const BADF: i32 = 8;
pub(crate) const FAULT: i32 = 21;
pub(crate) const INVAL: i32 = 28;
pub(crate) const MFILE: i32 = 33;
pub(crate) const NAMETOOLONG: i32 = 37;
pub(crate) const NFILE: i32 = 41;
pub(crate) const NOMEM: i32 = 48;
pub(crate) const NOTDIR: i32 = 54;
pub(crate) const NOTSUP: i32 = 58;
pub(crate) const SPIPE: i32 = 70;
