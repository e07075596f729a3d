//! Threads, locks and clocks of the files that `test/models` checks: there, this module names the
//! types of a model that runs threads in every order.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
pub(crate) use std::thread;
pub(crate) use std::time::Instant;
