//! Arguments for projects of git repositories.

use std::path::PathBuf;

use super::image::{given_variables, variable};

/// What of a repository is served. The options are those of Wasm Workers Server 1.x.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Git repositories")]
pub(crate) struct Git {
    /// Directory of the repository that is the project
    #[arg(long = "git-folder", value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// Branch to serve [default: the repository's]
    #[arg(long = "git-branch", value_name = "NAME", conflicts_with_all = ["tag", "commit"])]
    branch: Option<String>,
    /// Tag to serve
    #[arg(long = "git-tag", value_name = "NAME", conflicts_with = "commit")]
    tag: Option<String>,
    /// Commit to serve
    #[arg(long = "git-commit", value_name = "HASH")]
    commit: Option<String>,
    /// A variable for the project of a repository, or the name of one of this process; may be given
    /// several times
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// Let the project of a repository reach hosts of this machine and of its networks, and a Redis
    /// that it names
    #[arg(long)]
    pub(crate) allow_private_hosts: bool,
}

/// Why an option names no revision.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RevisionError {
    #[error("`{0}` is no hash of a commit")]
    Commit(String),
    #[error("`{0}` is no name of a branch or tag")]
    Name(String),
}

/// A revision of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Revision {
    /// What the repository itself shows.
    Default,
    Branch(String),
    Tag(String),
    Commit(String),
}

impl Git {
    /// Whether an option is given, which only repositories have.
    pub(crate) fn is_given(&self) -> bool {
        let names = [&self.branch, &self.tag, &self.commit];
        names.iter().any(|name| name.is_some())
            || self.directory.is_some()
            || !self.env.is_empty()
            || self.allow_private_hosts
    }

    /// The revision to serve.
    ///
    /// # Errors
    /// It has a name that none can have.
    pub(crate) fn revision(&self) -> Result<Revision, RevisionError> {
        // `git check-ref-format`; what is left is the server's to know.
        let is_name = |name: &str| {
            let is_bad =
                |character: char| character.is_control() || " ~^:?*[\\".contains(character);
            !name.is_empty()
                && !name.starts_with('-')
                && !name.contains("..")
                && !name.contains(is_bad)
        };
        let is_hash = |hash: &str| {
            (4..=64).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        match (&self.branch, &self.tag, &self.commit) {
            (Some(name), _, _) if is_name(name) => Ok(Revision::Branch(name.clone())),
            (_, Some(name), _) if is_name(name) => Ok(Revision::Tag(name.clone())),
            (_, _, Some(hash)) if is_hash(hash) => Ok(Revision::Commit(hash.clone())),
            (None, None, None) => Ok(Revision::Default),
            (_, _, Some(hash)) => Err(RevisionError::Commit(hash.clone())),
            (Some(name), _, _) | (_, Some(name), _) => Err(RevisionError::Name(name.clone())),
        }
    }

    /// The variables that are given to the project. One that this process lacks is left out.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        given_variables(&self.env)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::super::Args;
    use super::*;

    fn git(args: &[&str]) -> Git {
        let args = ["wws"].iter().chain(args);
        Args::try_parse_from(args).unwrap().git
    }

    #[test]
    fn a_revision_is_a_branch_a_tag_or_a_commit() {
        for (args, expected) in [
            (vec![], Revision::Default),
            (vec!["--git-branch", "a/b"], Revision::Branch("a/b".into())),
            (vec!["--git-tag", "v1.2"], Revision::Tag("v1.2".into())),
            (
                vec!["--git-commit", "0a1B"],
                Revision::Commit("0a1B".into()),
            ),
        ] {
            assert_eq!(git(&args).revision(), Ok(expected));
        }
        for args in [
            ["--git-branch", "a:b"],
            ["--git-branch", "+a b"],
            ["--git-branch=--x", "."],
            ["--git-tag", "a..b"],
            ["--git-tag", ""],
            ["--git-commit", "HEAD"],
        ] {
            assert!(git(&args).revision().is_err(), "{args:?}");
        }
        let both = ["wws", "--git-branch", "a", "--git-tag", "b"];
        assert!(Args::try_parse_from(both).is_err());
    }

    #[test]
    fn options_may_precede_and_follow_the_url() {
        for args in [
            ["--git-folder", "a", "https://git.example/x"],
            ["https://git.example/x", "--git-folder", "a"],
        ] {
            let git = git(&args);
            assert_eq!(git.directory.as_deref(), Some(std::path::Path::new("a")));
            assert!(git.is_given());
        }
        assert!(!git(&["."]).is_given());
    }
}
