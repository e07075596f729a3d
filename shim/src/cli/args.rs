//! The command line that containerd gives a shim (its runtime/v2 README): flags in the manner of Go, then a command.

use std::path::PathBuf;

use crate::containerd::identifier::identifier;
use crate::error::{Error, Result};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Start a shim for a container, or find the one of its pod, and print its address.
    Start,
    /// Clean up after a container whose shim is gone.
    Delete,
    /// Be the shim: ours alone, run by `start`.
    Serve,
    /// Print the version.
    Version,
    /// Print what the runtime can do, as a protobuf message.
    Info,
    /// Print how to use it.
    Help,
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// What is to be done.
    pub(crate) command: Command,
    /// containerd's namespace of the container.
    pub(crate) namespace: String,
    /// The container's identifier.
    pub(crate) id: String,
    /// containerd's main socket.
    pub(crate) address: String,
    /// The container's bundle, where it is not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    /// Our own socket, for `serve`.
    pub(crate) socket: String,
    /// Where containerd's tools look for it, for `serve`: a link to be made; empty for none.
    pub(crate) link: String,
    /// containerd's own program, by which events are published where it has no ttrpc socket.
    pub(crate) publisher: String,
    /// Whether to log more.
    pub(crate) debug: bool,
}

/// Printed when the program is run by hand.
pub(crate) const HELP: &str = "\
containerd-shim-wws-v1 runs containers of workers for containerd, as the runtime io.containerd.wws.v1.

containerd starts it: put it in a folder of containerd's PATH, with the program `wws` beside it, and then

  ctr run --runtime io.containerd.wws.v1 --platform wasi/wasm IMAGE NAME
  docker run --runtime io.containerd.wws.v1 --platform wasi/wasm IMAGE

Commands (used by containerd): start, delete.   Flags: -namespace -id -address -bundle -debug -v -info
";

impl Args {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// A flag without its value, an unknown flag or command, a name that cannot be one of a path.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut args = Self {
            command: Command::Help,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            socket: String::new(),
            link: String::new(),
            publisher: String::new(),
            debug: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                args.command = match argument.as_str() {
                    "start" => Command::Start,
                    "delete" => Command::Delete,
                    "serve" => Command::Serve,
                    _ => return Err(unknown("command", &argument)),
                };
                continue;
            };
            // Go takes one dash or two, and the value as the next argument or after an equals sign.
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = || {
                value
                    .take()
                    .or_else(|| arguments.next())
                    .ok_or_else(|| Error::InvalidArgument(format!("-{name} lacks its value")))
            };
            match name {
                "namespace" => args.namespace = value()?,
                "id" => args.id = value()?,
                "address" => args.address = value()?,
                "bundle" => args.bundle = Some(value()?.into()).filter(|path| path != ""),
                "socket" => args.socket = value()?,
                "link" => args.link = value()?,
                "publish-binary" => args.publisher = value()?,
                "debug" => args.debug = true,
                "v" | "version" => args.command = Command::Version,
                "info" => args.command = Command::Info,
                "h" | "help" => args.command = Command::Help,
                _ => return Err(unknown("flag", &argument)),
            }
        }
        if matches!(
            args.command,
            Command::Start | Command::Delete | Command::Serve
        ) {
            identifier("-namespace", &args.namespace)?;
            identifier("-id", &args.id)?;
        }
        Ok(args)
    }
}

fn unknown(kind: &str, argument: &str) -> Error {
    Error::InvalidArgument(format!(
        "unknown {kind} {argument}: containerd runs this program, see -help"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_line_that_containerd_types_is_understood() {
        let args = parse(
            "-namespace default -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id c1 start",
        )
        .unwrap();
        assert_eq!(args.command, Command::Start);
        assert_eq!(args.namespace, "default");
        assert_eq!(args.id, "c1");
        assert_eq!(args.address, "/run/containerd/containerd.sock");
        assert_eq!(args.bundle, None);
    }

    #[test]
    fn flags_may_have_two_dashes_and_an_equals_sign() {
        let args = parse("--namespace=k8s.io --id=c1 --debug -bundle /b delete").unwrap();
        assert_eq!(args.command, Command::Delete);
        assert_eq!(args.namespace, "k8s.io");
        assert!(args.debug);
        assert_eq!(args.bundle, Some("/b".into()));
    }

    #[test]
    fn an_identifier_cannot_lead_out_of_a_folder() {
        for id in ["..", "../x", "a/b", "", "-rf"] {
            let args = ["-namespace", "n", "-id", id, "delete"].map(str::to_owned);
            assert!(
                matches!(Args::parse(args), Err(Error::InvalidArgument(_))),
                "{id}"
            );
        }
    }

    #[test]
    fn unknown_words_and_missing_values_are_named() {
        let message = |line| parse(line).unwrap_err().to_string();
        assert!(message("-frobnicate").contains("-frobnicate"));
        assert!(message("frobnicate").contains("unknown command frobnicate"));
        assert!(message("start -id").contains("-id lacks its value"));
    }
}
