//! Registries of images, as the user of `docker login` reaches them.

use wws_image::{ImageError, Reference, Registry, RegistryAccess};
use wws_runtimes::FetchOptions;

use crate::credentials::CredentialsError;
use crate::{credentials, environment};

/// Why a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenRegistryError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Connection(#[from] wws_runtimes::Error),
    #[error(transparent)]
    Registry(#[from] ImageError),
}

/// The registry of an image, with the user's credentials.
///
/// # Errors
/// The credentials cannot be read, or the settings of the connection are invalid.
pub(crate) fn open(
    name: &Reference,
    access: RegistryAccess,
) -> Result<Registry, OpenRegistryError> {
    let credentials = credentials::of(name.registry())?;
    let options = FetchOptions {
        env: environment::own_variables(),
        ..FetchOptions::default()
    };
    let agent = wws_runtimes::agent(&options)?;
    Ok(Registry::new(agent, name.clone(), credentials, access)?)
}
