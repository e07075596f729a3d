//! Protobuf messages of which the shim knows some fields only.

use std::io;

use containerd_shim_protos::protobuf::rt::WireType;
use containerd_shim_protos::protobuf::{self, CodedInputStream};

/// Returns the values of all fields of a message that have this number and contain bytes.
pub(super) fn bytes_fields(message: &[u8], number: u32) -> protobuf::Result<Vec<Vec<u8>>> {
    const BYTES: u32 = 2;
    let mut found = Vec::new();
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if (tag >> 3, tag & 7) == (number, BYTES) {
            found.push(input.read_bytes()?);
            continue;
        }
        skip_field(&mut input, tag & 7)?;
    }
    Ok(found)
}

/// Skips the value of a field of the wire type `kind`.
///
/// # Errors
/// The wire type does not exist, or the message ends.
pub(super) fn skip_field(input: &mut CodedInputStream<'_>, kind: u32) -> protobuf::Result<()> {
    let kind = WireType::new(kind).ok_or_else(|| io::Error::other("not a protobuf message"))?;
    input.skip_field(kind)
}
