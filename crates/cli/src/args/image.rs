//! Arguments of the commands on images.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use wws_project::{AdminAddress, PanelAccess};

use super::{AfterEntrypoint, ProjectArgs, Serve, admin, host};

/// A project to pack.
#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// The project's directory
    #[arg(value_name = "DIRECTORY", default_value = ".")]
    pub(crate) path: PathBuf,
    /// The image's name, as `hello`, `hello:v1` or `registry.example/team/hello:v1`
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: String,
    /// The archive to write if it ends in `.tar`, or else the directory of an OCI layout; `-` is
    /// standard output
    #[arg(
        short,
        long,
        value_name = "FILE|DIRECTORY",
        required_unless_present = "push",
        conflicts_with = "push"
    )]
    pub(crate) output: Option<PathBuf>,
    /// Push the image to the registry of its name, as the user of `docker login`
    #[arg(long)]
    pub(crate) push: bool,
    /// A label of the image, as `LABEL` of a Dockerfile; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// An annotation of the image's manifests and index; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) annotation: Vec<(String, String)>,
    /// Print name, digest and contents of the image, or all problems, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// An image to serve.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The image: an archive, as `wws build`, `docker save` and `ctr image export` write it, the
    /// directory of an OCI layout, or the name of an image in a registry
    pub(crate) image: PathBuf,
    /// A variable for the project, or the name of one of this process; may be given several times
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// Let the image read the files of /run/secrets and /run/credentials of this machine
    #[arg(long)]
    pub(crate) allow_secrets: bool,
    /// Let the image reach hosts of this machine and of its networks, and a Redis that it names
    #[arg(long)]
    pub(crate) allow_private_hosts: bool,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_parser = host)]
    host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: that of the image, or 8080]
    #[arg(short, long)]
    port: Option<u16>,
    /// Prefix of every route and asset, as `/api`
    #[arg(long)]
    prefix: Option<String>,
    /// Address for metrics, health checks and the panel, as 127.0.0.1:9090 or unix:/PATH
    #[arg(long, value_name = "ADDRESS", value_parser = admin)]
    admin: Option<AdminAddress>,
}

impl Run {
    /// The variables that are given to the project. One that this process lacks is left out.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        given_variables(&self.env)
    }

    /// Arguments for serving the project in `path`, which is `entry` in the image. `words` are the
    /// image's own arguments after its entry point. An image decides about its routes and its port,
    /// not about the addresses of this machine that it is reached at.
    ///
    /// # Errors
    /// As for [`AfterEntrypoint::parse_for`].
    pub(crate) fn into_serve(
        self,
        path: PathBuf,
        entry: &Path,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Serve, clap::Error> {
        let given = AfterEntrypoint::parse_for(entry, words)?;
        Ok(Serve {
            project: ProjectArgs {
                path,
                prefix: self.prefix.or(given.prefix),
                ignore: given.ignore,
            },
            host: Some(self.host.unwrap_or(Ipv4Addr::LOCALHOST.into())),
            port: self.port.or(given.port),
            admin: Some(self.admin.unwrap_or(AdminAddress::Off)),
            cors: Vec::new(),
            enable_panel: Some(PanelAccess::Off),
            watch: false,
            install_runtimes: false,
            memory: None,
            dev: false,
        })
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// Variables with their values. One that this process lacks is left out.
pub(super) fn given_variables(env: &[(String, Option<String>)]) -> Vec<(String, String)> {
    let with_value = |(name, value): &(String, Option<String>)| match value {
        Some(value) => Some((name.clone(), value.clone())),
        None => Some((name.clone(), std::env::var(name).ok()?)),
    };
    env.iter().filter_map(with_value).collect()
}

pub(super) fn variable(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once('=') {
        _ if text.is_empty() || text.starts_with('=') => Err("expected NAME or NAME=VALUE".into()),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((text.to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::super::{Args, Command};
    use super::*;

    fn run(args: &[&str]) -> Run {
        let args = ["wws", "run", "x.tar"].iter().chain(args);
        match Args::try_parse_from(args).unwrap().command {
            Some(Command::Run(run)) => run,
            _ => unreachable!(),
        }
    }

    #[test]
    fn image_cannot_change_addresses_of_the_machine() {
        let words = [
            "/",
            "--host",
            "0.0.0.0",
            "--admin",
            "0.0.0.0:9090",
            "--port",
            "81",
        ];
        let words = || words.map(OsString::from);
        let serve = run(&[])
            .into_serve("/x".into(), Path::new("/"), words())
            .unwrap();
        assert_eq!(serve.host, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(serve.admin, Some(AdminAddress::Off));
        assert_eq!(
            (serve.port, serve.enable_panel),
            (Some(81), Some(PanelAccess::Off))
        );
        let serve = run(&["--host", "::", "-p", "82", "--prefix", "/v1"])
            .into_serve("/x".into(), Path::new("/"), words())
            .unwrap();
        assert_eq!(serve.host, Some(std::net::Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(
            (serve.port, serve.project.prefix.as_deref()),
            (Some(82), Some("/v1"))
        );
        let other = [OsString::from("/other")];
        assert!(
            run(&[])
                .into_serve("/x".into(), Path::new("/"), other)
                .is_err()
        );
    }

    #[test]
    fn variables_are_given_by_value_or_by_name() {
        let given = run(&["-e", "A=b=c", "--env", "PATH", "-e", "NO_SUCH_VARIABLE"]).variables();
        let path = std::env::var("PATH").unwrap();
        let expected = [("A", "b=c"), ("PATH", &path)];
        assert_eq!(
            given,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(variable("=a").is_err() && variable("").is_err());
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }
}
