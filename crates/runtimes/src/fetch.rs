//! Fetches files from where their entry says.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use ureq::{
    Agent,
    config::Config,
    tls::{RootCerts, TlsConfig},
};
use url::{Host, Url};

use crate::{
    archive,
    error::{Error, FailureKind},
    package::Package,
    registry::Registries,
    source::{self, Source},
    tls,
};

/// The maximum size of a version's metadata and of a repository's index, in bytes.
pub(crate) const MAX_TEXT: u64 = 4 << 20;

/// Bytes that are read between two progress reports.
const PIECE: usize = 128 << 10;

/// Receives the progress of fetches.
pub trait Progress {
    /// A fetch begins.
    fn fetching(&self, what: &str);
    /// This many bytes have arrived, of a total if it is known.
    fn received(&self, bytes: u64, of: Option<u64>);
    /// The fetch has ended.
    fn ended(&self);
}

/// Bounds of a fetch, and the environment.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// The process's environment: npm's variables, `HOME`, `SSL_CERT_FILE`.
    pub env: BTreeMap<String, String>,
    /// The maximum size of a file or package, in bytes: that of the largest module that the server
    /// reads.
    pub max: u64,
    /// The time for a connection.
    pub connect_timeout: Duration,
    /// The time for the next bytes of a response.
    pub stall_timeout: Duration,
    /// The time for a whole file.
    pub timeout: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            max: 512 << 20,
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// An HTTP client with these options, for other servers than registries of runtimes. Proxies come
/// from the process's own environment.
///
/// # Errors
/// A named file of certificates cannot be read.
pub fn agent(options: &FetchOptions) -> Result<Agent, Error> {
    Ok(agent_with(options, tls::roots(&options.env, None)?))
}

fn agent_with(options: &FetchOptions, roots: RootCerts) -> Agent {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(5)
        .user_agent(concat!("wws/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .timeout_connect(Some(options.connect_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_global(Some(options.timeout))
        .build();
    config.new_agent()
}

/// Fetches files for one project.
pub struct Fetch<'p> {
    agent: Agent,
    registries: Registries,
    options: FetchOptions,
    progress: &'p dyn Progress,
}

/// The body of a response.
enum FetchedBody {
    Found(Vec<u8>),
    Missing(String),
}

impl<'p> Fetch<'p> {
    /// Reads the configuration and opens no connection. Proxies come from the process's own
    /// environment (`HTTPS_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// An `.npmrc` or a named file of certificates cannot be read.
    pub fn new(
        project: &Path,
        options: FetchOptions,
        progress: &'p dyn Progress,
    ) -> Result<Self, Error> {
        let registries = Registries::of(project, &options.env)?;
        let roots = tls::roots(&options.env, registries.certificates())?;
        Ok(Self {
            agent: agent_with(&options, roots),
            registries,
            options,
            progress,
        })
    }

    /// Fetches the file of a source. The caller verifies its checksum.
    pub(crate) fn file(&self, source: &Source) -> Result<Vec<u8>, Error> {
        let max = self.options.max;
        match source {
            Source::Npm(package) => self.file_of(package).map_err(|error| error.of(source)),
            Source::Http(url) => self.get(url, max)?.or_missing(),
            Source::File(path) => read(path, max),
        }
    }

    /// Fetches a small text.
    pub(crate) fn text(&self, source: &Source) -> Result<String, Error> {
        let bytes = match source {
            Source::Http(url) => self.get(url, MAX_TEXT)?.or_missing()?,
            Source::File(path) => read(path, MAX_TEXT)?,
            Source::Npm(_) => {
                return Err(Error::new(
                    FailureKind::Input,
                    format!("{source} is no text"),
                ));
            }
        };
        String::from_utf8(bytes)
            .map_err(|_| Error::new(FailureKind::Damaged, format!("{source} is not UTF-8")))
    }

    fn file_of(&self, package: &Package) -> Result<Vec<u8>, Error> {
        let registry = self.registries.registry(package)?;
        let archive = match self.get(&registry.archive(package)?, self.options.max)? {
            FetchedBody::Found(archive) => archive,
            // The registry keeps archives elsewhere, and its metadata says where.
            FetchedBody::Missing(missing) => {
                let url = registry.metadata(package)?;
                let FetchedBody::Found(metadata) = self.get(&url, MAX_TEXT)? else {
                    return Err(Error::new(FailureKind::NotFound, missing));
                };
                self.get(&archive_of(&metadata, &url)?, self.options.max)?
                    .or_missing()?
            }
        };
        package.check(&archive)?;
        archive::file_of(&archive, &package.file, self.options.max)
    }

    fn get(&self, url: &Url, max: u64) -> Result<FetchedBody, Error> {
        let shown = source::shown(url);
        self.progress.fetching(&shown);
        let answer = self.read(url, max).map_err(|error| error.of(&shown));
        self.progress.ended();
        answer
    }

    fn read(&self, url: &Url, max: u64) -> Result<FetchedBody, Error> {
        let mut request = self.agent.get(url.as_str());
        if is_here(url) {
            // A proxy cannot reach it.
            request = request.config().proxy(None).build();
        }
        if let Some(authorization) = self.registries.authorization(url) {
            request = request.header("authorization", authorization);
        }
        let response = request.call().map_err(|error| self.failed(&error))?;
        let status = response.status();
        match status.as_u16() {
            200 => {}
            404 | 410 => {
                return Ok(FetchedBody::Missing(format!(
                    "{}: is not there ({status})",
                    source::shown(url)
                )));
            }
            401 | 403 => {
                return Err(Error::new(
                    FailureKind::Network,
                    format!(
                        "refused ({status}): a registry's token is `//HOST/:_authToken=...` in \
                         ~/.npmrc"
                    ),
                ));
            }
            _ => {
                return Err(Error::new(
                    FailureKind::Network,
                    format!("answers {status}"),
                ));
            }
        }
        let length = response.body().content_length();
        let too_large = || Error::new(FailureKind::TooLarge, format!("larger than {max} bytes"));
        if length.is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let mut body = response.into_body().into_reader();
        let mut bytes = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let read = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(&ureq::Error::from(error))),
            };
            bytes.extend_from_slice(&piece[..read]);
            let received = bytes.len() as u64;
            if received > max {
                return Err(too_large());
            }
            self.progress.received(received, length);
        }
        match length {
            Some(length) if length != bytes.len() as u64 => Err(Error::new(
                FailureKind::Network,
                format!(
                    "broke off after {} of {length} bytes: try again",
                    bytes.len()
                ),
            )),
            _ => Ok(FetchedBody::Found(bytes)),
        }
    }

    fn by_proxy(&self) -> &'static str {
        match self.agent.config().proxy() {
            Some(_) => " (the environment names a proxy)",
            None => "",
        }
    }

    fn failed(&self, error: &ureq::Error) -> Error {
        Error::new(
            FailureKind::Network,
            match error {
                ureq::Error::Timeout(_) => format!(
                    "no answer in time ({:?} for a connection, {:?} for the next bytes, {:?} for \
                     all): try again",
                    self.options.connect_timeout, self.options.stall_timeout, self.options.timeout
                ),
                ureq::Error::HostNotFound => "no host of this name is found".into(),
                ureq::Error::Io(error) => format!("{error}{}", self.by_proxy()),
                error => format!("{error}{}", self.by_proxy()),
            },
        )
    }
}

impl FetchedBody {
    fn or_missing(self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Found(bytes) => Ok(bytes),
            Self::Missing(message) => Err(Error::new(FailureKind::NotFound, message)),
        }
    }
}

/// Whether a URL is on this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `dist.tarball` of a version's metadata, which may be relative.
fn archive_of(metadata: &[u8], url: &Url) -> Result<Url, Error> {
    let metadata: serde_json::Value = serde_json::from_slice(metadata).map_err(|error| {
        Error::new(
            FailureKind::Damaged,
            format!("{}: no JSON", source::shown(url)),
        )
        .caused_by(error)
    })?;
    let tarball = metadata.pointer("/dist/tarball").and_then(|t| t.as_str());
    tarball
        .and_then(|text| url.join(text).ok())
        .filter(|url| matches!(url.scheme(), "https" | "http"))
        .ok_or_else(|| {
            Error::new(
                FailureKind::NotFound,
                format!(
                    "{}: does not say where the archive is (`dist.tarball`)",
                    source::shown(url)
                ),
            )
        })
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let run = || {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::other(format!("larger than {max} bytes")));
        }
        Ok(bytes)
    };
    run()
        .map_err(|error| Error::new(FailureKind::File, path.display().to_string()).caused_by(error))
}
