//! The project as a server has it: its files, its environment and the flags of the command line.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use wws_project::{
    AdminAddress, Origins, PanelAccess, Problems, Project, ServerSettings, WatchOptions,
};
use wws_server::Telemetry;

use crate::{args::Serve, environment};

/// Where a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerLocation {
    /// A developer's machine.
    Machine,
    /// Its own container.
    Container,
}

impl ServerLocation {
    fn host(self) -> IpAddr {
        match self {
            Self::Machine => Ipv4Addr::LOCALHOST.into(),
            Self::Container if has_ipv6() => Ipv6Addr::UNSPECIFIED.into(),
            Self::Container => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Machine => 8080,
            Self::Container => 3000,
        }
    }

    /// The address of a server with these settings.
    pub(crate) fn address(self, settings: &ServerSettings) -> SocketAddr {
        (
            settings.host.unwrap_or_else(|| self.host()),
            settings.port.unwrap_or(self.port()),
        )
            .into()
    }
}

/// Whether the kernel has IPv6, and this user may create a socket of it.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// How a server's project is loaded, the first time and again.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) args: &'a Serve,
    pub(crate) place: ServerLocation,
    pub(crate) telemetry: &'a Telemetry,
}

impl Load<'_> {
    /// Loads the project. Flags take precedence over its settings. `hashed`: files of runtimes
    /// whose SHA-256 is known.
    ///
    /// # Errors
    /// All problems of the project.
    pub(crate) fn project(self, hashed: BTreeMap<PathBuf, String>) -> Result<Project, Problems> {
        let args = self.args;
        let is_container = self.place == ServerLocation::Container;
        let mut project = environment::load(&args.project, is_container, hashed)?;
        let settings = project.settings_mut();
        settings.host = args.host.or(settings.host);
        settings.port = args.port.or(settings.port);
        settings.watch |= args.watch;
        if let Some(admin) = &args.admin {
            settings.admin = admin.clone();
        }
        if let Some(panel) = args.enable_panel {
            settings.panel = panel;
        }
        if let Some(origins) = cors(&args.cors) {
            settings.cors = origins;
        }
        if settings.admin != AdminAddress::Off || settings.panel != PanelAccess::Off {
            self.telemetry.tail().enable();
        }
        Ok(project)
    }
}

/// The origins of all flags together; `None` without any.
fn cors(flags: &[Origins]) -> Option<Origins> {
    let mut all = Vec::new();
    for flag in flags {
        match flag {
            Origins::Any => return Some(Origins::Any),
            Origins::Only(origins) => all.extend(origins.iter().cloned()),
            Origins::None => {}
        }
    }
    (!flags.is_empty()).then_some(Origins::Only(all))
}

/// What of a project is watched. `ignored`: globs of the command line, which replace those of the
/// settings.
pub(crate) fn watch_options(
    project: &Project,
    ignored: &[String],
    place: ServerLocation,
) -> WatchOptions {
    let ignore = match ignored {
        [] => &project.settings().ignore.0,
        globs => globs,
    };
    let directories = project
        .workers()
        .iter()
        .flat_map(|worker| &worker.directories);
    let data = directories.filter(|directory| directory.holds_data);
    WatchOptions {
        container: place == ServerLocation::Container,
        ignore: ignore.to_vec(),
        data: data.map(|directory| directory.from.clone()).collect(),
        ..WatchOptions::default()
    }
}
