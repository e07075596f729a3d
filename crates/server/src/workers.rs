//! Workers of a project become guests; their code is compiled at the start or ahead of time.

pub(crate) mod compile_memory;
pub(crate) mod compiling;
pub(crate) mod failure;
pub(crate) mod guests;
pub(crate) mod languages;
pub(crate) mod loaded;
mod not_a_worker;
pub(crate) mod outgoing;
mod parallel;
pub(crate) mod precompile;
