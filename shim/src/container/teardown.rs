//! The teardown of a container: one list of idempotent steps for a create that failed, for `delete`
//! of the task service, and for the command `delete` after the shim died.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::code::ContainerCode;
use crate::cgroup;
use crate::error::{Error, ErrorCode, Result};
use crate::oci::{bundle, mount};
use crate::process::Process;
use crate::runc::Runc;
use crate::sys::reaper::Reaper;
use crate::sys::thread::spawn_blocking;

/// How often the OCI runtime is called after a create that failed, and the pause between the calls.
const DELETE_ATTEMPTS: u32 = 10;
const DELETE_PAUSE: Duration = Duration::from_millis(200);

/// A step of the teardown. Each may run any number of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TeardownStep {
    /// Kills the compiler of the container's code.
    Compilation,
    /// Deletes the OCI runtime's container, and kills its processes.
    RuntimeContainer,
    /// Removes cgroups that the OCI runtime does not know: it died before it recorded the
    /// container.
    Cgroups,
    /// Copies the rest of the output, and closes the streams.
    Streams,
    /// Removes the links to the compiled code.
    CodeLinks,
    /// Unmounts the root file system.
    Rootfs,
}

/// The steps in their order: what runs, then what those processes use.
const STEPS: [TeardownStep; 6] = [
    TeardownStep::Compilation,
    TeardownStep::RuntimeContainer,
    TeardownStep::Cgroups,
    TeardownStep::Streams,
    TeardownStep::CodeLinks,
    TeardownStep::Rootfs,
];

impl TeardownStep {
    /// Returns whether a container counts as deleted only if the step succeeds. What the others
    /// leave is empty or small, and an unwritable code cache must not keep containers.
    pub(crate) fn must_succeed(self) -> bool {
        matches!(self, Self::RuntimeContainer | Self::Rootfs)
    }
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct StepFailure {
    /// The step.
    pub(crate) step: TeardownStep,
    /// Why it failed.
    pub(crate) error: Error,
}

/// How the OCI runtime's container is deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RuntimeDeletion<'a> {
    /// It is not: the identifier belongs to another container, or the OCI runtime was not called.
    Skipped,
    /// With one call. If it fails, the teardown stops: the processes may still use the rest, and
    /// containerd calls again.
    Required(&'a Arc<Reaper>),
    /// With several calls: on a host without processes, there are some as soon as those of the
    /// failed create have exited.
    Retried(&'a Arc<Reaper>),
    /// With one call that blocks the thread, where there is no reaper.
    Blocking,
}

/// A container, or what a failed create left of it.
#[derive(Debug)]
pub(crate) struct Teardown<'a> {
    /// Its identifier.
    pub(crate) id: &'a str,
    /// Its bundle.
    pub(crate) bundle: &'a Path,
    /// Its OCI runtime.
    pub(crate) runc: &'a Runc,
    /// How the OCI runtime is called.
    pub(crate) deletion: RuntimeDeletion<'a>,
    /// The path of its cgroup in the specification; empty if there is none.
    pub(crate) cgroups_path: &'a str,
    /// Its compiled code.
    pub(crate) code: Option<&'a ContainerCode>,
    /// The task that waits for the compiler.
    pub(crate) compile_task: Option<&'a AbortHandle>,
    /// Its processes, the init process first.
    pub(crate) processes: Vec<Arc<Process>>,
}

impl Teardown<'_> {
    /// Runs all steps, and returns those that failed. The others have run nevertheless, unless the
    /// deletion of the OCI runtime's container is [`RuntimeDeletion::Required`] and failed.
    pub(crate) async fn run(&self) -> Vec<StepFailure> {
        let required = match self.deletion {
            RuntimeDeletion::Required(_) => Some(TeardownStep::RuntimeContainer),
            _ => None,
        };
        run_steps(required, |step| self.run_step(step)).await
    }

    async fn run_step(&self, step: TeardownStep) -> Result<()> {
        match step {
            TeardownStep::Compilation => {
                if let Some(task) = self.compile_task {
                    task.abort();
                }
                Ok(())
            }
            TeardownStep::RuntimeContainer => self.delete_runtime_container().await,
            TeardownStep::Cgroups => {
                let skipped = matches!(self.deletion, RuntimeDeletion::Skipped);
                // systemd removes its own.
                if !skipped && !self.runc.uses_systemd() {
                    cgroup::remove_empty(self.cgroups_path);
                }
                Ok(())
            }
            TeardownStep::Streams => {
                // A container that was never started exits by its deletion.
                if let Some(init) = self.processes.first() {
                    init.wait().await;
                }
                for process in &self.processes {
                    process.release().await;
                }
                Ok(())
            }
            TeardownStep::CodeLinks => self.code.map_or(Ok(()), ContainerCode::remove),
            TeardownStep::Rootfs => unmount(self.bundle).await,
        }
    }

    async fn delete_runtime_container(&self) -> Result<()> {
        match self.deletion {
            RuntimeDeletion::Skipped => Ok(()),
            RuntimeDeletion::Required(reaper) => self.runc.delete(reaper, self.id).await,
            RuntimeDeletion::Blocking => self.runc.delete_blocking(self.id),
            RuntimeDeletion::Retried(reaper) => retry(|| self.runc.delete(reaper, self.id)).await,
        }
    }
}

/// Calls `delete` until it succeeds, but not if the OCI runtime is missing.
async fn retry<F: Future<Output = Result<()>>>(mut delete: impl FnMut() -> F) -> Result<()> {
    for _ in 1..DELETE_ATTEMPTS {
        match delete().await {
            Err(error) if error.code() != ErrorCode::RuntimeMissing => {}
            result => return result,
        }
        tokio::time::sleep(DELETE_PAUSE).await;
    }
    delete().await
}

/// Runs the steps in their order. A step that fails stops the others only if it is `required`.
async fn run_steps<F: Future<Output = Result<()>>>(
    required: Option<TeardownStep>,
    mut run: impl FnMut(TeardownStep) -> F,
) -> Vec<StepFailure> {
    let mut failures = Vec::new();
    for step in STEPS {
        if let Err(error) = run(step).await {
            failures.push(StepFailure { step, error });
            if required == Some(step) {
                break;
            }
        }
    }
    failures
}

async fn unmount(bundle: &Path) -> Result<()> {
    let root = bundle.join(bundle::ROOTFS);
    let path = root.clone();
    match spawn_blocking(move || mount::unmount_all(&path)).await {
        Ok(()) => Ok(()),
        // On a host without a thread to spare, other containers wait for this unmount.
        Err(_) => mount::unmount_all(&root),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::containerd::options::Options;
    use std::fs;
    use std::future::ready;

    /// Runs all steps with a function that fails for those in `failing`.
    async fn run_with(
        failing: &[TeardownStep],
        required: Option<TeardownStep>,
    ) -> (Vec<TeardownStep>, Vec<TeardownStep>) {
        let mut run = Vec::new();
        let failures = run_steps(required, |step| {
            run.push(step);
            ready(match failing.contains(&step) {
                true => Err(Error::unknown("fails")),
                false => Ok(()),
            })
        });
        let failed = failures.await.iter().map(|failure| failure.step).collect();
        (run, failed)
    }

    #[tokio::test]
    async fn runs_processes_first_and_what_they_use_afterwards() {
        let (run, failed) = run_with(&[], None).await;
        assert_eq!(run, STEPS);
        assert!(failed.is_empty());
        let position = |step| STEPS.iter().position(|one| *one == step).unwrap();
        for (first, then) in [
            // The compiler writes the links, and the processes use everything else.
            (TeardownStep::Compilation, TeardownStep::CodeLinks),
            (TeardownStep::RuntimeContainer, TeardownStep::Cgroups),
            (TeardownStep::RuntimeContainer, TeardownStep::Streams),
            (TeardownStep::RuntimeContainer, TeardownStep::CodeLinks),
            (TeardownStep::RuntimeContainer, TeardownStep::Rootfs),
        ] {
            assert!(position(first) < position(then), "{first:?} {then:?}");
        }
    }

    #[tokio::test]
    async fn runs_the_rest_after_a_step_that_fails() {
        for step in STEPS {
            let (run, failed) = run_with(&[step], None).await;
            assert_eq!(run, STEPS, "{step:?}");
            assert_eq!(failed, [step]);
        }
        let (run, failed) = run_with(&STEPS, None).await;
        assert_eq!(
            (run.as_slice(), failed.as_slice()),
            (&STEPS[..], &STEPS[..])
        );
    }

    #[tokio::test]
    async fn stops_after_a_required_step_that_fails() {
        let required = Some(TeardownStep::RuntimeContainer);
        let (run, failed) = run_with(&[TeardownStep::RuntimeContainer], required).await;
        assert_eq!(
            run,
            [TeardownStep::Compilation, TeardownStep::RuntimeContainer]
        );
        assert_eq!(failed, [TeardownStep::RuntimeContainer]);
        let (run, _) = run_with(&[TeardownStep::Rootfs, TeardownStep::Compilation], required).await;
        assert_eq!(run, STEPS);
    }

    /// A bundle and the links to compiled code.
    struct Fixture {
        bundle: tempfile::TempDir,
        code: ContainerCode,
    }

    impl Fixture {
        fn new() -> Self {
            let bundle = tempfile::tempdir().unwrap();
            fs::create_dir(bundle.path().join(bundle::ROOTFS)).unwrap();
            let code = ContainerCode::in_cache(bundle.path(), "default", "c1");
            code.create_links().unwrap();
            Self { bundle, code }
        }

        /// Runs the teardown with a program in place of the OCI runtime.
        async fn run(&self, program: &str, deletion: RuntimeDeletion<'_>) -> Vec<TeardownStep> {
            let options = Options {
                binary_name: program.to_owned(),
                ..Options::default()
            };
            let teardown = Teardown {
                id: "c1",
                bundle: self.bundle.path(),
                runc: &Runc::new(options, "default", self.bundle.path(), false),
                deletion,
                cgroups_path: "",
                code: Some(&self.code),
                compile_task: None,
                processes: Vec::new(),
            };
            let failures = teardown.run().await;
            failures.iter().map(|failure| failure.step).collect()
        }
    }

    #[tokio::test]
    async fn a_second_run_finds_nothing_to_do() {
        let fixture = Fixture::new();
        for _ in 0..3 {
            let failed = fixture.run("true", RuntimeDeletion::Blocking).await;
            assert!(failed.is_empty(), "{failed:?}");
            assert!(!fixture.code.links.exists());
        }
    }

    #[tokio::test]
    async fn a_run_after_a_failure_does_what_is_left() {
        let fixture = Fixture::new();
        let failed = fixture.run("false", RuntimeDeletion::Blocking).await;
        assert_eq!(failed, [TeardownStep::RuntimeContainer]);
        assert!(!fixture.code.links.exists());
        let failed = fixture.run("true", RuntimeDeletion::Blocking).await;
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[tokio::test]
    async fn leaves_a_container_of_the_same_name_alone() {
        let fixture = Fixture::new();
        let failed = fixture.run("false", RuntimeDeletion::Skipped).await;
        assert!(failed.is_empty(), "{failed:?}");
        assert!(!fixture.code.links.exists());
    }

    #[tokio::test]
    async fn retries_until_the_runtime_succeeds_or_is_missing() {
        let mut attempts = 0;
        let retried = retry(|| {
            attempts += 1;
            ready(match attempts {
                1 | 2 => Err(Error::unknown("no process left")),
                _ => Ok(()),
            })
        });
        retried.await.unwrap();
        assert_eq!(attempts, 3);
        let mut attempts = 0;
        let failed = retry(|| {
            attempts += 1;
            ready(Err(Error::new(ErrorCode::RuntimeMissing, "not installed")))
        });
        assert!(failed.await.is_err());
        assert_eq!(attempts, 1);
    }
}
