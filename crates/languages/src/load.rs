//! What languages have in common when they load a source.

/// Why a Python or Ruby source that could not be loaded is not a worker.
pub(crate) fn defines_no_worker(source: &str) -> Option<String> {
    (!source.contains("worker")).then(|| "it defines no `worker`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_sources_without_worker() {
        assert!(defines_no_worker("import os\nprint(os)").is_some());
        assert_eq!(defines_no_worker("def worker(request): retrun"), None);
    }
}
