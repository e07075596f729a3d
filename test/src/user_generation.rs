//! The example of the article: the workers of `images/user-generation`, with all that they need
//! around them.
//!
//! A container of that image gets a directory with the file that the workers read, mounted where
//! they look for it, and an outside service: the [`StandIn`] with its authority among the trusted
//! certificates, and the resolver override that leads to it.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::container::Run;
use crate::containerd::Containerd;
use crate::stand_in::StandIn;
use crate::workspace;

/// The image's name.
pub const IMAGE: &str = "localhost/user-generation:latest";

/// What its workers are written in.
pub const LANGUAGES: [&str; 5] = ["rust", "go", "js", "python", "ruby"];

/// Where programs look for trusted certificates.
pub const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the workers read from `/tmp/file.txt`.
pub const CONTENT: &str = "Some content\n";

/// The surroundings of the example's containers.
#[derive(Debug)]
pub struct UserGeneration<'c> {
    containerd: &'c Containerd,
    stand_in: StandIn,
}

impl<'c> UserGeneration<'c> {
    /// Imports the image, writes the file and starts the outside service.
    ///
    /// # Errors
    /// The image is not built, or something of that fails.
    pub fn new(containerd: &'c Containerd) -> Result<Self> {
        containerd.import(&workspace::image("user-generation")?)?;
        let example = Self {
            containerd,
            stand_in: StandIn::start()?,
        };
        fs::create_dir(example.directory())?;
        fs::write(example.directory().join("file.txt"), CONTENT)?;
        fs::write(example.authority(), example.stand_in.authority())?;
        Ok(example)
    }

    /// The directory of the host that containers see as `/tmp`.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.containerd.directory().join("tmp")
    }

    fn authority(&self) -> PathBuf {
        self.containerd.directory().join("authority.pem")
    }

    /// The outside service.
    #[must_use]
    pub fn stand_in(&self) -> &StandIn {
        &self.stand_in
    }

    /// A container of the image, called `name`, to be started.
    ///
    /// # Errors
    /// There is no free port.
    pub fn run(&self, name: &str) -> Result<Run<'c>> {
        Ok(Run::workers(self.containerd, IMAGE, name)?
            .mount(&self.directory(), "/tmp")
            .mount_read_only(&self.authority(), CERTIFICATES)
            .env("WWS_RESOLVE", &self.stand_in.resolve()))
    }
}
