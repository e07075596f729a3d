//! OCI images of workers, without Docker and containerd.
//!
//! [`Image`] packs files as an OCI image and writes it as an archive or a layout: the same files
//! give the same bytes, on any machine. [`project`] collects the files of a project, and
//! [`StoredImage`] reads an image and unpacks it. For the formats see the OCI image specification
//! (image-layout, config, manifest, layer).

#![forbid(unsafe_code)]

mod blob;
mod cache;
mod error;
mod ignore;
mod image;
mod layer;
mod project;
mod reference;
mod registry;
mod store;
mod stored;
mod time;
mod unpack;
mod walk;

pub use blob::Blob;
pub use cache::ImageCache;
pub use error::{ContextProblem, ImageError};
pub use image::Image;
pub use project::{Packed, Packing, project};
pub use reference::{InvalidReference, Reference};
pub use registry::{Credentials, PullProgress, Registry, RegistryAccess};
pub use stored::{Defaults, StoredImage};
pub use time::rfc3339;
pub use unpack::UnpackLimits;
