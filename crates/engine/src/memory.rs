//! Memory: accounts, and the linear memory of guests, which lies in slots that are mapped once and
//! reset between calls.
//!
//! wasmtime asks a [`MemoryCreator`](wasmtime::MemoryCreator) for the memory of each instance. The
//! [`pool`] hands out a [`slot`]: reserved address space that keeps its mappings for its whole
//! life. A slot belongs to an [`image`], the memory with which every call of a module starts. After
//! a call, the pages that it wrote (and only these: [`dirty`] asks the kernel) get the image's
//! bytes again. So a request costs no `mmap`, `munmap` or `mprotect`, and no page fault for memory
//! that an earlier one touched. No call sees the bytes of an earlier one; `tests/isolation.rs`
//! checks that.

pub(crate) mod account;
mod dirty;
mod idle;
pub(crate) mod image;
pub(crate) mod mapping;
pub(crate) mod page;
pub(crate) mod pool;
pub(crate) mod quota;
mod slot;
pub(crate) mod stack;
