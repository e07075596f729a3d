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

    /// The namespace of a set of keys; `None` if the name is that of something else.
    pub(super) fn namespace_of(index: &str) -> Option<String> {
        let name = index.strip_prefix("wws:{")?.strip_suffix("}:i")?;
        if name.contains(['{', '}']) {
            return None;
        }
        let mut namespace = String::with_capacity(name.len());
        let mut parts = name.split('%');
        namespace.push_str(parts.next()?);
        for part in parts {
            let (code, rest) = part.split_at_checked(2)?;
            namespace.push(match code {
                "25" => '%',
                "7B" => '{',
                "7D" => '}',
                _ => return None,
            });
            namespace.push_str(rest);
        }
        Some(namespace)
    }

    /// What the names of all sets of keys match.
    pub(super) const INDEXES: &str = "wws:{*}:i";

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
        for name in ["a", "}%{", "%7D", "é:i"] {
            let index = Names::new(name).index();
            assert_eq!(Names::namespace_of(&index).as_deref(), Some(name));
        }
        let entry = Names::new("a").entry("x}:i");
        assert_eq!(Names::namespace_of(&entry), None);
        assert_eq!(Names::namespace_of("wws:{%zz}:i"), None);
    }
}
