//! How `wws` is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // 43,000 relocations in 1 MB, which every start reads, become some 10 KB.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
