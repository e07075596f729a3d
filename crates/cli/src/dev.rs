//! `wws dev`: what a developer sees of a served project: its URLs, and what a change did to them.

use std::collections::BTreeMap;
use std::io::{self, stderr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use wws_project::{PanelAccess, Project};
use wws_server::Reloaded;

use crate::colour::{Colour, Painter};
use crate::log::LogStyle;
use crate::{progress, routes, table};

/// The most assets that are listed: a site may have thousands.
const MAX_ASSETS: usize = 10;

/// The most workers that are listed.
const MAX_WORKERS: usize = 200;

/// How a developer sees the server at an address.
#[derive(Clone, Debug)]
pub(crate) struct DevView {
    base: String,
}

impl DevView {
    pub(crate) fn new(address: SocketAddr) -> Self {
        // What listens on all addresses is reached at this one.
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self {
            base: format!("http://{}", SocketAddr::new(ip, address.port())),
        }
    }

    /// What is served, with URLs that terminals let one click.
    pub(crate) fn welcome(&self, project: &Project, painter: Painter) -> String {
        let (workers, assets) = (project.workers(), project.assets());
        let mut rows = Vec::new();
        for worker in workers.iter().take(MAX_WORKERS) {
            rows.push([
                String::new(),
                self.url(&worker.route),
                routes::kind(project, worker),
                worker.path.display().to_string(),
            ]);
        }
        for asset in assets.iter().take(MAX_ASSETS) {
            rows.push([
                String::new(),
                self.url(&asset.url),
                "asset".into(),
                asset.path.display().to_string(),
            ]);
        }
        let mut text = format!("\n{}", table::aligned(&rows));
        let hidden = [
            (workers.len().saturating_sub(MAX_WORKERS), "workers"),
            (assets.len().saturating_sub(MAX_ASSETS), "assets"),
        ];
        for (count, what) in hidden {
            if count > 0 {
                text += &format!("  and {count} more {what}: `wws routes` lists all\n");
            }
        }
        if project.settings().panel != PanelAccess::Off {
            text += &format!("\n  panel  {}/_panel/\n", self.base);
        }
        let next = "Save a file to have it served. Ctrl-C stops.";
        text + "\n" + &painter.paint(Colour::Dim, &format!("  {next}")) + "\n\n"
    }

    /// Logs what a reload did.
    pub(crate) fn log_reloaded(&self, before: &Project, after: &Project, done: &Reloaded) {
        tracing::info!("{}", self.reloaded(before, after, done));
    }

    fn reloaded(&self, before: &Project, after: &Project, done: &Reloaded) -> String {
        let names: Vec<_> = done
            .loaded
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let what = match (names.is_empty(), done.removed) {
            (true, 0) => "no worker has changed".to_owned(),
            (true, _) => String::new(),
            (false, _) => progress::listed(&names),
        };
        let mut text = "reloaded".to_owned();
        if !what.is_empty() {
            text += &format!(": {what}");
        }
        let (before, after) = (files(before), files(after));
        for (url, file) in &after {
            if !before.contains_key(url) {
                text += &format!("\nnew      {}  {}", self.url(url), file.display());
            }
        }
        for (url, file) in &before {
            if !after.contains_key(url) {
                text += &format!("\nremoved  {}  {}", self.url(url), file.display());
            }
        }
        text
    }

    fn url(&self, route: &str) -> String {
        format!("{}{route}", self.base)
    }
}

/// The file of each route and asset.
fn files(project: &Project) -> BTreeMap<&str, &Path> {
    let workers = project.workers().iter();
    let workers = workers.map(|worker| (&*worker.route, &*worker.path));
    let assets = project
        .assets()
        .iter()
        .map(|asset| (&*asset.url, &*asset.path));
    assets.chain(workers).collect()
}

/// The log of `wws dev`. To be called before the server gives up rights.
pub(crate) fn log_style() -> LogStyle {
    LogStyle::Pretty {
        painter: Painter::of(&stderr()),
        offset: local_offset().unwrap_or(0),
    }
}

/// Seconds east of UTC of the local time.
fn local_offset() -> io::Result<i64> {
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: `time` takes null; `localtime_r` reads the first pointer and writes a whole `tm` to
    // the second, both of which are valid for the call. No other thread changes the environment,
    // which it reads for `TZ`.
    let filled = unsafe {
        let now = libc::time(std::ptr::null_mut());
        libc::localtime_r(&raw const now, local.as_mut_ptr())
    };
    if filled.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed, which is a valid `tm`, and filled above.
    Ok(unsafe { local.assume_init() }.tm_gmtoff)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use wws_project::LoadOptions;
    use wws_server::Languages;

    use super::*;

    fn project(files: &[&str]) -> (tempfile::TempDir, Project) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("public")).unwrap();
        for file in files {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let options = LoadOptions {
            languages: Languages::standard().specs(),
            ..LoadOptions::default()
        };
        let project = wws_project::load(directory.path(), &options).unwrap();
        (directory, project)
    }

    fn view(address: &str) -> DevView {
        DevView::new(address.parse().unwrap())
    }

    #[test]
    fn urls_can_be_opened() {
        let (_directory, project) = project(&["index.js", "[id].js", "public/a.txt"]);
        let text = view("0.0.0.0:8080").welcome(&project, Painter::new(false));
        for line in [
            "  http://127.0.0.1:8080/       javascript  index.js",
            "  http://127.0.0.1:8080/[id]   javascript  [id].js",
            "  http://127.0.0.1:8080/a.txt  asset       public/a.txt",
        ] {
            assert!(text.lines().any(|one| one == line), "{text}");
        }
        assert!(!text.contains("panel"), "{text}");
        assert_eq!(view("[::]:1").base, "http://[::1]:1");
    }

    #[test]
    fn a_site_with_many_assets_is_summed_up() {
        let names: Vec<_> = (0..15).map(|number| format!("public/{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let (_directory, project) = project(&names);
        let text = view("127.0.0.1:1").welcome(&project, Painter::new(false));
        assert!(text.contains("and 5 more assets"), "{text}");
    }

    #[test]
    fn a_reload_says_what_has_changed() {
        let (_before, before) = project(&["a.js", "b.js"]);
        let (_after, after) = project(&["a.js", "c.js"]);
        let view = view("127.0.0.1:1");
        let mut done = Reloaded {
            generation: 2,
            kept: 0,
            loaded: vec!["a.js".into(), "c.js".into()],
            removed: 1,
            needs_restart: Vec::new(),
            warnings: Vec::new(),
        };
        let text = view.reloaded(&before, &after, &done);
        let expected = "reloaded: a.js, c.js\n\
                        new      http://127.0.0.1:1/c  c.js\n\
                        removed  http://127.0.0.1:1/b  b.js";
        assert_eq!(text, expected);
        (done.loaded, done.removed) = (Vec::new(), 0);
        let text = view.reloaded(&after, &after, &done);
        assert_eq!(text, "reloaded: no worker has changed");
    }
}
