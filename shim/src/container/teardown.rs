//! Removing what is left of a container.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::oci::mount;
use crate::runc::Runc;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::sys::thread::beside;

/// How often, and how long after one another, it is tried to undo a creation that failed.
const UNDO_ATTEMPTS: u32 = 10;
const UNDO_PAUSE: Duration = Duration::from_millis(200);

/// Removes what the OCI runtime made of a container whose creation failed. The first error is the one to tell.
pub(super) async fn undo(reaper: &Arc<Reaper>, runc: &Runc, id: &str) {
    for attempt in 1.. {
        let Err(error) = runc.delete(reaper, id).await else {
            break;
        };
        if attempt == UNDO_ATTEMPTS || matches!(error, Error::NoRuntime(_)) {
            log::warning!("clear up after {id}: {error}");
            break;
        }
        // Where the host has no process left, there may be one soon: the failed runtime's own are ending.
        tokio::time::sleep(UNDO_PAUSE).await;
    }
    runc.remove_empty_groups();
}

pub(super) async fn unmount(root: PathBuf) -> Result<()> {
    let path = root.clone();
    match beside(move || mount::unmount_all(&path)).await {
        Ok(()) => Ok(()),
        // Without a thread to be had, right here: a mount that stays would be worse than the others' wait.
        Err(_) => mount::unmount_all(&root),
    }
}
