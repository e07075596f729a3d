//! Compiled code on disk: compiled once per host and engine, mapped by every process that runs it.
//!
//! A process trusts the native code that it maps, so only `wws` writes a cache, on behalf of the
//! shim and outside of all containers. Containers see the entries that they need through a
//! read-only mount. Both constructors check that: `CodeCache::read_only` accepts only a read-only
//! mount, `CodeCache::open` only a directory and entries of the process' own user. The name of an
//! entry is the SHA-256 of what was compiled and of what compiled it, so a changed file, setting,
//! CPU or version of the engine finds no entry rather than a wrong one.
//!
//! An entry is a file of wasmtime's format with a trailer that detects damage (not attackers, who
//! cannot write entries):
//!
//! ```text
//! | code (ELF) | "wwscode1" | length of code, u64 LE | CRC-32 of code, u32 LE |
//! ```
//!
//! A complete entry is renamed into place, so a crash leaves no partial entry, and two processes
//! that store the same entry at once both succeed. Removing a mapped entry is safe: its pages live
//! until they are unmapped.

pub(crate) mod cache;
mod failed;
pub(crate) mod turn;
pub(crate) mod writing;
