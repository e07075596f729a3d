//! The names of a namespace's keys in Redis.

/// The names of what a namespace has in Redis. They have a hash tag, so that a cluster keeps them
/// together.
pub(super) struct Names {
    base: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        let mut base = String::with_capacity(namespace.len() + 6);
        base.push_str("wws:{");
        // No two namespaces, and no key of another one, have the same name.
        for character in namespace.chars() {
            match character {
                '%' => base.push_str("%25"),
                '{' => base.push_str("%7B"),
                '}' => base.push_str("%7D"),
                other => base.push(other),
            }
        }
        base.push('}');
        Self { base }
    }

    /// What the names of entries begin with.
    pub(super) fn entries(&self) -> String {
        format!("{}:k:", self.base)
    }

    pub(super) fn entry(&self, key: &str) -> String {
        format!("{}:k:{key}", self.base)
    }

    /// The sorted set of keys.
    pub(super) fn index(&self) -> String {
        format!("{}:i", self.base)
    }

    /// Who has the turn.
    pub(super) fn turn(&self) -> String {
        format!("{}:t", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn namespaces_do_not_meet() {
        let a = Names::new("a").entry("}:k:b");
        let b = Names::new("a}:k:").entry("b");
        assert_ne!(a, b);
        assert_ne!(Names::new("%7D").index(), Names::new("}").index());
        assert_eq!(Names::new("a").entry("b"), "wws:{a}:k:b");
    }
}
