//! Locks, channels and timers of the files that `test/models` checks: there, this module names the
//! types of a model that runs threads in every order.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::sync::oneshot;
pub(crate) use tokio::time::timeout;
