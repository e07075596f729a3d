//! The trusted certificates for fetches: this machine's authorities, or else Mozilla's list.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use crate::error::{Error, FailureKind};

/// Files in which systems have their trusted authorities.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The maximum size of a file of certificates, in bytes.
const MAX: u64 = 8 << 20;

/// `SSL_CERT_FILE`, or else the system's; in addition `NODE_EXTRA_CA_CERTS` and npm's `cafile`.
pub(crate) fn roots(env: &BTreeMap<String, String>, npm: Option<&str>) -> Result<RootCerts, Error> {
    let variable = |name| env.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let named = [
        variable("SSL_CERT_FILE"),
        variable("NODE_EXTRA_CA_CERTS"),
        npm,
    ];
    let mut certificates = Vec::new();
    for file in named.into_iter().flatten() {
        let found = read(Path::new(file)).map_err(|error| {
            Error::new(
                FailureKind::File,
                format!("cannot read the certificates of {file}"),
            )
            .caused_by(error)
        })?;
        certificates.extend(found);
    }
    if variable("SSL_CERT_FILE").is_none() {
        // The first that exists.
        certificates.extend(
            SYSTEM
                .iter()
                .find_map(|file| read(Path::new(file)).ok())
                .unwrap_or_default(),
        );
    }
    Ok(if certificates.is_empty() {
        RootCerts::WebPki
    } else {
        RootCerts::new_with_certs(&certificates)
    })
}

fn read(file: &Path) -> std::io::Result<Vec<Certificate<'static>>> {
    let mut text = Vec::new();
    File::open(file)?.take(MAX).read_to_end(&mut text)?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(items.collect())
}
