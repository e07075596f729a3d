//! The files of an image as a tar file, in an order and with times that depend on nothing but the
//! files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use tar::{Builder, EntryType, Header};

#[derive(Debug)]
enum Entry {
    Folder { owner: u64 },
    File { content: Vec<u8>, mode: u32 },
    Link { target: PathBuf },
}

/// Entries by their paths, without a leading `/`. A directory sorts before what lies in it.
#[derive(Debug, Default)]
pub(crate) struct Layer(BTreeMap<PathBuf, Entry>);

impl Layer {
    pub(crate) fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) -> io::Result<()> {
        let path = inside(Path::new(path))?;
        self.add(path, Entry::File { content, mode });
        Ok(())
    }

    pub(crate) fn folder(&mut self, path: &str, owner: u64) -> io::Result<()> {
        let path = inside(Path::new(path))?;
        self.add(path, Entry::Folder { owner });
        Ok(())
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let (path, target) = (inside(Path::new(path))?, target.into());
        self.add(path, Entry::Link { target });
        Ok(())
    }

    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> io::Result<()> {
        self.copy_beneath(from, &inside(Path::new(to))?)
    }

    fn copy_beneath(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
        for entry in fs::read_dir(from).map_err(named)? {
            let entry = entry.map_err(named)?;
            let (source, path) = (entry.path(), to.join(entry.file_name()));
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", source.display()))
            };
            let kind = entry.file_type().map_err(named)?;
            if kind.is_dir() {
                self.add(path.clone(), Entry::Folder { owner: 0 });
                self.copy_beneath(&source, &path)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&source).map_err(named)?;
                self.add(path, Entry::Link { target });
            } else if kind.is_file() {
                // Of the mode only whether it is executable: the rest is the umask of whoever
                // checked it out.
                let executable = entry.metadata().map_err(named)?.permissions().mode() & 0o111;
                let mode = if executable == 0 { 0o644 } else { 0o755 };
                let content = fs::read(&source).map_err(named)?;
                self.add(path, Entry::File { content, mode });
            } else {
                let message = format!("{}: no file, folder or link", source.display());
                return Err(io::Error::new(ErrorKind::InvalidInput, message));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, entry: Entry) {
        let folders = path.ancestors().skip(1);
        for folder in folders.filter(|folder| !folder.as_os_str().is_empty()) {
            let entry = self.0.entry(folder.to_owned());
            entry.or_insert(Entry::Folder { owner: 0 });
        }
        if !path.as_os_str().is_empty() {
            self.0.insert(path, entry);
        }
    }

    pub(crate) fn into_tar(self) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            match entry {
                Entry::Folder { owner } => {
                    let temporary = path.as_os_str() == "tmp";
                    let mut header = header(if temporary { 0o1777 } else { 0o755 }, 0);
                    header.set_uid(*owner);
                    header.set_gid(*owner);
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, path.join(""), io::empty())?;
                }
                Entry::File { content, mode } => append(&mut tar, path, content, *mode)?,
                Entry::Link { target } => {
                    let mut header = header(0o777, 0);
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.into_inner()
    }
}

/// A path as it stands in an archive. None leaves it.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                let message = format!("{}: `..` is no place in an image", path.display());
                return Err(io::Error::new(ErrorKind::InvalidInput, message));
            }
        }
    }
    Ok(clean)
}

fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Appends a file.
pub(crate) fn append(
    tar: &mut Builder<impl Write>,
    path: impl AsRef<Path>,
    content: &[u8],
    mode: u32,
) -> io::Result<()> {
    tar.append_data(&mut header(mode, content.len() as u64), path, content)
}
