//! Restricts the process that reads an image: it may write only to the code cache and to the links.
//!
//! The process has to be root to read all files of an image, and root owns all system files: an
//! attacker in it could write them. Older kernels cannot restrict it.

use std::{io, path::Path};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// The requested Landlock version; an older kernel does what it can.
const VERSION: ABI = ABI::V5;

/// Restricts this thread and everything that it starts. Returns whether the kernel can do it.
///
/// # Errors
/// A directory does not exist, or the kernel refuses.
pub(super) fn write_only_to(directories: &[&Path]) -> io::Result<bool> {
    let allowed: BitFlags<AccessFs> = AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveFile
        | AccessFs::MakeReg
        | AccessFs::Refer;
    let mut rules = Ruleset::default()
        // Without this right, no link can be created from the cache to a container's directory:
        // then nothing is restricted.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)
        .map_err(io::Error::other)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(VERSION))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(VERSION)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    for directory in directories {
        let handle = PathFd::new(directory).map_err(io::Error::other)?;
        rules = rules
            .add_rule(PathBeneath::new(handle, allowed))
            .map_err(io::Error::other)?;
    }
    let status = rules.restrict_self().map_err(io::Error::other)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn landlock_allows_writes_to_given_directories_only() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["store", "links", "else"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("old"), "old").unwrap();
        }
        // In a separate thread: the restriction ends with it.
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                let enforced = write_only_to(&[&at("store"), &at("links")]).unwrap();
                fs::write(at("store/new.part"), "new").unwrap();
                fs::rename(at("store/new.part"), at("store/new")).unwrap();
                fs::hard_link(at("store/new"), at("links/new")).unwrap();
                fs::copy(at("store/new"), at("links/copy")).unwrap();
                fs::remove_file(at("store/old")).unwrap();
                assert_eq!(fs::read(at("else/old")).unwrap(), b"old");
                if enforced {
                    assert!(fs::write(at("else/new"), "new").is_err());
                    assert!(fs::write(at("else/old"), "new").is_err());
                    assert!(fs::remove_file(at("else/old")).is_err());
                    assert!(fs::hard_link(at("store/new"), at("else/new")).is_err());
                }
            });
            confined.join().unwrap();
        });
    }
}
