//! Colours of a terminal.

use std::ffi::OsString;
use std::io::IsTerminal;

/// A colour of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Painter {
    enabled: bool,
}

impl Painter {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled }
    }

    /// Paints where `stream` is a terminal with colours, unless the user wants none (`NO_COLOR`,
    /// see no-color.org).
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let wanted = is_wanted(|name| std::env::var_os(name));
        Self::new(wanted && stream.is_terminal())
    }

    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            _ if !self.enabled || text.is_empty() => return text.to_owned(),
            Colour::Plain => return text.to_owned(),
            Colour::Dim => 2,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

fn is_wanted(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_refused && variable("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paints_only_where_colours_are_wanted() {
        let with = |name: &'static str, value: &'static str| {
            is_wanted(move |asked| (asked == name).then(|| value.into()))
        };
        assert!(with("NO_COLOR", "") && with("TERM", "xterm") && with("OTHER", "1"));
        assert!(!with("NO_COLOR", "1") && !with("TERM", "dumb"));
        assert_eq!(Painter::new(false).paint(Colour::Red, "a"), "a");
        assert_eq!(
            Painter::new(true).paint(Colour::Red, "a"),
            "\u{1b}[31ma\u{1b}[0m"
        );
        assert_eq!(Painter::new(true).paint(Colour::Dim, ""), "");
    }
}
