//! The languages of a server.

use std::sync::Arc;

use wws_project::LanguageSpec;

use crate::javascript::JavaScript;
use crate::language::Language;
use crate::python::Python;
use crate::ruby::Ruby;

/// The languages of a server. Cheap to clone.
#[derive(Clone)]
pub struct Languages(Arc<Vec<Arc<dyn Language>>>);

impl Languages {
    /// All languages of this program.
    #[must_use]
    pub fn standard() -> Self {
        Self::new(vec![Arc::new(JavaScript), Arc::new(Python), Arc::new(Ruby)])
    }

    /// These languages.
    #[must_use]
    pub fn new(languages: Vec<Arc<dyn Language>>) -> Self {
        Self(Arc::new(languages))
    }

    /// These languages and one more.
    #[must_use]
    pub fn with(&self, language: Arc<dyn Language>) -> Self {
        let more = self.0.iter().cloned().chain([language]);
        Self::new(more.collect())
    }

    /// The language with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Language>> {
        self.0.iter().find(|language| language.spec().name == name)
    }

    /// What a project's loader needs to know.
    #[must_use]
    pub fn specs(&self) -> Vec<LanguageSpec> {
        self.0.iter().map(|language| language.spec()).collect()
    }
}

impl Default for Languages {
    fn default() -> Self {
        Self::standard()
    }
}

impl std::fmt::Debug for Languages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.0.iter().map(|language| language.spec().name);
        f.debug_list().entries(names).finish()
    }
}
