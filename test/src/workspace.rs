//! Where the things lie that the tests are about. Everything is built by `make` before; nothing is
//! built here.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The directory of the `containerd-shim-wws-v1` and `wws` under test: what `WWS_TEST_PROGRAMS`
/// names (say, of an installed package), or else where `make build` puts them.
///
/// # Errors
/// They are not there.
pub fn programs() -> Result<PathBuf> {
    let directory = env::var_os("WWS_TEST_PROGRAMS")
        .map_or_else(|| root().join("target/release"), PathBuf::from);
    for name in ["containerd-shim-wws-v1", "wws"] {
        present(directory.join(name), "make build")?;
    }
    Ok(directory)
}

/// The prefix `name` under `target/tools`, where distribution packages are unpacked.
///
/// # Errors
/// It is not there.
pub fn tools(name: &str) -> Result<PathBuf> {
    present(root().join("target/tools").join(name), "make tools")
}

/// The prefix `name` under `target/tools`, for what is built from its Go module.
///
/// # Errors
/// It is not there.
pub fn built(name: &str) -> Result<PathBuf> {
    present(root().join("target/tools").join(name), "scripts/clients.sh")
}

/// The client `name`, which is built from its Go module.
///
/// # Errors
/// It is not built.
pub fn client(name: &str) -> Result<PathBuf> {
    present(
        root().join("target/tools/clients/bin").join(name),
        "scripts/clients.sh",
    )
}

/// Kubernetes, as one program.
///
/// # Errors
/// It is not built.
pub fn kubernetes() -> Result<PathBuf> {
    present(
        root().join("target/tools/kubernetes/bin/kube"),
        "scripts/kubernetes.sh",
    )
}

/// Helm.
///
/// # Errors
/// It is not built.
pub fn helm() -> Result<PathBuf> {
    present(root().join("target/tools/helm/bin/helm"), "scripts/helm.sh")
}

/// The image `name` as a tar file that `ctr image import` reads.
///
/// # Errors
/// It is not built.
pub fn image(name: &str) -> Result<PathBuf> {
    present(
        root().join("target/images").join(format!("{name}.tar")),
        "make images",
    )
}

/// The worker `name` of `test/guests`, as Wasm.
///
/// # Errors
/// It is not built.
pub fn guest(name: &str) -> Result<PathBuf> {
    present(
        root().join("target/guests").join(format!("{name}.wasm")),
        "make images",
    )
}

/// The code cache of servers without a container: the one that containers of tests share
/// (`WWS_TEST_STORE`), if there is one.
#[must_use]
pub fn code_cache() -> PathBuf {
    env::var_os("WWS_TEST_STORE").map_or_else(|| root().join("target/code"), PathBuf::from)
}

fn present(path: PathBuf, command: &str) -> Result<PathBuf> {
    if !path.exists() {
        bail!(
            "{} is missing: run `{command}` first (`make test` does)",
            path.display()
        );
    }
    Ok(path)
}
