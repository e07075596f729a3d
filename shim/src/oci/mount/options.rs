//! Mount options: flags and data, as mount(8) divides them.

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::idmap::IdMaps;
use crate::error::{Error, Result};

/// The options of a mount, divided into flags and data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Flags of mount(2).
    pub(super) flags: MountFlags,
    /// How mounts below propagate.
    pub(super) propagation: MountPropagationFlags,
    /// Whether it is a bind mount.
    pub(super) bind: BindMode,
    /// What the file system itself understands.
    pub(super) data: Vec<String>,
    /// ID maps.
    pub(super) maps: IdMaps,
}

/// Whether a mount is a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindMode {
    /// It is not.
    No,
    /// Without the mounts below.
    One,
    /// With the mounts below.
    Recursive,
}

impl MountOptions {
    /// Divides the options of a mount of type `kind` as mount(8) does.
    ///
    /// # Errors
    /// An option that is not supported, or a broken ID map.
    pub(super) fn parse(kind: &str, options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            bind: if kind == "bind" {
                BindMode::One
            } else {
                BindMode::No
            },
            data: Vec::new(),
            maps: IdMaps::default(),
        };
        for option in options.iter().flat_map(|one| split(one)) {
            if parsed.maps.parse_option(option)? {
                continue;
            }
            if let Some((flag, on)) = flag(option) {
                parsed.flags.set(flag, on);
                continue;
            }
            if let Some(kind) = propagation(option) {
                parsed.propagation |= kind;
                continue;
            }
            match option {
                "" | "defaults" | "rw" | "auto" | "noauto" | "user" | "nouser" | "_netdev" => {}
                "bind" => parsed.bind = BindMode::One,
                "rbind" => parsed.bind = BindMode::Recursive,
                "loop" => return Err(unsupported(option)),
                // For programs, not for the kernel.
                _ if option.starts_with("x-") || option.starts_with("X-") => {}
                _ => parsed.data.push(option.to_owned()),
            }
        }
        Ok(parsed)
    }
}

/// Splits several options in one text. An ID map contains commas itself.
fn split(options: &str) -> Box<dyn Iterator<Item = &str> + '_> {
    if options.starts_with("uidmap=") || options.starts_with("gidmap=") {
        Box::new(std::iter::once(options))
    } else {
        Box::new(options.split(','))
    }
}

fn unsupported(option: &str) -> Error {
    Error::unimplemented(format!(
        "the mount option {option} is not supported: use another snapshotter, such as overlayfs"
    ))
}

/// Returns the flag of mount(2) that an option stands for, and whether the option sets the flag.
fn flag(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        _ => return None,
    })
}

/// Returns the propagation that an option stands for.
fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let all = MountPropagationFlags::REC;
    Some(match option {
        "private" => MountPropagationFlags::PRIVATE,
        "rprivate" => MountPropagationFlags::PRIVATE | all,
        "shared" => MountPropagationFlags::SHARED,
        "rshared" => MountPropagationFlags::SHARED | all,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "rslave" => MountPropagationFlags::DOWNSTREAM | all,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        "runbindable" => MountPropagationFlags::UNBINDABLE | all,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    fn options(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn passes_the_options_of_an_overlay_as_data() {
        let parsed = MountOptions::parse(
            "overlay",
            &options("index=off workdir=/w upperdir=/u lowerdir=/a:/b ro"),
        )
        .unwrap();
        assert_eq!(parsed.flags, MountFlags::RDONLY);
        assert_eq!(parsed.bind, BindMode::No);
        assert_eq!(
            parsed.data,
            ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]
        );
    }

    #[test]
    fn turns_the_options_of_a_bind_mount_into_flags() {
        let parsed =
            MountOptions::parse("bind", &options("rbind,ro nosuid rslave rw x-hint")).unwrap();
        assert_eq!(parsed.bind, BindMode::Recursive);
        assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(
            parsed.propagation,
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC
        );
        assert!(parsed.data.is_empty());
    }

    #[test]
    fn lets_a_later_option_undo_an_earlier_one() {
        let parsed = MountOptions::parse("ext4", &options("noexec nosuid exec")).unwrap();
        assert_eq!(parsed.flags, MountFlags::NOSUID);
    }

    #[test]
    fn names_an_option_that_is_not_supported() {
        let error = MountOptions::parse("erofs", &options("loop")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unimplemented);
        assert!(error.to_string().contains("loop"));
    }

    proptest! {
        #[test]
        fn parses_any_options(
            kind in "bind|overlay|[a-z]{0,5}",
            any_text in prop::collection::vec(any::<String>(), 0..4),
            likely in prop::collection::vec(
                "(ro|rw|rbind|private|loop|x-a|lowerdir=/a:/b|uidmap=[0-9:,-]{0,20}|,){0,4}",
                0..4,
            ),
        ) {
            let _ = MountOptions::parse(&kind, &any_text);
            let _ = MountOptions::parse(&kind, &likely);
        }

        #[test]
        fn passes_unknown_options_unchanged(
            data in prop::collection::vec("[a-z]{3,6}=[a-zA-Z0-9/:_.]{1,12}", 0..6),
        ) {
            let data: Vec<_> = data.into_iter().filter(|one| !one.contains("idmap")).collect();
            let parsed = MountOptions::parse("overlay", &data).unwrap();
            prop_assert_eq!(&parsed.data, &data);
            prop_assert!(parsed.flags.is_empty());
            let joined = MountOptions::parse("overlay", &[data.join(",")]).unwrap();
            prop_assert_eq!(joined, parsed);
        }
    }
}
