//! Protobuf messages whose type the shim does not know in full: field by field.

use containerd_shim_protos::protobuf::{self, CodedInputStream};

/// The fields of a message that have this number and are bytes.
pub(super) fn fields(message: &[u8], number: u32) -> protobuf::Result<Vec<Vec<u8>>> {
    const BYTES: u32 = 2;
    let mut found = Vec::new();
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if (tag >> 3, tag & 7) == (number, BYTES) {
            found.push(input.read_bytes()?);
            continue;
        }
        skip(&mut input, tag & 7)?;
    }
    Ok(found)
}

/// Leaves out a field of the wire type `kind`.
///
/// # Errors
/// There is no such type, or no such field.
pub(super) fn skip(input: &mut CodedInputStream<'_>, kind: u32) -> protobuf::Result<()> {
    let kind = protobuf::rt::WireType::new(kind)
        .ok_or_else(|| std::io::Error::other("not a protobuf message"))?;
    input.skip_field(kind)
}
