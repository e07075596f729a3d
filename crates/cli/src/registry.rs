//! Registries of images, as the user of `docker login` reaches them.

use wws_image::{Reference, Registry, RegistryAccess};
use wws_runtimes::FetchOptions;

use crate::{credentials, environment};

/// The registry of an image, with the user's credentials.
///
/// # Errors
/// The credentials cannot be read, or the settings of the connection are invalid.
pub(crate) fn open(name: &Reference, access: RegistryAccess) -> Result<Registry, String> {
    let credentials = credentials::of(name.registry())?;
    let options = FetchOptions {
        env: environment::own_variables(),
        ..FetchOptions::default()
    };
    let agent = wws_runtimes::agent(&options).map_err(|error| error.to_string())?;
    Registry::new(agent, name.clone(), credentials, access).map_err(|error| error.to_string())
}
