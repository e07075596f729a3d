//! The address of the listener for operators: metrics, health, panel.

use std::{fmt, net::SocketAddr, path::PathBuf};

use crate::setting::{TomlType, Value};

/// Where a server listens for its operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminAddress {
    /// Nowhere.
    #[default]
    Off,
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket at a path.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Value for AdminAddress {
    const TYPE: &'static str =
        "an address and a port such as \"127.0.0.1:9090\", \"unix:/PATH\" or \"off\"";
    const TOML: &'static [TomlType] = &[TomlType::Text];
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "off" {
            return Some(Self::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return path.is_absolute().then_some(Self::Unix(path));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Some(Self::Tcp(([127, 0, 0, 1], port.parse().ok()?).into()));
        }
        text.parse().ok().map(Self::Tcp)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl AdminAddress {
    /// The address that a text names.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    /// The texts that [`Self::new`] accepts, in words.
    #[must_use]
    pub fn expected() -> &'static str {
        Self::TYPE
    }
}

/// Whether the panel is served on the port of the workers, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanelAccess {
    /// To no client.
    #[default]
    Off,
    /// To clients on the same machine.
    Loopback,
    /// To every client.
    Any,
}

impl Value for PanelAccess {
    const TYPE: &'static str = "\"off\", \"loopback\" or \"any\"";
    const VALUES: &'static [&'static str] = &["off", "loopback", "any"];
    const TOML: &'static [TomlType] = &[TomlType::Text];
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "off" => Some(Self::Off),
            "loopback" => Some(Self::Loopback),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Off => "off".into(),
            Self::Loopback => "loopback".into(),
            Self::Any => "any".into(),
        }
    }
}

impl PanelAccess {
    /// The access that a text names.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_paths() {
        let tcp = |text: &str| text.parse().ok().map(AdminAddress::Tcp);
        for (text, expected) in [
            ("127.0.0.1:9090", tcp("127.0.0.1:9090")),
            ("localhost:9090", tcp("127.0.0.1:9090")),
            ("[::]:0", tcp("[::]:0")),
            (
                "unix:/run/wws.sock",
                Some(AdminAddress::Unix("/run/wws.sock".into())),
            ),
            ("off", Some(AdminAddress::Off)),
            ("unix:wws.sock", None),
            ("9090", None),
            ("127.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(AdminAddress::new(text), expected, "{text}");
            if let Some(address) = expected {
                assert_eq!(AdminAddress::new(&address.to_string()), Some(address));
            }
        }
    }
}
