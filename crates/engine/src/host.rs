//! What guests can ask of the host.

pub(crate) mod beneath;
pub(crate) mod channel;
pub(crate) mod clocks;
pub(crate) mod component;
pub(crate) mod directories;
pub(crate) mod errno;
pub(crate) mod grants;
pub(crate) mod guest_memory;
pub(crate) mod http;
pub(crate) mod kv;
pub(crate) mod load_trace;
pub(crate) mod log;
pub(crate) mod log_rate;
pub(crate) mod no_memory;
pub(crate) mod open_files;
pub(crate) mod outgoing;
pub(crate) mod pointers;
pub(crate) mod random;
pub(crate) mod readdir;
pub(crate) mod report;
pub(crate) mod slices;
pub(crate) mod state;
pub(crate) mod stdio;
pub(crate) mod streams;
pub(crate) mod wasi;
