//! Pushes images to a registry, and pulls them.
//!
//! Source: OCI distribution specification, "Pushing manifests" and "Pushing blobs"; for
//! authentication: Docker's "Token authentication specification".

mod auth;
mod pull;

use std::cell::RefCell;
use std::io::{Read, Seek};

use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder};
use url::{Host, Url};

use crate::blob::{Blob, CONFIG, LAYER};
use crate::error::ImageError;
use crate::reference::Reference;

pub use auth::Credentials;
pub use pull::PullProgress;

/// The most bytes of an answer that are read.
const MAX_ANSWER: u64 = 1 << 20;

/// The registry of names without one has its interface elsewhere.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// What a request ends with.
type RegistryResult = Result<Response<Body>, ureq::Error>;

/// What is done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryAccess {
    /// An image is pulled from it.
    Pull,
    /// An image is pushed to it.
    Push,
}

impl RegistryAccess {
    /// The actions of a token's scope.
    fn scope(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Pull => "does the image exist, and may this user pull it? (`docker login`)",
            Self::Push => "may this user push to the repository? (`docker login`)",
        }
    }
}

/// A repository of a registry, to which an image is pushed, or from which it is pulled.
pub struct Registry {
    agent: Agent,
    base: Url,
    name: Reference,
    credentials: Option<Credentials>,
    access: RegistryAccess,
    /// The header that the registry asked for.
    authorization: RefCell<Option<String>>,
}

impl Registry {
    /// The repository of an image's name. Registries on this machine are reached by http, others by
    /// https. No connection is opened.
    ///
    /// # Errors
    /// The name's registry is no host.
    pub fn new(
        agent: Agent,
        name: Reference,
        credentials: Option<Credentials>,
        access: RegistryAccess,
    ) -> Result<Self, ImageError> {
        let host = match name.registry() {
            host if host == DOCKER.0 => DOCKER.1,
            host => host,
        };
        let bad = |error: url::ParseError| ImageError::registry(host, error.to_string());
        let mut base = Url::parse(&format!("https://{host}/v2/")).map_err(bad)?;
        if is_here(&base) {
            base = Url::parse(&format!("http://{host}/v2/")).map_err(bad)?;
        }
        Ok(Self {
            agent,
            base,
            name,
            credentials,
            access,
            authorization: RefCell::new(None),
        })
    }

    /// Pushes the blobs of an image, which its name stands for afterwards. `pushed` is called with
    /// each blob, and whether the registry had it.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses, or a file of the image has changed.
    pub fn push(&self, blobs: &[Blob], pushed: &dyn Fn(&Blob, bool)) -> Result<(), ImageError> {
        for (index, blob) in blobs.iter().enumerate() {
            let is_last = index + 1 == blobs.len();
            let had = if [LAYER, CONFIG].contains(&blob.media_type) {
                self.push_blob(blob)?
            } else {
                let reference = if is_last {
                    self.name.tag()
                } else {
                    blob.digest()
                };
                self.push_manifest(blob, reference)?;
                false
            };
            pushed(blob, had);
        }
        Ok(())
    }

    /// Pushes a blob; returns whether the registry had it.
    fn push_blob(&self, blob: &Blob) -> Result<bool, ImageError> {
        let at = self.url(&format!("blobs/{}", blob.digest()))?;
        let found = self.send(&at, &|authorization| {
            let request = self.agent.head(at.as_str());
            self.prepared(request, &at, authorization).call()
        })?;
        match found.status().as_u16() {
            200 => return Ok(true),
            404 => {}
            _ => return Err(self.refused("look for a blob", found)),
        }
        let uploads = self.url("blobs/uploads/")?;
        let begun = self.send(&uploads, &|authorization| {
            let request = self.agent.post(uploads.as_str());
            self.prepared(request, &uploads, authorization).send_empty()
        })?;
        if begun.status().as_u16() != 202 {
            return Err(self.refused("begin an upload", begun));
        }
        let location = begun
            .headers()
            .get("location")
            .and_then(|at| at.to_str().ok());
        let upload = location
            .and_then(|location| uploads.join(location).ok())
            .filter(|url| self.is_safe(url));
        let Some(mut upload) = upload else {
            let why = "answers no place for an upload";
            return Err(ImageError::registry(self.name.registry(), why));
        };
        upload
            .query_pairs_mut()
            .append_pair("digest", blob.digest());
        // Its size is known before it is sent, and it may be sent twice.
        let mut file = tempfile::tempfile().map_err(ImageError::Write)?;
        blob.write(std::io::BufWriter::new(&file))?;
        file.rewind().map_err(ImageError::Write)?;
        let done = self.send(&upload, &|authorization| {
            let request = self
                .agent
                .put(upload.as_str())
                .header("content-type", "application/octet-stream");
            (&file).rewind().map_err(ureq::Error::Io)?;
            self.prepared(request, &upload, authorization).send(&file)
        })?;
        match done.status().as_u16() {
            201 | 204 => Ok(false),
            _ => Err(self.refused("upload a blob", done)),
        }
    }

    fn push_manifest(&self, blob: &Blob, reference: &str) -> Result<(), ImageError> {
        let at = self.url(&format!("manifests/{reference}"))?;
        let bytes = blob.bytes()?;
        let done = self.send(&at, &|authorization| {
            let request = self
                .agent
                .put(at.as_str())
                .header("content-type", blob.media_type);
            let request = self.prepared(request, &at, authorization);
            request.send(bytes.as_slice())
        })?;
        match done.status().as_u16() {
            200..=204 => Ok(()),
            _ => Err(self.refused("push a manifest", done)),
        }
    }

    /// A request with the header that the registry asked for. What begins by https is not
    /// redirected to http; no proxy reaches this machine.
    fn prepared<B>(
        &self,
        request: RequestBuilder<B>,
        url: &Url,
        authorization: Option<&str>,
    ) -> RequestBuilder<B> {
        let mut config = request.config().https_only(url.scheme() == "https");
        if is_here(url) {
            config = config.proxy(None);
        }
        let request = config.build();
        match authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    /// Sends a request, and once more if the registry asks who sends it. Only the registry itself
    /// gets the answer.
    fn send(
        &self,
        url: &Url,
        request: &dyn Fn(Option<&str>) -> RegistryResult,
    ) -> Result<Response<Body>, ImageError> {
        let is_own = url.origin() == self.base.origin();
        let failed = |error: ureq::Error| ImageError::registry(&origin(url), error.to_string());
        let authorization = self.authorization.borrow().clone().filter(|_| is_own);
        let response = request(authorization.as_deref()).map_err(failed)?;
        if response.status().as_u16() != 401 || !is_own {
            return Ok(response);
        }
        let challenge = response.headers().get("www-authenticate");
        let challenge = challenge
            .and_then(|text| text.to_str().ok())
            .unwrap_or_default();
        let authorization = self.answer(challenge)?;
        *self.authorization.borrow_mut() = Some(authorization.clone());
        request(Some(&authorization)).map_err(failed)
    }

    /// The header that a challenge asks for.
    fn answer(&self, challenge: &str) -> Result<String, ImageError> {
        let registry = self.name.registry();
        let credentials = self.credentials.as_ref();
        match auth::Challenge::parse(challenge) {
            Some(auth::Challenge::Basic) => credentials.map(Credentials::basic).ok_or_else(|| {
                let why = format!(
                    "wants a user: `docker login {registry}`, or write ~/.docker/config.json"
                );
                ImageError::registry(registry, why)
            }),
            Some(auth::Challenge::Bearer { realm, service }) => {
                self.token(&realm, service.as_deref())
            }
            None => {
                let why = "wants a kind of authentication that is not supported";
                Err(ImageError::registry(registry, why))
            }
        }
    }

    fn token(&self, realm: &str, service: Option<&str>) -> Result<String, ImageError> {
        let registry = self.name.registry();
        let realm = Url::parse(realm).ok().filter(|url| self.is_safe(url));
        let Some(mut url) = realm else {
            let why = "names no place for tokens that may be trusted";
            return Err(ImageError::registry(registry, why));
        };
        let actions = self.access.scope();
        let scope = format!("repository:{}:{actions}", self.name.repository());
        let mut query = url.query_pairs_mut();
        query.append_pair("scope", &scope);
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        drop(query);
        let basic = self.credentials.as_ref().map(Credentials::basic);
        let request = self.agent.get(url.as_str());
        let response = self
            .prepared(request, &url, basic.as_deref())
            .call()
            .map_err(|error| ImageError::registry(&origin(&url), error.to_string()))?;
        if response.status().as_u16() != 200 {
            return Err(self.refused("get a token", response));
        }
        let answer: Option<serde_json::Value> = serde_json::from_slice(&read(response)).ok();
        let token = answer.as_ref().and_then(|answer| {
            let token = answer.get("token").or_else(|| answer.get("access_token"))?;
            token.as_str()
        });
        token
            .map(|token| format!("Bearer {token}"))
            .ok_or_else(|| ImageError::registry(registry, "answers no token"))
    }

    /// Whether secrets and files may go to a URL: by https, or on this machine if the registry is.
    fn is_safe(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => is_here(url) && is_here(&self.base),
            _ => false,
        }
    }

    fn url(&self, path: &str) -> Result<Url, ImageError> {
        let path = format!("{}/{path}", self.name.repository());
        let registry = self.name.registry();
        self.base
            .join(&path)
            .map_err(|error| ImageError::registry(registry, error.to_string()))
    }

    /// An answer that is none of those expected, with the registry's own words.
    fn refused(&self, what: &str, response: Response<Body>) -> ImageError {
        let status = response.status();
        let body: Option<serde_json::Value> = serde_json::from_slice(&read(response)).ok();
        let message = body
            .as_ref()
            .and_then(|body| body.pointer("/errors/0/message")?.as_str());
        let message: String = message
            .unwrap_or_default()
            .chars()
            .filter(|character| !character.is_control())
            .take(200)
            .collect();
        let mut why = format!("cannot {what}: {status}");
        if !message.is_empty() {
            why = format!("{why}, {message}");
        }
        if matches!(status.as_u16(), 401 | 403) {
            why = format!("{why}: {}", self.access.hint());
        }
        ImageError::registry(self.name.registry(), why)
    }
}

fn read(response: Response<Body>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What arrived before a failure is as much as there is.
    let _ = response
        .into_body()
        .into_reader()
        .take(MAX_ANSWER)
        .read_to_end(&mut bytes);
    bytes
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
