//! What a worker runs as.

use crate::runtime::Runtime;

/// What the loader of a project needs to know of a language: the registry of languages provides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanguageSpec {
    /// Its name, which is also the `kit` of its runtimes in `.wws.toml`.
    pub name: &'static str,
    /// Where its interpreter comes from.
    pub interpreter: InterpreterOrigin,
    /// Extensions of its sources, without the dot. If the interpreter comes from a runtime, the
    /// runtime lists the extensions of workers.
    pub extensions: &'static [&'static str],
    /// Extensions of sources that cannot be workers as they are, and how they become workers.
    pub convertible: &'static [(&'static str, &'static str)],
}

/// Where the interpreter of a language comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterpreterOrigin {
    /// The server has it.
    BuiltIn,
    /// The project installs it: `wws runtimes install`.
    Runtime,
}

/// What a worker runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// A WASI preview 1 command: each request has a new instance.
    Module,
    /// A source: each request starts from a snapshot of the interpreter that has loaded it.
    Snapshot {
        /// The name of the language.
        language: &'static str,
        /// The runtime with the interpreter, as an index into [`crate::Project::runtimes`]; `None`
        /// if the interpreter is built in.
        runtime: Option<usize>,
    },
    /// A source for an interpreter that is a WASI command: each request has an instance of the
    /// interpreter that was started before the request came.
    Prestarted {
        /// The runtime with the interpreter, as an index into [`crate::Project::runtimes`].
        runtime: usize,
    },
}

impl Execution {
    /// What a file with this extension runs as. `None` if it is not a worker.
    pub(crate) fn of_extension(
        extension: &str,
        languages: &[LanguageSpec],
        runtimes: &[Runtime],
    ) -> Option<Self> {
        if extension == "wasm" {
            return Some(Self::Module);
        }
        let mut built_in = languages
            .iter()
            .filter(|language| language.interpreter == InterpreterOrigin::BuiltIn);
        if let Some(language) = built_in.find(|language| language.extensions.contains(&extension)) {
            return Some(Self::Snapshot {
                language: language.name,
                runtime: None,
            });
        }
        // An installed runtime is preferred.
        let find = |installed: bool| {
            runtimes.iter().position(|runtime| {
                runtime.extensions.iter().any(|known| known == extension)
                    && (!installed || runtime.unusable.is_none())
            })
        };
        let index = find(true).or_else(|| find(false))?;
        let kit = runtimes.get(index)?.kit.as_deref();
        let language = kit.and_then(|kit| languages.iter().find(|language| language.name == kit));
        Some(match language {
            Some(language) => Self::Snapshot {
                language: language.name,
                runtime: Some(index),
            },
            None => Self::Prestarted { runtime: index },
        })
    }

    /// The runtime that a worker needs, as an index into [`crate::Project::runtimes`].
    #[must_use]
    pub fn runtime(self) -> Option<usize> {
        match self {
            Self::Module => None,
            Self::Snapshot { runtime, .. } => runtime,
            Self::Prestarted { runtime } => Some(runtime),
        }
    }
}

/// How sources with this extension become workers, if they can.
pub(crate) fn conversion(extension: &str, languages: &[LanguageSpec]) -> Option<String> {
    languages.iter().find_map(|language| {
        let how = language
            .convertible
            .iter()
            .find(|(known, _)| *known == extension);
        if let Some((_, how)) = how {
            return Some((*how).to_owned());
        }
        let needs_runtime = language.interpreter == InterpreterOrigin::Runtime
            && language.extensions.contains(&extension);
        needs_runtime.then(|| {
            format!(
                "`wws runtimes install {} latest` makes it one",
                language.name
            )
        })
    })
}
