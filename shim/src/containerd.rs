//! What containerd passes to the shim and what the shim publishes to containerd, except for the
//! task service.

pub(crate) mod bootstrap;
pub(crate) mod events;
pub(crate) mod identifier;
pub(crate) mod options;
mod wire;
