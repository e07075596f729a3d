//! Slots after any calls: memory equals the image, and the bytes that the call under way has
//! written.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};

// Of the engine without wasmtime.
#[allow(dead_code)]
#[path = "../../crates/engine/src/memory"]
mod memory {
    mod dirty;
    pub(crate) mod image;
    pub(crate) mod mapping;
    pub(crate) mod page;
    pub(crate) mod slot;
}

use memory::{
    image::MemoryImage,
    page::{page_size, page_up},
    slot::Slot,
};

const PAGES: usize = 96;
const GUARD: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let _ = check(&mut Unstructured::new(bytes));
});

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let reserved = PAGES * page_size();
    let mut initial = vec![0; choices.int_in_range(0..=reserved / 2)?];
    for _ in 0..choices.int_in_range(0..=6)? {
        if !initial.is_empty() {
            let at = choices.choose_index(initial.len())?;
            initial[at] = choices.arbitrary()?;
        }
    }
    let begins = choices.int_in_range(0..=PAGES / 4)? * page_size();
    let image = MemoryImage::new(begins, &initial).expect("an image");
    initial.splice(0..0, vec![0; begins]);
    initial.resize(reserved, 0);
    let mut slot = Slot::new(&image, reserved, GUARD).expect("a slot");
    let mut model = initial.clone();
    // What can be read and written.
    let mut accessible = image.range().end();
    slot.grow(accessible).expect("memory");
    for _ in 0..choices.int_in_range(0..=32)? {
        match choices.int_in_range(0..=9)? {
            0 => {
                let bytes = choices.int_in_range(0..=reserved)?;
                slot.grow(bytes).expect("memory");
                accessible = accessible.max(page_up(bytes));
            }
            1 => {
                let keep = choices.int_in_range(0..=PAGES)? * page_size();
                let minimum = choices.int_in_range(image.range().end()..=reserved)?;
                slot.reset(&image, keep).expect("a reset");
                slot.shrink(minimum).expect("a shrink");
                accessible = accessible.min(page_up(minimum));
                model.clone_from(&initial);
            }
            2 => {
                slot.release().expect("a release");
                model.clone_from(&initial);
            }
            _ if accessible > 0 => {
                let at = choices.choose_index(accessible)?;
                let len = choices
                    .int_in_range(0..=3 * page_size())?
                    .min(accessible - at);
                let byte: u8 = choices.arbitrary()?;
                // SAFETY: `write_bytes` asks for `len` bytes that can be written. The slot was
                // grown to `accessible` bytes, and nothing else refers to them.
                unsafe { slot.base().add(at).write_bytes(byte, len) };
                model[at..at + len].fill(byte);
            }
            _ => {}
        }
        // SAFETY: `from_raw_parts` asks for bytes that can be read and do not change meanwhile. The
        // slot was grown to as many.
        let found = unsafe { std::slice::from_raw_parts(slot.base(), accessible) };
        assert!(found == &model[..accessible], "memory");
    }
    assert!(slot.grow(reserved + 1).is_err());
    Ok(())
}
