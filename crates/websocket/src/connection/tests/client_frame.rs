//! Frames as a client sends them. The tests of the server use this file, too.

/// A frame of a client: masked.
pub(crate) fn frame(first: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match content.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [9, 8, 7, 6];
    bytes.extend(mask);
    bytes.extend(
        content
            .iter()
            .enumerate()
            .map(|(n, byte)| byte ^ mask[n % 4]),
    );
    bytes
}
