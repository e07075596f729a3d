//! Projects of git repositories: `wws https://HOST/PATH.git`, as Wasm Workers Server 1.x has them.
//!
//! The user's `git` fetches one commit into a private directory, which is removed when the server
//! stops: it knows the user's credentials, proxies and hosts. A repository is somebody else's: none
//! of its hooks, submodules and other transports are used, and its workers see neither the user's
//! variables nor secrets.

use std::fs;
use std::io::{self, IsTerminal, stderr};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wws_project::beneath::Root;

use crate::args::{Git, Revision, Serve};
use crate::environment::{self, Allowed};
use crate::project::ServerLocation;
use crate::scratch::{Scratch, ScratchError};
use crate::{EXIT_USAGE, serve};

/// The most bytes and files of a clone, `.git` included.
const MAX_BYTES: u64 = 8 << 30;
const MAX_FILES: usize = 1_000_000;

/// The time between two looks at the size of a clone, and between two at its end.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// How a URL of a repository begins.
const SCHEMES: [&str; 3] = ["https://", "http://", "ssh://"];

/// Variables of a repository that git is started in, say as its hook.
const OF_REPOSITORY: [&str; 12] = [
    "GIT_ALLOW_PROTOCOL",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_EXEC_PATH",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_SHALLOW_FILE",
    "GIT_TEMPLATE_DIR",
    "GIT_WORK_TREE",
];

/// Why a repository cannot be served.
#[derive(Debug, thiserror::Error)]
enum GitError {
    #[error("{url}: anybody on the way can change what http fetches: use https://")]
    PlainHttp { url: String },
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("{url}: {source}")]
    Fetch {
        url: String,
        #[source]
        source: FetchError,
    },
}

/// Why a repository has no project to serve.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("needs the program git: install it, or clone the repository and serve its directory")]
    NoGit,
    #[error("git {command} failed ({status})")]
    Git { command: String, status: ExitStatus },
    #[error("has no directory {}", .0.display())]
    NoDirectory(PathBuf),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The repository that a project's path names; `None` for a path of this machine.
pub(crate) fn url(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let is_url = SCHEMES.iter().any(|scheme| text.starts_with(scheme));
    // As `git@HOST:PATH`.
    let is_short = text
        .split_once(':')
        .is_some_and(|(host, _)| host.starts_with("git@") && !host.contains('/'));
    (is_url || is_short).then_some(text)
}

/// Fetches a repository and serves it.
pub(crate) fn serve(url: &str, git: &Git, args: Serve) -> ExitCode {
    let revision = match git.revision() {
        Ok(revision) => revision,
        Err(error) => return failed(EXIT_USAGE, &error),
    };
    let directory = git.directory.as_deref().unwrap_or(Path::new(""));
    // The scratch directory is removed when it is dropped.
    let (_scratch, path) = match fetch(url, &revision, directory) {
        Ok(fetched) => fetched,
        Err(error @ GitError::PlainHttp { .. }) => return failed(EXIT_USAGE, &error),
        Err(error) => return failed(1, &error),
    };
    let allowed = Allowed {
        secrets: false,
        private_hosts: git.allow_private_hosts,
    };
    environment::serve_untrusted(Vec::new(), git.variables(), allowed);
    let mut args = args;
    args.project.path = path;
    serve::serve(args, ServerLocation::Machine)
}

/// Fetches a repository into a scratch directory. Returns it, and the project in it.
fn fetch(url: &str, revision: &Revision, directory: &Path) -> Result<(Scratch, PathBuf), GitError> {
    let transport = transport(url)?;
    let scratch = Scratch::new()?;
    let clone = Clone {
        transport,
        directory: scratch.root(),
    };
    let project = clone
        .fetch(url, revision)
        .and_then(|()| project(scratch.root(), directory));
    match project {
        Ok(path) => Ok((scratch, path)),
        Err(source) => Err(GitError::Fetch {
            url: shown(url),
            source,
        }),
    }
}

/// The only transport of git that may be used for a URL.
fn transport(url: &str) -> Result<&'static str, GitError> {
    if url.starts_with("https://") {
        return Ok("https");
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Ok("ssh");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let name = host.trim_matches(['[', ']']);
    let is_here = name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if is_here {
        Ok("http")
    } else {
        Err(GitError::PlainHttp { url: shown(url) })
    }
}

/// A URL without its password.
fn shown(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    match url[start..end].rfind('@') {
        Some(at) if url[start..start + at].contains(':') => {
            format!("{}{}", &url[..start], &url[start + at + 1..])
        }
        _ => url.to_owned(),
    }
}

/// The project in a clone, which no link of the repository leads out of.
fn project(clone: &Path, directory: &Path) -> Result<PathBuf, FetchError> {
    let inside = directory
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let opened = Root::open(clone)?;
    let is_worker = || opened.file(directory).is_ok();
    if !inside || !(opened.directory(directory).is_ok() || is_worker()) {
        return Err(FetchError::NoDirectory(directory.to_owned()));
    }
    Ok(clone.join(directory))
}

/// A repository that is fetched.
struct Clone<'c> {
    transport: &'static str,
    directory: &'c Path,
}

impl Clone<'_> {
    /// Fetches a revision, and leaves its files alone.
    fn fetch(&self, url: &str, revision: &Revision) -> Result<(), FetchError> {
        eprintln!("fetching {}", shown(url));
        self.git(&["init", "--quiet", "--template="])?;
        let newest = match revision {
            Revision::Default => "HEAD",
            Revision::Branch(name) => &format!("refs/heads/{name}"),
            Revision::Tag(name) => &format!("refs/tags/{name}"),
            Revision::Commit(commit) => {
                self.fetch_commit(url, commit)?;
                self.check_out(commit)?;
                return self.without_history();
            }
        };
        self.git(&self.fetching(&["--depth=1"], url, &[newest]))?;
        self.check_out("FETCH_HEAD")?;
        self.without_history()
    }

    /// Fetches a commit alone, or all branches and tags: a server may refuse a commit that is not
    /// the newest, and knows no shortened one.
    fn fetch_commit(&self, url: &str, commit: &str) -> Result<(), FetchError> {
        let is_whole = [40, 64].contains(&commit.len());
        let one = self.fetching(&["--depth=1"], url, &[commit]);
        if is_whole && self.run(&one, true).is_ok_and(|status| status.success()) {
            return Ok(());
        }
        let all = [
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ];
        self.git(&self.fetching(&[], url, &all))
    }

    fn check_out(&self, revision: &str) -> Result<(), FetchError> {
        self.git(&["checkout", "--quiet", "--detach", revision])
    }

    /// Removes what is no part of the project.
    fn without_history(&self) -> Result<(), FetchError> {
        Ok(fs::remove_dir_all(self.directory.join(".git"))?)
    }

    fn fetching<'a>(&self, options: &[&'a str], url: &'a str, names: &[&'a str]) -> Vec<&'a str> {
        let progress = if stderr().is_terminal() {
            "--progress"
        } else {
            "--quiet"
        };
        let mut words = vec!["fetch", "--no-tags", "--no-recurse-submodules", progress];
        words.extend(options);
        words.extend(["--", url]);
        words.extend(names);
        words
    }

    /// Runs git. What it says is for the user.
    fn git(&self, words: &[&str]) -> Result<(), FetchError> {
        let status = self.run(words, false).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FetchError::NoGit,
            _ => FetchError::Io(error),
        })?;
        match status.success() {
            true => Ok(()),
            false => Err(FetchError::Git {
                command: words[0].to_owned(),
                status,
            }),
        }
    }

    fn run(&self, words: &[&str], silently: bool) -> io::Result<ExitStatus> {
        let allowed = format!("protocol.{}.allow=always", self.transport);
        let settings = [
            // Also of redirects and submodules.
            "protocol.allow=never",
            &allowed,
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "submodule.recurse=false",
            "fetch.recurseSubmodules=false",
            "advice.detachedHead=false",
            "init.defaultBranch=main",
            // A server that sends nothing for a minute.
            "http.lowSpeedLimit=1",
            "http.lowSpeedTime=60",
        ];
        let mut command = Command::new("git");
        for setting in settings {
            command.args(["-c", setting]);
        }
        for name in OF_REPOSITORY {
            command.env_remove(name);
        }
        command.current_dir(self.directory).args(words);
        if silently {
            command.stderr(Stdio::null());
        }
        self.watched(command)
    }

    /// Runs a command to its end, as long as the clone is not too large.
    fn watched(&self, mut command: Command) -> io::Result<ExitStatus> {
        let mut child = command.spawn()?;
        let mut looked = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if looked.elapsed() >= LOOK {
                if is_too_large(self.directory) {
                    child.kill()?;
                    child.wait()?;
                    let gib = MAX_BYTES >> 30;
                    let limit = format!("more than {gib} GiB or {MAX_FILES} files");
                    return Err(io::Error::other(limit));
                }
                looked = Instant::now();
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Whether a directory has more than a clone may have. Files come and go meanwhile.
fn is_too_large(directory: &Path) -> bool {
    let (mut bytes, mut files) = (0_u64, 0_usize);
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            files += 1;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                bytes = bytes.saturating_add(metadata.len());
            }
            if bytes > MAX_BYTES || files > MAX_FILES {
                return true;
            }
        }
    }
    false
}

fn failed(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("wws: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tells_repository_urls_from_paths() {
        for text in [
            "https://git.example/x.git",
            "http://localhost/x",
            "ssh://git@git.example/x",
            "git@git.example:team/x.git",
        ] {
            assert_eq!(url(Path::new(text)), Some(text));
        }
        for text in [
            ".",
            "project",
            "git@x/y:z",
            "ext::sh -c x",
            "file:///x",
            "-x",
        ] {
            assert_eq!(url(Path::new(text)), None, "{text}");
        }
    }

    #[test]
    fn allows_http_on_loopback_only() {
        for (url, expected) in [
            ("https://git.example/x", "https"),
            ("ssh://git@git.example/x", "ssh"),
            ("git@git.example:x", "ssh"),
            ("http://localhost:3000/x", "http"),
            ("http://user:pass@127.0.0.1/x", "http"),
            ("http://[::1]:3000/x", "http"),
        ] {
            assert_eq!(transport(url).unwrap(), expected, "{url}");
        }
        for url in [
            "http://git.example/x",
            "http://localhost@git.example/x",
            "http://127.0.0.1.git.example/",
            "http://192.168.0.1/",
        ] {
            let error = transport(url).unwrap_err().to_string();
            assert!(error.contains("use https://"), "{url}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (url, expected) in [
            (
                "https://me:secret@git.example/x@y",
                "https://git.example/x@y",
            ),
            ("https://me@git.example/x", "https://me@git.example/x"),
            ("git@git.example:x", "git@git.example:x"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn a_project_is_inside_of_its_repository() {
        let clone = tempfile::tempdir().unwrap();
        fs::create_dir_all(clone.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", clone.path().join("out")).unwrap();
        let found = |directory: &str| project(clone.path(), Path::new(directory));
        assert_eq!(found("a/b").unwrap(), clone.path().join("a/b"));
        assert_eq!(found("").unwrap(), clone.path().join(""));
        for directory in ["..", "a/../..", "/etc", "out", "missing"] {
            assert!(found(directory).is_err(), "{directory}");
        }
    }
}
