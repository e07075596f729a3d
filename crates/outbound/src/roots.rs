//! Trusted certificates.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Maximum size of a file, and number of files of a directory: both may come from an image.
const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 2048;

/// Where certificate authorities are read. The first source with a usable one is trusted: `chosen`,
/// each directory of `directories`, then Mozilla's list, which is built in. Those of `extra` are
/// added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Files and directories that the operator names (`SSL_CERT_FILE`, `SSL_CERT_DIR`), all of them
    /// together.
    pub chosen: Vec<PathBuf>,
    /// Directories with the layout of `/etc/ssl`: `certs/ca-certificates.crt`, `cert.pem`, and all
    /// `*.pem` and `*.crt` in it and in `certs/`.
    pub directories: Vec<PathBuf>,
    /// Files with the operator's own authorities (`NODE_EXTRA_CA_CERTS`).
    pub extra: Vec<PathBuf>,
}

impl Roots {
    /// Reads the authorities. Unreadable ones are logged and skipped.
    pub(crate) fn load(&self) -> RootCertStore {
        let mut found = CollectedRoots {
            roots: RootCertStore::empty(),
            seen: HashSet::new(),
        };
        for path in &self.chosen {
            if path.is_dir() {
                found.directory(path, |_| true);
            } else {
                found.file(path);
            }
        }
        for directory in &self.directories {
            if !found.roots.is_empty() {
                break;
            }
            found.directory(directory, is_named_as_certificate);
            found.directory(&directory.join("certs"), is_named_as_certificate);
            if found.roots.is_empty() && !found.seen.is_empty() {
                tracing::warn!(directory = %directory.display(), "no certificate in it is usable");
            }
        }
        if found.roots.is_empty() {
            let public = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
            found.roots.extend(public);
        }
        for path in &self.extra {
            found.file(path);
        }
        found.roots
    }
}

/// OpenSSL's own names, such as `3513523f.0`, are links to files with these.
fn is_named_as_certificate(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "pem" || extension == "crt")
}

struct CollectedRoots {
    roots: RootCertStore,
    /// The bundle and the single files hold the same certificates.
    seen: HashSet<Vec<u8>>,
}

impl CollectedRoots {
    fn directory(&mut self, directory: &Path, is_wanted: impl Fn(&Path) -> bool) {
        for file in files(directory, is_wanted) {
            self.file(&file);
        }
    }

    fn file(&mut self, file: &Path) {
        let text = match read(file) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "certificates not read");
                return;
            }
        };
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let problem = match certificate {
                Ok(certificate) if !self.seen.insert(certificate.as_ref().to_vec()) => None,
                Ok(certificate) => {
                    let added = self.roots.add(certificate);
                    added.err().map(|error| error.to_string())
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                tracing::debug!(file = %file.display(), problem, "certificate skipped");
            }
        }
    }
}

/// Files that may hold certificates, in a stable order.
fn files(directory: &Path, is_wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(directory = %directory.display(), %error, "certificates not read");
            }
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .take(MAX_FILES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_wanted(path))
        // A broken link is usual there; reading a pipe would never end.
        .filter(|path| path.metadata().is_ok_and(|metadata| metadata.is_file()))
        .collect();
    files.sort_unstable();
    files
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Reading a pipe would never end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::fs;

    use super::*;

    fn authority(name: &str) -> String {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.self_signed(&key).expect("certificate").pem()
    }

    fn count(directories: &[&Path]) -> usize {
        let directories = directories.iter().map(|path| (*path).to_owned()).collect();
        let roots = Roots {
            directories,
            ..Roots::default()
        };
        roots.load().len()
    }

    #[test]
    fn reads_each_certificate_of_all_locations_once() {
        let directory = tempfile::tempdir().expect("directory");
        let certs = directory.path().join("certs");
        fs::create_dir(&certs).expect("certs");
        let (a, b, c, d) = (
            authority("a"),
            authority("b"),
            authority("c"),
            authority("d"),
        );
        fs::write(certs.join("ca-certificates.crt"), format!("{a}{b}")).expect("bundle");
        fs::write(certs.join("a.pem"), &a).expect("a");
        fs::write(directory.path().join("cert.pem"), &c).expect("c");
        fs::write(directory.path().join("own.crt"), &d).expect("d");
        fs::write(directory.path().join("openssl.cnf"), authority("e")).expect("e");
        assert_eq!(count(&[directory.path()]), 4);
    }

    #[test]
    fn skips_invalid_files_and_falls_back_to_the_public_list() {
        let public = webpki_roots::TLS_SERVER_ROOTS.len();
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(count(&[&directory.path().join("missing")]), public);
        assert_eq!(count(&[]), public);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(directory.path().join("broken.pem"), broken).expect("broken");
        fs::write(directory.path().join("bytes.crt"), [0xff, 0, 1]).expect("bytes");
        fs::create_dir(directory.path().join("directory.pem")).expect("directory");
        assert_eq!(count(&[directory.path()]), public);
        fs::write(
            directory.path().join("good.pem"),
            format!("{broken}{}", authority("a")),
        )
        .expect("good");
        assert_eq!(count(&[directory.path()]), 1);
    }

    #[test]
    fn named_roots_replace_and_extra_roots_add() {
        let public = webpki_roots::TLS_SERVER_ROOTS.len();
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        let (image, machine) = (path("image"), path("machine"));
        for (directory, names) in [(&image, &["a"][..]), (&machine, &["b", "c"])] {
            fs::create_dir(directory).expect("directory");
            for name in names {
                let file = directory.join(format!("{name}.pem"));
                fs::write(file, authority(name)).expect("authority");
            }
        }
        fs::write(
            path("file"),
            authority("d") + &authority("e") + &authority("f"),
        )
        .expect("file");
        fs::create_dir(path("hashed")).expect("directory");
        fs::write(path("hashed/3513523f.0"), authority("g")).expect("hashed");
        let load = |roots: Roots| roots.load().len();
        let both = Roots {
            directories: vec![path("missing"), image, machine],
            ..Roots::default()
        };
        assert_eq!(load(both.clone()), 1, "the first that has any");
        for (chosen, len) in [
            (vec![path("file")], 3),
            (vec![path("hashed")], 1),
            (vec![path("file"), path("hashed")], 4),
            (vec![path("gone")], 1),
        ] {
            let chosen = Roots {
                chosen,
                ..both.clone()
            };
            assert_eq!(load(chosen), len);
        }
        let extra = |roots| Roots {
            extra: vec![path("file"), path("gone")],
            ..roots
        };
        assert_eq!(load(extra(both)), 4);
        assert_eq!(load(extra(Roots::default())), public + 3);
    }
}
