//! Writes images: as an archive, or as an OCI image layout.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::json;
use tar::Builder;

use crate::blob::{Blob, INDEX};
use crate::error::ImageError;
use crate::layer::header;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// `index.json` of a layout with one image: the last of `blobs`.
fn index(name: &str, blobs: &[Blob]) -> Vec<u8> {
    let mut manifests = Vec::new();
    if let Some(top) = blobs.last() {
        let mut image = top.descriptor();
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        // The name as containerd and Docker read it, and the tag as the specification has it.
        image["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": tag,
        });
        manifests.push(image);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
    });
    index.to_string().into_bytes()
}

/// Writes an archive.
pub(crate) fn write_archive(
    name: &str,
    time: u64,
    blobs: &[Blob],
    to: impl Write,
) -> Result<(), ImageError> {
    let mut archive = Builder::new(to);
    for (path, content) in [("oci-layout", LAYOUT), ("index.json", &index(name, blobs))] {
        let mut header = header(0o644, content.len() as u64, time);
        archive
            .append_data(&mut header, path, content)
            .map_err(ImageError::Write)?;
    }
    for blob in blobs {
        append_blob(&mut archive, blob, time)?;
    }
    archive
        .into_inner()
        .and_then(|mut to| to.flush())
        .map_err(ImageError::Write)
}

/// Appends a blob, which writes itself: `tar` only takes what is read.
fn append_blob(
    archive: &mut Builder<impl Write>,
    blob: &Blob,
    time: u64,
) -> Result<(), ImageError> {
    const BLOCK: u64 = 512;
    let mut header = header(0o644, blob.size(), time);
    let set = header.set_path(blob.path());
    set.map_err(ImageError::Write)?;
    header.set_cksum();
    let to = archive.get_mut();
    to.write_all(header.as_bytes()).map_err(ImageError::Write)?;
    blob.write(&mut *to)?;
    let padding = blob.size().next_multiple_of(BLOCK) - blob.size();
    io::copy(&mut io::Read::take(io::repeat(0), padding), to).map_err(ImageError::Write)?;
    Ok(())
}

/// Writes a layout into `to`, whole or not at all.
pub(crate) fn write_layout(name: &str, blobs: &[Blob], to: &Path) -> Result<(), ImageError> {
    match fs::read_dir(to) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(ImageError::NotEmpty(to.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ImageError::file(to, error)),
    }
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let part = tempfile::Builder::new()
        .prefix(".wws-build-")
        .tempdir_in(parent)
        .map_err(|error| ImageError::file(parent, error))?;
    let write = |path: &str, content: &dyn Fn(&mut dyn Write) -> Result<(), ImageError>| {
        let path = part.path().join("layout").join(path);
        let failed = |error| ImageError::file(&path, error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = BufWriter::new(File::create_new(&path).map_err(failed)?);
        content(&mut file)?;
        file.flush().map_err(failed)
    };
    let bytes = |bytes: &[u8], to: &mut dyn Write| to.write_all(bytes).map_err(ImageError::Write);
    for blob in blobs {
        write(&blob.path(), &|to| blob.write(to))?;
    }
    write("oci-layout", &|to| bytes(LAYOUT, to))?;
    write("index.json", &|to| bytes(&index(name, blobs), to))?;
    // Over an empty directory, as well. The temporary one has a private mode, the one in it not.
    fs::rename(part.path().join("layout"), to).map_err(|error| ImageError::file(to, error))
}
