//! Containers under the real containerd, by `ctr`. `make test` runs them on Debian's versions,
//! `make test-clients` on those too that are built from their Go modules.

/// Tests of a scenario, one for each version of containerd.
macro_rules! on_containerd {
    ($name:ident = $scenario:ident: $($version:ident)*) => {
        mod $name {
            $(on_containerd![@ $version $scenario];)*
        }
    };
    (@ V1_6 $scenario:ident) => { on_containerd![@ on_containerd_1_6 V1_6 $scenario]; };
    (@ V1_7 $scenario:ident) => { on_containerd![@ on_containerd_1_7 V1_7 $scenario]; };
    (@ V2_1 $scenario:ident) => { on_containerd![@ on_containerd_2_1 V2_1 $scenario]; };
    (@ V2_3 $scenario:ident) => {
        on_containerd![@ #[ignore = "make test-clients"] on_containerd_2_3 V2_3 $scenario];
    };
    (@ V2_4 $scenario:ident) => {
        on_containerd![@ #[ignore = "make test-clients"] on_containerd_2_4 V2_4 $scenario];
    };
    (@ $(#[$attribute:meta])? $test:ident $version:ident $scenario:ident) => {
        #[test]
        $(#[$attribute])?
        fn $test() -> anyhow::Result<()> {
            super::$scenario(wws_test::containerd::Version::$version)
        }
    };
}

mod bad_company;
mod bad_project;
mod bounds;
mod code;
mod entry;
mod environment;
mod exhausted;
mod growth;
mod interrupted;
mod leftovers;
mod life;
mod logs;
mod native;
mod network;
mod one_file;
mod options;
mod reload;
mod runs;
mod shim;
mod small_memory;
mod spans;
mod stop;
mod stores;
mod streams;
mod volumes;
