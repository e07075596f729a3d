//! Static files of `public/`.

pub(crate) mod coding;
mod conditions;
pub(crate) mod precompressed;
pub(crate) mod serve;
