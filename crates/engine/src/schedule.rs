//! When guests run: CPU time, the clock that measures it, and the fast and the slow lane.

pub(crate) mod cpu;
pub(crate) mod lane;
pub(crate) mod priority;
pub(crate) mod steady;
pub(crate) mod ticker;
