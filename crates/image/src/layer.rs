//! The files of an image as a tar file, in an order and with times that depend on nothing but the
//! files.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use crate::error::ImageError;
use crate::walk::{Directory, FoundFile, FoundFileKind};

#[derive(Debug)]
enum LayerEntry {
    Directory { owner: u64 },
    File { content: FileContent, mode: u32 },
    Link { target: PathBuf },
}

/// The content of a file: given, or read when the layer is written.
#[derive(Debug)]
enum FileContent {
    Bytes(Vec<u8>),
    OnDisk {
        directory: Arc<Directory>,
        path: PathBuf,
        size: u64,
    },
}

/// Entries by their paths, without a leading `/`. A directory sorts before what lies in it.
#[derive(Debug, Default)]
pub(crate) struct Layer(BTreeMap<PathBuf, LayerEntry>);

impl Layer {
    pub(crate) fn file(
        &mut self,
        path: &str,
        content: Vec<u8>,
        mode: u32,
    ) -> Result<(), ImageError> {
        let path = inside(Path::new(path))?;
        let content = FileContent::Bytes(content);
        self.add(path, LayerEntry::File { content, mode });
        Ok(())
    }

    pub(crate) fn directory(&mut self, path: &str, owner: u64) -> Result<(), ImageError> {
        let path = inside(Path::new(path))?;
        self.add(path, LayerEntry::Directory { owner });
        Ok(())
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), ImageError> {
        let (path, target) = (inside(Path::new(path))?, target.into());
        self.add(path, LayerEntry::Link { target });
        Ok(())
    }

    /// Adds everything in `from`, below `to`.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> Result<(), ImageError> {
        let to = inside(Path::new(to))?;
        let directory = Arc::new(Directory::open(from)?);
        directory.walk(&mut |found| {
            let special = || ImageError::Special(from.join(&found.path));
            self.found(&directory, found, &to).map_err(|_| special())?;
            Ok(true)
        })
    }

    /// Adds what a walk found, below `to`.
    ///
    /// # Errors
    /// It is neither a file, a directory nor a symbolic link.
    pub(crate) fn found(
        &mut self,
        directory: &Arc<Directory>,
        found: &FoundFile,
        to: &Path,
    ) -> Result<(), ImageError> {
        let path = to.join(&found.path);
        let entry = match &found.kind {
            FoundFileKind::Directory => LayerEntry::Directory { owner: 0 },
            FoundFileKind::Link { target } => LayerEntry::Link {
                target: target.clone(),
            },
            FoundFileKind::File { size, executable } => LayerEntry::File {
                content: FileContent::OnDisk {
                    directory: Arc::clone(directory),
                    path: found.path.clone(),
                    size: *size,
                },
                // The rest of the mode depends on the umask of the checkout.
                mode: if *executable { 0o755 } else { 0o644 },
            },
            FoundFileKind::Special => return Err(ImageError::Special(found.path.clone())),
        };
        self.add(path, entry);
        Ok(())
    }

    fn add(&mut self, path: PathBuf, entry: LayerEntry) {
        let directories = path.ancestors().skip(1);
        for directory in directories.filter(|directory| !directory.as_os_str().is_empty()) {
            if !self.0.contains_key(directory) {
                let entry = LayerEntry::Directory { owner: 0 };
                self.0.insert(directory.to_owned(), entry);
            }
        }
        if !path.as_os_str().is_empty() {
            self.0.insert(path, entry);
        }
    }

    /// Writes the layer; `time` is the time of its files.
    pub(crate) fn write_tar(&self, time: u64, to: impl Write) -> Result<(), ImageError> {
        let mut tar = Builder::new(to);
        for (path, entry) in &self.0 {
            match entry {
                LayerEntry::Directory { owner } => {
                    let temporary = path.as_os_str() == "tmp";
                    let mut header = header(if temporary { 0o1777 } else { 0o755 }, 0, time);
                    header.set_uid(*owner);
                    header.set_gid(*owner);
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, path.join(""), io::empty())
                        .map_err(ImageError::Write)?;
                }
                LayerEntry::Link { target } => {
                    let mut header = header(0o777, 0, time);
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)
                        .map_err(ImageError::Write)?;
                }
                LayerEntry::File {
                    content: FileContent::Bytes(bytes),
                    mode,
                } => {
                    let mut header = header(*mode, bytes.len() as u64, time);
                    tar.append_data(&mut header, path, bytes.as_slice())
                        .map_err(ImageError::Write)?;
                }
                LayerEntry::File {
                    content:
                        FileContent::OnDisk {
                            directory,
                            path: source,
                            size,
                        },
                    mode,
                } => {
                    let mut reader = ExactReader {
                        file: directory.file(source)?,
                        left: *size,
                        failed: None,
                    };
                    let mut header = header(*mode, *size, time);
                    let appended = tar.append_data(&mut header, path, &mut reader);
                    match (appended, reader.failed) {
                        (Err(_), Some(ReadFailure::Short)) => return Err(ImageError::Changed),
                        (Err(_), Some(ReadFailure::Io(error))) => {
                            return Err(ImageError::file(&directory.path().join(source), error));
                        }
                        (Err(error), None) => return Err(ImageError::Write(error)),
                        (Ok(()), _) => {}
                    }
                }
            }
        }
        tar.into_inner()
            .and_then(|mut to| to.flush())
            .map_err(ImageError::Write)
    }
}

/// Why a file could not be read to its size: `tar` mixes errors of reading and of writing.
enum ReadFailure {
    Short,
    Io(io::Error),
}

/// Reads a file of a known size; it fails where the file is shorter, and ignores what was appended.
struct ExactReader {
    file: std::fs::File,
    left: u64,
    failed: Option<ReadFailure>,
}

impl Read for ExactReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..wanted]) {
            Ok(0) => {
                self.failed = Some(ReadFailure::Short);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(ReadFailure::Io(error));
                Err(kind.into())
            }
        }
    }
}

/// A path as it stands in an archive. None leaves it.
pub(crate) fn inside(path: &Path) -> Result<PathBuf, ImageError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ImageError::OutsideImage(path.to_owned()));
            }
        }
    }
    Ok(clean)
}

pub(crate) fn header(mode: u32, size: u64, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header
}
