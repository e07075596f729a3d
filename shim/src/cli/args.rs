//! The command line with which containerd runs a shim (containerd's runtime/v2 README): Go-style
//! flags, then a command.

use std::path::PathBuf;

use crate::containerd::identifier::check_identifier;
use crate::error::{Error, Result};
use crate::sys::log::Level;

/// A command of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Start a shim for a container, or find that of its pod, and print the address.
    Start,
    /// Clean up after a container whose shim died.
    Delete,
    /// Run the shim: `start` uses this command.
    Serve,
    /// Print the version.
    Version,
    /// Print the features of the runtime, as a protobuf message.
    Info,
    /// Print the usage.
    Help,
}

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    /// The command.
    pub(crate) command: Command,
    /// containerd's namespace of the container.
    pub(crate) namespace: String,
    /// The container's identifier.
    pub(crate) id: String,
    /// containerd's main socket.
    pub(crate) address: String,
    /// The container's bundle, if it is not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    /// The socket of the shim, for `serve`.
    pub(crate) socket: String,
    /// The link for containerd's tools to create, for `serve`; empty for none.
    pub(crate) link: String,
    /// containerd's own program, which publishes events if there is no ttrpc socket.
    pub(crate) publisher: String,
    /// What to log.
    pub(crate) level: Level,
}

/// The usage, for those who run the program by hand.
pub(crate) const HELP: &str = "\
containerd-shim-wws-v1 runs containers of workers for containerd.
It is the runtime io.containerd.wws.v1.

containerd starts it: put it in a directory of containerd's PATH, with the program `wws` beside it,
and then

  ctr run --runtime io.containerd.wws.v1 --platform wasi/wasm IMAGE NAME
  docker run --runtime io.containerd.wws.v1 --platform wasi/wasm IMAGE

Commands (used by containerd): start, delete.
Flags: -namespace -id -address -bundle -debug -v -info
";

impl Args {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// A flag lacks its value, a flag or command is unknown, or an identifier is invalid.
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
            level: Level::Info,
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
                    .ok_or_else(|| Error::invalid_argument(format!("-{name} lacks its value")))
            };
            match name {
                "namespace" => args.namespace = value()?,
                "id" => args.id = value()?,
                "address" => args.address = value()?,
                "bundle" => args.bundle = Some(value()?.into()).filter(|path| path != ""),
                "socket" => args.socket = value()?,
                "link" => args.link = value()?,
                "publish-binary" => args.publisher = value()?,
                "debug" => args.level = Level::Debug,
                "log-level" => {
                    let name = value()?;
                    let level = Level::from_name(&name).ok_or_else(|| unknown("level", &name));
                    args.level = level?;
                }
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
            check_identifier("-namespace", &args.namespace)?;
            check_identifier("-id", &args.id)?;
        }
        Ok(args)
    }
}

fn unknown(kind: &str, argument: &str) -> Error {
    Error::invalid_argument(format!(
        "unknown {kind} {argument}: containerd runs this program, see -help"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn parses_the_command_line_of_containerd() {
        let args = parse(
            "-namespace default -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id c1 start",
        )
        .unwrap();
        assert_eq!(args.command, Command::Start);
        assert_eq!(args.namespace, "default");
        assert_eq!(args.id, "c1");
        assert_eq!(args.address, "/run/containerd/containerd.sock");
        assert_eq!(args.bundle, None);
    }

    #[test]
    fn parses_two_dashes_and_an_equals_sign() {
        let args = parse("--namespace=k8s.io --id=c1 --debug -bundle /b delete").unwrap();
        assert_eq!(args.command, Command::Delete);
        assert_eq!(args.namespace, "k8s.io");
        assert_eq!(args.level, Level::Debug);
        assert_eq!(args.bundle, Some("/b".into()));
    }

    #[test]
    fn parses_the_log_level_of_serve() {
        let level = |flags: &str| parse(&format!("{flags} -id c1 -namespace n serve"));
        assert_eq!(level("").unwrap().level, Level::Info);
        assert_eq!(level("-log-level error").unwrap().level, Level::Error);
        let message = level("-log-level loud").unwrap_err().to_string();
        assert!(message.contains("unknown level loud"), "{message}");
    }

    #[test]
    fn rejects_an_identifier_that_leads_out_of_a_directory() {
        for id in ["..", "../x", "a/b", "", "-rf"] {
            let args = ["-namespace", "n", "-id", id, "delete"].map(str::to_owned);
            let error = Args::parse(args).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{id}");
        }
    }

    #[test]
    fn names_unknown_words_and_missing_values() {
        let message = |line| parse(line).unwrap_err().to_string();
        assert!(message("-frobnicate").contains("-frobnicate"));
        assert!(message("frobnicate").contains("unknown command frobnicate"));
        assert!(message("start -id").contains("-id lacks its value"));
    }
}
