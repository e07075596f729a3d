//! `start`: starts a shim for a container, or finds the one that the containers of the pod share.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::args::Args;
use super::serve::TTRPC_ADDRESS;
use super::socket;
use crate::cgroup;
use crate::containerd::bootstrap::StartParameters;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::oci::bundle;
use crate::oci::spec::Spec;

/// The newest version of the task service that the shim supports.
const NEWEST: u32 = 3;

/// Starts a shim, or finds that of the pod, and returns what containerd reads: the address.
///
/// # Errors
/// The bundle is broken, or the machine fails. Then no shim is left running.
pub(crate) fn start(args: &Args) -> Result<String> {
    let here = Path::new(".");
    let spec = Spec::read(here)?;
    let parameters = StartParameters::read(io::stdin(), &args.id)?;
    let args = &combine(args, &parameters)?;
    let group = spec.group().unwrap_or(&args.id);
    let directory = parameters.socket_directory.as_deref();
    let directory = directory.unwrap_or(Path::new(socket::SOCKETS));
    let path = socket::socket_path(directory, &args.address, &args.namespace, group);
    let address = format!("unix://{}", path.display());
    // First: on a full disk this fails, and a running shim would not be stopped.
    bundle::save_address(here, &address)?;
    if let Some(listener) = socket::listen(&path)? {
        let link = socket::link_path(&args.address, &args.namespace, &spec, &args.id);
        let started = launch(args, &path, link.as_deref(), listener, &parameters);
        if started.is_err() {
            // No process listens on the socket.
            let _ = fs::remove_file(&path);
        }
        started?;
    }
    let newest = std::env::var("MAX_SHIM_VERSION").ok();
    Ok(format_reply(&address, newest.as_deref()))
}

/// Returns the arguments with what the start parameters say instead: they are to replace flags and
/// variables of the environment.
///
/// # Errors
/// The parameters are for another namespace.
fn combine(args: &Args, parameters: &StartParameters) -> Result<Args> {
    let either = |flag: &String, parameter: &String| match parameter.is_empty() {
        true => flag.clone(),
        false => parameter.clone(),
    };
    // An identifier that was checked stays.
    if !parameters.namespace.is_empty() && parameters.namespace != args.namespace {
        return Err(Error::invalid_argument(format!(
            "-namespace is {:?}, and the start parameters say {:?}",
            args.namespace, parameters.namespace
        )));
    }
    Ok(Args {
        address: either(&args.address, &parameters.address),
        publisher: either(&args.publisher, &parameters.publisher),
        level: parameters.level.unwrap_or(args.level),
        ..args.clone()
    })
}

/// Starts `serve`, which inherits the socket as standard input.
fn launch(
    args: &Args,
    path: &Path,
    link: Option<&Path>,
    listener: UnixListener,
    parameters: &StartParameters,
) -> Result<()> {
    let own = std::env::current_exe().map_err(|error| Error::io("find this program", error))?;
    let mut command = Command::new(own);
    command
        .args(["-namespace", &args.namespace])
        .args(["-id", &args.id])
        .args(["-address", &args.address])
        .args(["-publish-binary", &args.publisher])
        .args(["-log-level", args.level.name()])
        .arg("-socket")
        .arg(path);
    if let Some(link) = link {
        command.arg("-link").arg(link);
    }
    if !parameters.ttrpc_address.is_empty() {
        command.env(TTRPC_ADDRESS, &parameters.ttrpc_address);
    }
    let mut child = command
        .arg("serve")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals to containerd's process group do not reach the shim.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::io("start the shim", error))?;
    let configured = configure(child.id(), &parameters.options);
    if configured.is_err() {
        // It may have exited.
        let _ = child.kill();
        let _ = child.wait();
    }
    configured
}

/// Moves the shim into its cgroup, and makes it a better victim than containerd.
fn configure(pid: u32, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        cgroup::move_process(&options.shim_cgroup, pid)?;
    }
    // Out of memory, the kernel should kill a shim rather than containerd. A failure to set
    // this is ignored.
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if let Ok(score) = own.trim().parse::<i32>() {
        let score = (score + 1).min(1000).to_string();
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score);
    }
    Ok(())
}

/// Formats the reply: the bare address for containerd 1.6, and JSON for newer releases, which pass
/// the version that they support.
fn format_reply(address: &str, newest: Option<&str>) -> String {
    match newest.and_then(|version| version.parse::<u32>().ok()) {
        None => address.to_owned(),
        Some(version) => {
            let version = version.clamp(2, NEWEST);
            json!({"version": version, "address": address, "protocol": "ttrpc"}).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::log::Level;

    #[test]
    fn start_parameters_replace_flags() {
        let line = "-namespace n -id c1 -address /flag -publish-binary /bin/flag -debug start";
        let args = Args::parse(line.split_whitespace().map(str::to_owned)).unwrap();
        // Of releases before containerd 2.3.
        let none = StartParameters::default();
        assert_eq!(combine(&args, &none).unwrap(), args);
        let all = StartParameters {
            namespace: "n".to_owned(),
            level: Some(Level::Warning),
            address: "/given".to_owned(),
            publisher: "/bin/given".to_owned(),
            ..StartParameters::default()
        };
        let expected = Args {
            address: "/given".to_owned(),
            publisher: "/bin/given".to_owned(),
            level: Level::Warning,
            ..args.clone()
        };
        assert_eq!(combine(&args, &all).unwrap(), expected);
        let other = StartParameters {
            namespace: "../m".to_owned(),
            ..all
        };
        let message = combine(&args, &other).unwrap_err().to_string();
        assert!(
            message.contains("-namespace is \"n\"") && message.contains("say \"../m\""),
            "{message}"
        );
    }

    #[test]
    fn replies_in_the_format_that_containerd_supports() {
        assert_eq!(format_reply("unix:///s", None), "unix:///s");
        let version = |newest| -> serde_json::Value {
            let value: serde_json::Value =
                serde_json::from_str(&format_reply("unix:///s", Some(newest))).unwrap();
            assert_eq!(value["address"], "unix:///s");
            assert_eq!(value["protocol"], "ttrpc");
            value["version"].clone()
        };
        assert_eq!(version("2"), 2);
        assert_eq!(version("3"), 3);
        assert_eq!(version("9"), 3);
    }
}
