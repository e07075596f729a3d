//! Protobuf messages of which the shim knows some fields only.

use std::io;

use containerd_shim_protos::protobuf::rt::WireType;
use containerd_shim_protos::protobuf::{self, CodedInputStream};

/// Skips the value of a field of the wire type `kind`.
///
/// # Errors
/// The wire type does not exist, or the message ends.
pub(super) fn skip_field(input: &mut CodedInputStream<'_>, kind: u32) -> protobuf::Result<()> {
    let kind = WireType::new(kind).ok_or_else(|| io::Error::other("not a protobuf message"))?;
    input.skip_field(kind)
}
