//! Cgroup v2, made by systemd: scopes in slices, under the Docker and containerd that Debian's
//! units start. `make test-vm` runs these in a guest of its own, which they take to themselves.

mod ctr;
mod ends;
mod limits;

use anyhow::Result;
use wws_test::image::{Image, PROBE};
use wws_test::system::System;

const PLATFORM: &str = "--platform=wasi/wasm";
const NATIVE: &str = env!("CARGO_BIN_EXE_native-hello");

/// Runs scenarios, and looks that they leave nothing.
macro_rules! in_a_guest {
    ($($file:ident: $name:ident),* $(,)?) => {
        $(#[test]
        #[ignore = "make test-vm"]
        fn $name() -> Result<()> {
            let system = System::new()?;
            $file::$name(&system)?;
            system.expect_nothing_left()
        })*
    };
}

in_a_guest![
    limits: a_container_is_a_scope_with_its_limits,
    limits: updates_limits_of_the_scope,
    limits: a_paused_container_is_frozen,
    limits: the_limit_of_a_slice_applies_to_its_containers,
    limits: reports_every_oom,
    ends: a_killed_shim_leaves_no_scope,
    ends: containers_survive_a_restart_of_the_unit_of_containerd,
    ends: containers_come_back_after_a_restart_of_the_unit_of_docker,
    ctr: plain_cgroup_path_is_a_directory,
    ctr: a_path_in_three_parts_is_a_scope,
    ctr: the_shim_may_have_its_own_cgroup,
];

fn probe() -> Result<Image> {
    Image::probe("probe", "")
}

fn is_served(system: &System, port: u16) -> Result<()> {
    let answer = system.get(port, &format!("{PROBE}?log=served"))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}

/// The scope that Docker's container `name` should be.
fn scope(system: &System, name: &str) -> Result<String> {
    Ok(format!("docker-{}.scope", system.inspect(name, "{{.Id}}")?))
}
