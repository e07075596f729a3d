//! `wasi:keyvalue`: the worker's namespace of the key/value store.
//!
//! The two drafts that toolchains use differ in the types of a cursor and of a sum, in what
//! `get-many` returns, and in that only the second has compare-and-swap.

mod atomics;
mod batch;
mod bucket;
mod store;

use wasmtime::component::Linker;

use crate::host::state::Host;

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    for version in ["0.2.0-draft", "0.2.0-draft2"] {
        let is_first = version == "0.2.0-draft";
        let mut instance = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
        store::one_key(&mut instance)?;
        match is_first {
            true => store::list(&mut instance)?,
            false => store::list_by_text(&mut instance)?,
        }
        let mut instance = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
        batch::many_keys(&mut instance)?;
        match is_first {
            true => batch::get_found(&mut instance)?,
            false => batch::get_each(&mut instance)?,
        }
        let mut instance = linker.instance(&format!("wasi:keyvalue/atomics@{version}"))?;
        match is_first {
            true => atomics::add_to_number(&mut instance)?,
            false => {
                atomics::add_to_signed_number(&mut instance)?;
                atomics::compare_and_swap(&mut instance)?;
            }
        }
    }
    Ok(())
}
