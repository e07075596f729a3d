//! How the shim is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Relocations are read by each start: packed, they are a tenth as many bytes.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
