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
    limits: limits_are_changed_in_the_scope,
    limits: a_paused_container_is_frozen,
    limits: a_slices_limit_holds_for_the_containers_in_it,
    limits: memory_that_runs_out_is_told_every_time,
    ends: a_killed_shim_leaves_no_scope,
    ends: containers_outlive_the_restart_of_containerds_unit,
    ends: containers_come_back_after_the_restart_of_dockers_unit,
    ctr: plain_cgroup_path_is_a_directory,
    ctr: a_path_in_three_parts_is_a_scope,
    ctr: the_shim_may_have_a_group_of_its_own,
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
