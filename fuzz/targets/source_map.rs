//! Source maps: any bytes are read or refused, and places are looked up in what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;

// One file that needs nothing of its crate: neither is the engine compiled for it.
#[allow(dead_code)]
#[path = "../../crates/languages/src/javascript/mappings.rs"]
mod mappings;

fuzz_target!(|text: &str| {
    let maps = [
        mappings::Mappings::read(text.as_bytes()),
        mappings::Mappings::from_url(text),
        mappings::Mappings::read(
            format!("{{\"sources\":[\"a\",null],\"mappings\":{text:?}}}").as_bytes(),
        ),
    ];
    for map in maps.into_iter().flatten() {
        for line in [0, 1, 2, u32::MAX] {
            for column in [0, 1, 7, u32::MAX] {
                let _ = map.find(line, column);
            }
        }
    }
});
