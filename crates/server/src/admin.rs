//! The listener for operators, apart from the port of the workers.

pub(crate) mod listen;
pub(crate) mod serve;
