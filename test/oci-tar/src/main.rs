//! Packs a directory as an image, for tests and examples: `wws build` packs projects.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use wws_image::Image;

/// Pack DIRECTORY as an image: an OCI archive for `ctr image import` or `docker load`.
#[derive(Parser)]
struct Arguments {
    /// The archive to write.
    output: PathBuf,
    /// The image's name with its tag, as `localhost/hello:latest`.
    name: String,
    /// What becomes the image's root.
    directory: PathBuf,
    /// OS/ARCHITECTURE; without it wasi/wasm, linux/amd64 and linux/arm64 have the same layer.
    #[arg(long)]
    platform: Option<String>,
    /// A word of the entry point; may be repeated.
    #[arg(long, default_value = "/")]
    entrypoint: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let image = Image::new(&arguments.name);
    let image = match &arguments.platform {
        None => image.everywhere(),
        Some(platform) => {
            let platform = platform.split_once('/');
            let (os, architecture) = platform.context("--platform is OS/ARCHITECTURE")?;
            image.platform(os, architecture)
        }
    };
    let image = image
        .entrypoint(&arguments.entrypoint)
        .copy(&arguments.directory, "/")?;
    // Whole or not at all: what is there is used, even if this is interrupted.
    let part = arguments.output.with_extension("part");
    let file = File::create(&part).with_context(|| format!("write {}", part.display()))?;
    image.write(BufWriter::new(file))?;
    fs::rename(&part, &arguments.output)?;
    Ok(())
}
