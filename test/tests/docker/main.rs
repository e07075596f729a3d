//! What users of Docker type, on Docker 26.1, 28.5 and 29. `make test-clients` runs these: they
//! take minutes, and packages that other tests have no use for.

mod bounds;
mod compose;
mod ends;
mod life;

use anyhow::Result;
use wws_test::docker::{Docker, DockerVersion};
use wws_test::image::{Image, PROBE};
use wws_test::port;

const RUNTIME: &str = "--runtime=io.containerd.wws.v1";
const PLATFORM: &str = "--platform=wasi/wasm";

/// Runs scenarios on each version, those after `28:` on that and newer ones alone, and looks that
/// they leave nothing.
macro_rules! on_each_docker {
    ($($file:ident: $name:ident),*; 28: $($newer:ident: $only:ident),* $(,)?) => {
        on_docker![docker_26, V26, $($file: $name),*];
        on_docker![docker_28, V28, $($file: $name,)* $($newer: $only),*];
        on_docker![docker_29, V29, $($file: $name,)* $($newer: $only),*];
    };
}

macro_rules! on_docker {
    ($module:ident, $version:ident, $($file:ident: $name:ident),*) => {
        mod $module {
            $(#[test]
            #[ignore = "make test-clients"]
            fn $name() -> anyhow::Result<()> {
                super::on(super::DockerVersion::$version, super::$file::$name)
            })*
        }
    };
}

on_each_docker![
    life: an_image_is_built_and_run_with_a_published_port_and_a_volume,
    life: an_image_for_all_platforms_is_run_without_naming_one,
    life: an_image_with_a_provenance_attestation_is_run,
    life: arguments_follow_the_image,
    life: stop_signals_stop_gracefully,
    life: create_start_stop_remove,
    life: commit_contains_only_files_of_the_image,
    life: runs_commands_inside,
    life: host_network_and_terminal,
    life: a_program_opens_its_input_by_name,
    life: an_init_program_changes_nothing,
    life: a_command_of_the_server_is_run_on_an_image,
    bounds: respects_limits_and_privileges,
    bounds: reports_too_few_processes_in_one_line,
    bounds: oom_kills_are_reported,
    ends: reports_a_project_that_does_not_load,
    ends: reports_a_missing_entry_point,
    ends: rejects_an_image_of_another_platform,
    ends: a_container_is_started_again,
    ends: restart_policies_restart_a_failing_container,
    ends: a_killed_shim_leaves_nothing_behind,
    ends: containers_survive_a_restart_of_containerd,
    compose: reports_the_health_of_a_container,
    compose: compose_services;
    28:
    // Docker 26 has no networks without IPv4.
    life: serves_a_network_of_ipv6_only,
];

fn on(version: DockerVersion, scenario: fn(&mut Docker) -> Result<()>) -> Result<()> {
    let mut docker = Docker::start(version)?;
    scenario(&mut docker)?;
    docker.expect_nothing_left()
}

fn load(docker: &Docker, image: Image) -> Result<String> {
    let (name, tar) = image.write(&docker.containerd().directory())?;
    docker.docker(&["load", "--input", &tar.to_string_lossy()])?;
    Ok(name)
}

fn probe(docker: &Docker) -> Result<String> {
    load(docker, Image::probe("probe", "")?)
}

/// `docker run --detach` of a container of workers, published on the port that is returned.
fn run(docker: &Docker, name: &str, options: &[&str], image: &str) -> Result<u16> {
    let port = port::free()?;
    let publish = format!("127.0.0.1:{port}:3000");
    let mut words = vec!["run", "--detach", "--name", name, RUNTIME, PLATFORM];
    words.extend(["--publish", &publish]);
    words.extend(options);
    words.push(image);
    docker.docker(&words)?;
    Ok(port)
}

fn is_served(docker: &Docker, name: &str, port: u16) -> Result<()> {
    let answer = docker.get(name, port, &format!("{PROBE}?log=served"))?;
    assert_eq!(answer.status, 200, "{}", docker.logs(name)?);
    Ok(())
}

fn exit(docker: &Docker, name: &str) -> Result<String> {
    docker.inspect(
        name,
        "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}",
    )
}
