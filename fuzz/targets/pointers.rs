//! Pointers of guests: whatever they are, the host reads and writes what the guest named, or
//! nothing.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};

// Of the engine without wasmtime.
#[allow(dead_code)]
#[path = "../../crates/engine/src/host"]
mod host {
    pub(crate) mod errno;
    pub(crate) mod pointers;
}

use host::pointers::{put, put_list, put_sizes, range, vector};

fuzz_target!(|bytes: &[u8]| {
    let _ = check(&mut Unstructured::new(bytes));
});

/// An address near the memory's bounds, or any.
fn address(choices: &mut Unstructured<'_>, len: usize) -> Result<u32> {
    let near = u32::try_from(len).unwrap_or(u32::MAX);
    Ok(match choices.int_in_range(0..=3)? {
        0 => choices.arbitrary()?,
        1 => near
            .wrapping_add(choices.int_in_range(0..=32)?)
            .wrapping_sub(16),
        2 => choices.int_in_range(u32::MAX - 64..=u32::MAX)?,
        _ => choices.int_in_range(0..=near)?,
    })
}

/// Where bytes lie, if they lie in memory: computed with numbers that cannot overflow.
fn place(len: usize, at: u64, bytes: u64) -> Option<std::ops::Range<usize>> {
    let end = at + bytes;
    (end <= len as u64 && at <= u64::from(u32::MAX))
        .then(|| usize::try_from(at).expect("64 bits")..usize::try_from(end).expect("64 bits"))
}

/// Writes bytes as the host should.
fn write(model: &mut [u8], at: u64, bytes: &[u8]) -> Option<()> {
    let place = place(model.len(), at, bytes.len() as u64)?;
    model[place].copy_from_slice(bytes);
    Some(())
}

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut memory = vec![0; choices.int_in_range(0..=300)?];
    choices.fill_buffer(&mut memory)?;
    let mut model = memory.clone();
    for _ in 0..choices.int_in_range(1..=8)? {
        let len = memory.len();
        let at = address(choices, len)?;
        match choices.int_in_range(0..=4)? {
            0 => {
                let bytes = address(choices, len)?;
                let expected = place(len, at.into(), bytes.into()).map(|place| &model[place]);
                assert_eq!(range(&mut memory, at, bytes).as_deref(), expected);
            }
            1 => {
                let bytes = choices.arbitrary::<&[u8]>()?;
                let done = put(&mut memory, at, bytes);
                assert_eq!(done, write(&mut model, at.into(), bytes));
            }
            2 => {
                let index = address(choices, len)?;
                let pair = place(len, u64::from(at) + u64::from(index) * 8, 8).map(|place| {
                    let word = |from: usize| {
                        let word = &model[place.start + from..][..4];
                        u32::from_le_bytes(word.try_into().expect("4 bytes"))
                    };
                    (word(0), word(4))
                });
                assert_eq!(vector(&mut memory, at, index), pair);
            }
            kind => {
                let buffer = address(choices, len)?;
                let list = choices.arbitrary::<Vec<Box<[u8]>>>()?;
                let total: usize = list.iter().map(|item| item.len()).sum();
                let (done, expected) = if kind == 3 {
                    let expected = (|| {
                        let mut text = u64::from(buffer);
                        for (index, item) in list.iter().enumerate() {
                            let pointer = u64::from(at) + index as u64 * 4;
                            let value = u32::try_from(text).ok()?;
                            write(&mut model, pointer, &value.to_le_bytes())?;
                            write(&mut model, text, item)?;
                            text += item.len() as u64;
                        }
                        Some(0)
                    })();
                    (put_list(&mut memory, &list, at, buffer), expected)
                } else {
                    let expected = (|| {
                        let count = u32::try_from(list.len()).ok()?;
                        write(&mut model, at.into(), &count.to_le_bytes())?;
                        let total = u32::try_from(total).ok()?;
                        write(&mut model, buffer.into(), &total.to_le_bytes())?;
                        Some(0)
                    })();
                    (put_sizes(&mut memory, &list, at, buffer), expected)
                };
                assert_eq!(done, expected);
            }
        }
        assert_eq!(memory, model);
    }
    Ok(())
}
