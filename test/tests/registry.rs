//! Images in a real registry (Debian's `docker-registry`): `wws build --push`, then `wws run`.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use wws_test::wait::{patience, until};
use wws_test::{command, http, port, workspace};

const LIMIT: Duration = Duration::from_secs(120);

/// The password `pass` of `user`, as `htpasswd -B` writes it.
const USERS: &str = "user:$2y$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n";

/// `user:pass`.
const AUTH: &str = "dXNlcjpwYXNz";

/// An address that is not one of this machine, in a network of its own.
const ADDRESS: &str = "192.0.2.1";

/// A process that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A registry, and a user of it.
struct RegistryFixture {
    directory: TempDir,
    /// Host and port.
    registry: String,
    /// The process whose network is used, unless it is the machine's.
    network: Option<Running>,
    _registry: Option<Running>,
}

impl RegistryFixture {
    /// Starts a registry on loopback, by http, or in a network of its own, by https.
    fn start(is_tls: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let (network, registry) = if is_tls {
            (Some(network(&at("network"))?), format!("{ADDRESS}:5000"))
        } else {
            (None, format!("127.0.0.1:{}", port::free()?))
        };
        fs::write(at("users"), USERS)?;
        let tls = if is_tls {
            certificate(directory.path())?
        } else {
            String::new()
        };
        let settings = format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: {root}/images}}}}\n\
             auth: {{htpasswd: {{realm: us, path: {root}/users}}}}\n\
             http: {{addr: '{registry}', secret: x{tls}}}\n",
            root = directory.path().display(),
        );
        fs::write(at("registry.yml"), settings)?;
        fs::create_dir(at("docker"))?;
        let auths = format!(r#"{{"auths": {{"{registry}": {{"auth": "{AUTH}"}}}}}}"#);
        fs::write(at("docker/config.json"), auths)?;
        let mut place = Self {
            directory,
            registry,
            network,
            _registry: None,
        };
        let program = workspace::tools("registry")?.join("usr/bin/docker-registry");
        let log = File::create(place.at("registry.log"))?;
        let child = place
            .command(&program)
            .args(["serve", "registry.yml"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        place._registry = Some(Running(child));
        until("the registry listens", LIMIT, || {
            let log = fs::read_to_string(place.at("registry.log"))?;
            Ok(log.contains("listening on").then_some(()))
        })?;
        Ok(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command in the network of the registry, and in a directory of its own.
    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.network {
            None => Command::new(program),
            Some(network) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/proc/{}/ns/net", network.0.id()))
                    .arg(program);
                command
            }
        };
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .env("HOME", self.directory.path())
            .env("TMPDIR", self.directory.path())
            .env("DOCKER_CONFIG", self.at("docker"))
            .env("WWS_CODE_CACHE", workspace::code_cache())
            .env_remove("XDG_CACHE_HOME");
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        if self.network.is_some() {
            command.env("SSL_CERT_FILE", self.at("registry.pem"));
        }
        command
    }

    /// Runs `wws` to its end; returns its exit code and what it printed.
    fn wws(&self, arguments: &[&str]) -> Result<command::Finished> {
        let mut command = self.command(&workspace::programs()?.join("wws"));
        command::run(command.args(arguments), patience(LIMIT))
    }

    /// Builds the image of a project, and pushes it. Returns its name.
    fn push(&self) -> Result<String> {
        let project = self.at("project");
        fs::create_dir(&project)?;
        let worker = "export default { fetch: () => new Response('pulled\\n') };\n";
        fs::write(project.join("index.js"), worker)?;
        let name = format!("{}/team/hello:v1", self.registry);
        self.wws(&["build", "project", "--tag", &name, "--push"])?
            .success()?;
        Ok(name)
    }

    /// Serves an image. Returns the server, its port, and its log until then.
    fn serve(&self, name: &str) -> Result<(Running, u16, String)> {
        let log = self.at("wws.log");
        let port = port::free()?;
        let child = self
            .command(&workspace::programs()?.join("wws"))
            .args(["run", name, "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut server = Running(child);
        until("wws listens", LIMIT, || {
            let text = fs::read_to_string(&log)?;
            ensure!(server.0.try_wait()?.is_none(), "wws ended: {text}");
            Ok(text.contains("listening on").then_some(()))
        })?;
        Ok((server, port, fs::read_to_string(&log)?))
    }
}

/// Creates a network with an address that is not of loopback.
fn network(ready: &Path) -> Result<Running> {
    let script = format!(
        "ip link set lo up && ip address add {ADDRESS}/32 dev lo && touch {} && exec sleep \
         infinity",
        ready.display()
    );
    let child = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn()?;
    let network = Running(child);
    until("the network is there", LIMIT, || {
        Ok(ready.exists().then_some(()))
    })?;
    Ok(network)
}

/// Writes a certificate for the address; returns the registry's setting.
fn certificate(directory: &Path) -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec![ADDRESS.to_owned()])?;
    let certificate = params.self_signed(&key)?;
    let at = |name: &str| directory.join(name);
    fs::write(at("registry.pem"), certificate.pem())?;
    fs::write(at("registry.key"), key.serialize_pem())?;
    let root = directory.display();
    Ok(format!(
        ", tls: {{certificate: {root}/registry.pem, key: {root}/registry.key}}"
    ))
}

#[test]
fn a_pushed_image_is_run_from_a_registry() -> Result<()> {
    let place = RegistryFixture::start(false)?;
    let name = place.push()?;
    let (server, port, log) = place.serve(&name)?;
    ensure!(log.contains("fetching sha256:"), "{log}");
    assert_eq!(http::get(port, "/")?.text(), "pulled\n");
    drop(server);
    // The second time, it is all there.
    let (server, port, log) = place.serve(&name)?;
    ensure!(!log.contains("fetching"), "{log}");
    assert_eq!(http::get(port, "/")?.text(), "pulled\n");
    drop(server);
    let digest = log
        .lines()
        .find_map(|line| line.split_once(": sha256:"))
        .context("no digest")?
        .1;
    // By its digest, which is the image's for `wasi/wasm`.
    let name = format!("{}/team/hello@sha256:{digest}", place.registry);
    let (_server, port, _) = place.serve(&name)?;
    assert_eq!(http::get(port, "/")?.text(), "pulled\n");
    Ok(())
}

#[test]
fn reports_a_denied_pull() -> Result<()> {
    let place = RegistryFixture::start(false)?;
    let name = place.push()?;
    fs::write(place.at("docker/config.json"), "{}")?;
    let stranger = place.wws(&["run", &name])?;
    ensure!(
        stranger
            .success()
            .is_err_and(|error| error.to_string().contains("docker login"))
    );
    // `user:nope`.
    let auth = "dXNlcjpub3Bl";
    let auths = format!(
        r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#,
        place.registry
    );
    fs::write(place.at("docker/config.json"), auths)?;
    let error = place
        .wws(&["run", &name])?
        .success()
        .err()
        .context("it ran")?;
    ensure!(error.to_string().contains("401"), "{error:#}");
    Ok(())
}

#[test]
fn a_registry_elsewhere_is_reached_by_https() -> Result<()> {
    let place = RegistryFixture::start(true)?;
    let name = place.push()?;
    let (_server, _, log) = place.serve(&name)?;
    ensure!(log.contains("fetching sha256:"), "{log}");
    ensure!(
        TcpStream::connect(&*place.registry).is_err(),
        "it is in this network"
    );
    Ok(())
}
