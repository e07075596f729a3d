//! Reads and writes guest memory where a guest's pointers say; every pointer is checked.

use crate::host::errno::SUCCESS;

/// The `len` bytes at `at`. `None`: the guest named memory that it does not have.
pub(crate) fn range(memory: &mut [u8], at: u32, len: u32) -> Option<&mut [u8]> {
    let at = at as usize;
    memory.get_mut(at..at.checked_add(len as usize)?)
}

/// Writes `bytes` at `at`.
pub(crate) fn put(memory: &mut [u8], at: u32, bytes: &[u8]) -> Option<()> {
    range(memory, at, u32::try_from(bytes.len()).ok()?)?.copy_from_slice(bytes);
    Some(())
}

/// The pointer and length of one I/O vector.
pub(crate) fn vector(memory: &mut [u8], vectors: u32, index: u32) -> Option<(u32, u32)> {
    let at = vectors.checked_add(index.checked_mul(8)?)?;
    let pair = range(memory, at, 8)?;
    let (a, b) = pair.split_at(4);
    Some((
        u32::from_le_bytes(a.try_into().ok()?),
        u32::from_le_bytes(b.try_into().ok()?),
    ))
}

/// Writes a list of NUL-terminated strings as WASI defines it: pointers, then the bytes.
pub(crate) fn put_list(
    memory: &mut [u8],
    list: &[Box<[u8]>],
    pointers: u32,
    buffer: u32,
) -> Option<i32> {
    let mut at = buffer;
    for (index, item) in list.iter().enumerate() {
        let pointer = pointers.checked_add(u32::try_from(index * 4).ok()?)?;
        put(memory, pointer, &at.to_le_bytes())?;
        put(memory, at, item)?;
        at = at.checked_add(u32::try_from(item.len()).ok()?)?;
    }
    Some(SUCCESS)
}

/// Writes the sizes that [`put_list`] needs: the number of strings, and of their bytes.
pub(crate) fn put_sizes(
    memory: &mut [u8],
    list: &[Box<[u8]>],
    count: u32,
    size: u32,
) -> Option<i32> {
    let bytes: usize = list.iter().map(|item| item.len()).sum();
    put(
        memory,
        count,
        &u32::try_from(list.len()).ok()?.to_le_bytes(),
    )?;
    put(memory, size, &u32::try_from(bytes).ok()?.to_le_bytes())?;
    Some(SUCCESS)
}
