//! Whose certificates are believed: the image's own authorities, else Mozilla's list.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Bytes of one file, and files of one folder: both come from an image.
const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 2048;

/// The authorities in a folder laid out as `/etc/ssl`: `certs/ca-certificates.crt`, `cert.pem`, and whatever `*.pem` and
/// `*.crt` lie in it and in `certs/`. Without a usable one, those that Mozilla believes.
pub(crate) fn load(folder: Option<&Path>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Some(folder) = folder {
        let mut seen = HashSet::new();
        for file in files(folder) {
            match read(&file) {
                Ok(text) => add(&mut roots, &mut seen, &file, &text),
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "certificates not read");
                }
            }
        }
        if roots.is_empty() && !seen.is_empty() {
            tracing::warn!(folder = %folder.display(), "no certificate in it is usable");
        }
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Files that may hold certificates, in a stable order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in [folder.to_owned(), folder.join("certs")] {
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(folder = %folder.display(), %error, "certificates not read");
                }
                continue;
            }
        };
        files.extend(
            entries
                .take(MAX_FILES)
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    path.extension()
                        .is_some_and(|extension| extension == "pem" || extension == "crt")
                })
                // A link that leads nowhere is usual there; a pipe would never end.
                .filter(|path| path.metadata().is_ok_and(|metadata| metadata.is_file())),
        );
    }
    files.sort_unstable();
    files
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

fn add(roots: &mut RootCertStore, seen: &mut HashSet<Vec<u8>>, file: &Path, text: &[u8]) {
    for certificate in CertificateDer::pem_slice_iter(text) {
        let problem = match certificate {
            // The bundle and the single files hold the same certificates.
            Ok(certificate) if !seen.insert(certificate.as_ref().to_vec()) => None,
            Ok(certificate) => roots.add(certificate).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            tracing::debug!(file = %file.display(), problem, "certificate skipped");
        }
    }
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

    #[test]
    fn every_place_counts_and_each_certificate_once() {
        let folder = tempfile::tempdir().expect("folder");
        let certs = folder.path().join("certs");
        fs::create_dir(&certs).expect("certs");
        let (a, b, c, d) = (
            authority("a"),
            authority("b"),
            authority("c"),
            authority("d"),
        );
        fs::write(certs.join("ca-certificates.crt"), format!("{a}{b}")).expect("bundle");
        fs::write(certs.join("a.pem"), &a).expect("a");
        fs::write(folder.path().join("cert.pem"), &c).expect("c");
        fs::write(folder.path().join("own.crt"), &d).expect("d");
        fs::write(folder.path().join("openssl.cnf"), authority("e")).expect("e");
        assert_eq!(load(Some(folder.path())).len(), 4);
    }

    #[test]
    fn nonsense_is_skipped_and_nothing_usable_means_the_public_list() {
        let public = webpki_roots::TLS_SERVER_ROOTS.len();
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(load(Some(&folder.path().join("missing"))).len(), public);
        assert_eq!(load(None).len(), public);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(folder.path().join("broken.pem"), broken).expect("broken");
        fs::write(folder.path().join("bytes.crt"), [0xff, 0, 1]).expect("bytes");
        fs::create_dir(folder.path().join("folder.pem")).expect("folder");
        assert_eq!(load(Some(folder.path())).len(), public);
        fs::write(
            folder.path().join("good.pem"),
            format!("{broken}{}", authority("a")),
        )
        .expect("good");
        assert_eq!(load(Some(folder.path())).len(), 1);
    }
}
