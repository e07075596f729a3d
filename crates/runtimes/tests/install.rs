//! Runtimes are installed from directories, from URLs and from an npm registry, each on this
//! machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod server;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use server::{Reply, Server};
use sha2::{Digest, Sha256, Sha512};
use tempfile::TempDir;
use wws_project::Runtime;
use wws_runtimes::{
    Error, Fetch, FetchOptions, InstallOutcome, LockedProject, Progress, Repository,
};

const CONTENT: &[u8] = b"an interpreter";

struct Silent;

impl Progress for Silent {
    fn fetching(&self, _: &str) {}
    fn received(&self, _: u64, _: Option<u64>) {}
    fn ended(&self) {}
}

fn options() -> FetchOptions {
    FetchOptions {
        // No configuration of this machine.
        env: BTreeMap::from([("PATH".into(), "/nowhere".into())]),
        max: 100_000,
        stall_timeout: Duration::from_secs(1),
        ..FetchOptions::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// An index with one runtime, `python 1.0`.
fn index(url: &str, sha256: &str) -> String {
    format!(
        "version = 1\n[[runtimes]]\nname = \"python\"\nversion = \"1.0\"\ntags = [\"latest\"]\n\
         extensions = [\"py\"]\n\
         [runtimes.binary]\nurl = \"{url}\"\nfilename = \"p.wasm\"\n\
         checksum = {{ type = \"sha256\", value = \"{sha256}\" }}\n"
    )
}

/// A package's archive, and what its checksum is.
fn package() -> (Vec<u8>, String) {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in [
        ("package/package.json", &b"{}"[..]),
        ("package/dist/p.wasm", CONTENT),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let sum = STANDARD.encode(Sha512::digest(&archive));
    (archive, format!("sha512-{sum}"))
}

struct Project {
    directory: TempDir,
}

impl Project {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn config(&self) -> String {
        fs::read_to_string(self.path().join(".wws.toml")).unwrap_or_default()
    }

    /// Installs `python 1.0` of the repository at `location`.
    fn add(&self, location: &str) -> Result<InstallOutcome, Error> {
        let fetch = Fetch::new(self.path(), options(), &Silent)?;
        let repository = Repository::open(location, Some("near"), &fetch)?;
        let runtime = repository.find("python", "latest")?;
        LockedProject::open(self.path())?.add(&repository, runtime, &fetch)
    }

    /// Installs what `.wws.toml` lists first.
    fn install(&self) -> Result<InstallOutcome, Error> {
        let fetch = Fetch::new(self.path(), options(), &Silent)?;
        let locked = LockedProject::open(self.path())?;
        locked.install(&locked.runtimes()?[0], &fetch)
    }

    fn runtimes(&self) -> Vec<Runtime> {
        wws_project::runtimes(self.path()).unwrap()
    }

    /// Nothing is installed or listed, whole or in part.
    fn assert_nothing(&self) {
        assert_eq!(self.config(), "");
        let mut directories = vec![self.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    assert!(path.ends_with(".npmrc"), "{}", path.display());
                }
            }
        }
    }
}

/// A directory that is a repository.
fn repository(url: &str, sha256: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("index.toml"), index(url, sha256)).unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    fs::write(directory.path().join("sub/p.wasm"), CONTENT).unwrap();
    directory
}

fn location(directory: &TempDir) -> String {
    directory.path().display().to_string()
}

#[test]
fn directory_is_a_repository() {
    let repository = repository("sub/p.wasm", &sha256(CONTENT));
    let project = Project::new();
    project.write(".wws.toml", "# Mine.\nversion = 1\n");
    for location in [
        location(&repository),
        format!("file://{}/index.toml", location(&repository)),
    ] {
        let installed = project.add(&location).unwrap();
        let again = if location.starts_with("file") {
            InstallOutcome::Before
        } else {
            InstallOutcome::Now
        };
        assert_eq!(installed, again);
    }
    let runtimes = project.runtimes();
    assert_eq!((runtimes.len(), &runtimes[0].unusable), (1, &None));
    assert!(
        project
            .config()
            .starts_with("# Mine.\nversion = 1\n\n[[repositories]]\nname = \"near\"\n")
    );
    let file = project.path().join(".wws/runtimes/near/python/1.0/p.wasm");
    assert_eq!(fs::read(&file).unwrap(), CONTENT);

    // What is damaged later is fetched again.
    fs::write(&file, "broken").unwrap();
    assert!(
        project.runtimes()[0]
            .unusable
            .as_ref()
            .unwrap()
            .contains("is damaged")
    );
    assert_eq!(project.install().unwrap(), InstallOutcome::Now);
    assert_eq!(project.runtimes()[0].unusable, None);

    LockedProject::open(project.path())
        .unwrap()
        .remove(&runtimes[0])
        .unwrap();
    assert_eq!(project.config(), "# Mine.\nversion = 1\n");
    assert!(!project.path().join(".wws").exists());
}

#[test]
fn a_project_that_has_its_repository_in_itself_can_be_moved() {
    let project = Project::new();
    project.write("_repository/index.toml", &index("p.wasm", &sha256(CONTENT)));
    project.write("_repository/p.wasm", "an interpreter");
    project
        .add(&project.path().join("_repository").display().to_string())
        .unwrap();
    assert!(
        project.config().contains("url = \"_repository/p.wasm\""),
        "{}",
        project.config()
    );
    fs::remove_dir_all(project.path().join(".wws")).unwrap();
    assert_eq!(project.install().unwrap(), InstallOutcome::Now);
}

#[test]
fn a_package_comes_from_the_configured_registry() {
    let (archive, sum) = package();
    let usual = Server::start(vec![(
        "/npm/@s/python/-/python-1.0.0.tgz",
        Reply::bytes(&archive),
    )]);
    let metadata = "{\"dist\":{\"tarball\":\"/files/x.tgz\"}}";
    let other = Server::start(vec![
        ("/npm/@s%2fpython/1.0.0", Reply::bytes(metadata.as_bytes())),
        ("/files/x.tgz", Reply::Redirect("/files/y.tgz")),
        ("/files/y.tgz", Reply::bytes(&archive)),
    ]);
    let repository = repository(
        &format!("npm:@s/python@1.0.0/dist/p.wasm#{sum}"),
        &sha256(CONTENT),
    );
    for registry in [&usual, &other] {
        let project = Project::new();
        project.write(".npmrc", &format!("@s:registry={}/npm", registry.url()));
        assert_eq!(
            project.add(&location(&repository)).unwrap(),
            InstallOutcome::Now
        );
        assert!(
            project
                .config()
                .contains("url = \"npm:@s/python@1.0.0/dist/p.wasm#sha512-")
        );
        assert_eq!(project.runtimes()[0].unusable, None);
    }
    let project = Project::new();
    let error = project.add(&location(&repository)).unwrap_err().to_string();
    assert!(error.contains("set NPM_CONFIG_REGISTRY="), "{error}");
    project.assert_nothing();
}

#[test]
fn a_token_is_sent_to_its_registry_and_not_on() {
    let (archive, sum) = package();
    let elsewhere = Server::start(vec![("/x.tgz", Reply::bytes(&archive))]);
    let away: &'static str = Box::leak(format!("{}/x.tgz", elsewhere.url()).into_boxed_str());
    let registry = Server::start(vec![(
        "/@s/python/-/python-1.0.0.tgz",
        Reply::Redirect(away),
    )]);
    let repository = repository(
        &format!("npm:@s/python@1.0.0/dist/p.wasm#{sum}"),
        &sha256(CONTENT),
    );
    let project = Project::new();
    let home = TempDir::new().unwrap();
    let host = registry.url().replace("http:", "");
    fs::write(
        home.path().join(".npmrc"),
        format!("registry={}\n{host}/:_authToken=${{T}}\n", registry.url()),
    )
    .unwrap();
    let mut options = options();
    options
        .env
        .insert("HOME".into(), home.path().to_str().unwrap().into());
    options.env.insert("T".into(), "secret".into());
    let fetch = Fetch::new(project.path(), options, &Silent).unwrap();
    let repository = Repository::open(&location(&repository), Some("near"), &fetch).unwrap();
    let locked = LockedProject::open(project.path()).unwrap();
    locked
        .add(&repository, &repository.runtimes[0], &fetch)
        .unwrap();
    assert!(registry.requests()[0].contains("authorization: Bearer secret"));
    let away = elsewhere.requests();
    assert!(away.len() == 1 && !away[0].contains("secret"), "{away:?}");
}

/// What a registry may answer instead of the package, and what is said of it.
#[test]
fn rejects_and_removes_an_incomplete_package() {
    let (archive, sum) = package();
    let mut damaged = archive.clone();
    damaged[20] ^= 1;
    let half = archive.len() / 2;
    let replies: Vec<(Reply, &str)> = vec![
        (
            Reply::bytes(&damaged),
            "the package is damaged, or not the one",
        ),
        (
            Reply::bytes(b"<html>"),
            "the package is damaged, or not the one",
        ),
        (
            Reply::Broken(archive[..half].to_vec(), archive.len()),
            "python-1.0.0.tgz: ",
        ),
        (
            Reply::Stalled(archive[..half].to_vec(), archive.len()),
            "no answer in time",
        ),
        (Reply::Silent, "no answer in time"),
        (Reply::Claimed(100_001), "larger than 100000 bytes"),
        (Reply::Endless, "larger than 100000 bytes"),
        (Reply::Status(404), "is not there (404"),
        (Reply::Status(401), "refused (401"),
        (Reply::Status(500), "answers 500"),
        (Reply::Redirect("/@s/python/-/python-1.0.0.tgz"), "redirect"),
        (Reply::Nonsense, "python-1.0.0.tgz: "),
    ];
    let repository = repository(
        &format!("npm:@s/python@1.0.0/dist/p.wasm#{sum}"),
        &sha256(CONTENT),
    );
    for (reply, says) in replies {
        let server = Server::start(vec![("/@s/python/-/python-1.0.0.tgz", reply.clone())]);
        let project = Project::new();
        project.write(".npmrc", &format!("registry={}", server.url()));
        let started = Instant::now();
        let error = project.add(&location(&repository)).unwrap_err().to_string();
        assert!(
            error.contains(says)
                && error.starts_with("python 1.0: npm:@s/python@1.0.0/dist/p.wasm: "),
            "{reply:?}: {error}"
        );
        assert!(started.elapsed() < Duration::from_secs(40), "{reply:?}");
        project.assert_nothing();
    }
}

#[test]
fn rejects_a_package_without_the_expected_file() {
    let (archive, sum) = package();
    let server = Server::start(vec![(
        "/@s/python/-/python-1.0.0.tgz",
        Reply::bytes(&archive),
    )]);
    for (file, says) in [
        ("dist/no.wasm", "has no file dist/no.wasm"),
        ("package.json", "its sha256 is 44136fa355b3"),
    ] {
        let repository = repository(
            &format!("npm:@s/python@1.0.0/{file}#{sum}"),
            &sha256(CONTENT),
        );
        let project = Project::new();
        project.write(".npmrc", &format!("registry={}", server.url()));
        let error = project.add(&location(&repository)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        project.assert_nothing();
    }
}

#[test]
fn a_repository_may_be_at_a_url() {
    let index_text = index("files/p.wasm", &sha256(CONTENT));
    let server = Server::start(vec![
        ("/v1/index.toml", Reply::bytes(index_text.as_bytes())),
        ("/v1/files/p.wasm", Reply::bytes(CONTENT)),
    ]);
    let project = Project::new();
    project
        .add(&format!("{}/v1/index.toml", server.url()))
        .unwrap();
    assert!(
        project
            .config()
            .contains(&format!("url = \"{}/v1/files/p.wasm\"", server.url()))
    );

    // It has no say on this machine's files.
    let index_text = index("file:///etc/hostname", &sha256(CONTENT));
    let server = Server::start(vec![("/index.toml", Reply::bytes(index_text.as_bytes()))]);
    let project = Project::new();
    let error = project
        .add(&format!("{}/index.toml", server.url()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is no place that it can name"), "{error}");

    let server = Server::start(vec![(
        "/index.toml",
        Reply::bytes(b"version = 1\nruntime = 1"),
    )]);
    let error = project
        .add(&format!("{}/index.toml", server.url()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("index.toml:2:1: unknown key `runtime`"),
        "{error}"
    );
    let error = project
        .add(&format!("{}/none", server.url()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not there (404"), "{error}");
    project.assert_nothing();
}

#[test]
fn rejects_entries_without_checksum_or_url() {
    let listed = "[[repositories]]\nname = \"r\"\n[[repositories.runtimes]]\nname = \"python\"\n\
        version = \"1\"\nextensions = [\"py\"]\n[repositories.runtimes.binary]\n\
        filename = \"p.wasm\"\n";
    let project = Project::new();
    project.write(".wws.toml", listed);
    let error = project.install().unwrap_err().to_string();
    assert!(error.contains("p.wasm has no `checksum`"), "{error}");
    let sum = format!(
        "checksum = {{ type = \"sha256\", value = \"{}\" }}\n",
        sha256(CONTENT)
    );
    project.write(".wws.toml", &format!("{listed}{sum}"));
    let error = project.install().unwrap_err().to_string();
    assert!(
        error.contains("put it at .wws/runtimes/r/python/1/p.wasm yourself"),
        "{error}"
    );
    project.write(".wws/runtimes/r/python/1/p.wasm", "an interpreter");
    assert_eq!(project.install().unwrap(), InstallOutcome::Before);
}

#[test]
fn nothing_is_written_or_removed_outside_the_project() {
    let repository = repository("sub/p.wasm", &sha256(CONTENT));
    let outside = TempDir::new().unwrap();
    fs::create_dir_all(outside.path().join("near/python/1.0")).unwrap();
    let project = Project::new();
    fs::create_dir(project.path().join(".wws")).unwrap();
    symlink(outside.path(), project.path().join(".wws/runtimes")).unwrap();
    let error = project.add(&location(&repository)).unwrap_err().to_string();
    assert!(error.contains("p.wasm: "), "{error}");
    assert_eq!(project.config(), "");
    let runtime = {
        let fetch = Fetch::new(project.path(), options(), &Silent).unwrap();
        Repository::open(&location(&repository), Some("near"), &fetch)
            .unwrap()
            .runtimes
            .remove(0)
    };
    let error = LockedProject::open(project.path())
        .unwrap()
        .remove(&runtime)
        .unwrap_err();
    assert!(
        error.to_string().contains(".wws/runtimes/near/python/1.0"),
        "{error}"
    );
    assert!(outside.path().join("near/python/1.0").exists());
    assert_eq!(
        fs::read_dir(outside.path().join("near/python/1.0"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn concurrent_installations_are_both_listed() {
    let project = Project::new();
    let names = ["a", "b", "c", "d"];
    std::thread::scope(|scope| {
        for name in names {
            let project = &project;
            scope.spawn(move || {
                let repository = repository("sub/p.wasm", &sha256(CONTENT));
                let fetch = Fetch::new(project.path(), options(), &Silent).unwrap();
                let repository =
                    Repository::open(&location(&repository), Some(name), &fetch).unwrap();
                let locked = LockedProject::open(project.path()).unwrap();
                locked
                    .add(&repository, &repository.runtimes[0], &fetch)
                    .unwrap();
            });
        }
    });
    let mut listed: Vec<String> = project
        .runtimes()
        .into_iter()
        .filter(|runtime| runtime.unusable.is_none())
        .map(|runtime| runtime.repository)
        .collect();
    listed.sort();
    assert_eq!(listed, names);
}

#[test]
fn a_repository_that_changed_its_file_replaces_the_entry() {
    let old = repository("sub/p.wasm", &sha256(CONTENT));
    let project = Project::new();
    project.add(&location(&old)).unwrap();
    fs::write(old.path().join("sub/p.wasm"), "another").unwrap();
    fs::write(
        old.path().join("index.toml"),
        index("sub/p.wasm", &sha256(b"another")),
    )
    .unwrap();
    assert_eq!(project.add(&location(&old)).unwrap(), InstallOutcome::Now);
    let runtimes = project.runtimes();
    assert_eq!((runtimes.len(), &runtimes[0].unusable), (1, &None));
}
