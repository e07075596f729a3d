//! Memory that was freed goes back to the system when it is worth it: after compiling, and when a server is idle.
//!
//! The allocator keeps what a thread freed for that thread's next allocations. A thread that sleeps never gives it back by itself.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// SAFETY: the declaration is that of `mimalloc.h`; the function may be called by any thread at any time.
unsafe extern "C" {
    /// Of mimalloc: gives free memory of the calling thread, and of threads that ended, back to the system.
    safe fn mi_collect(force: bool);
}

/// Gives back what this thread freed.
pub(crate) fn collect() {
    mi_collect(true);
}

/// Gives back what this thread and the compiler's threads freed.
pub(crate) fn collect_after_compiling() {
    rayon::broadcast(|_| collect());
    collect();
}
