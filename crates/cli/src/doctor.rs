//! `wws doctor`: checks whether this machine can run containers of workers, and says what to do.

mod clients;
mod containerd;
mod host;
mod machine;

use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::json;

use crate::args::Doctor;
use crate::table;
use host::Host;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// As it must be.
    Fine,
    /// An optional part is missing.
    Note,
    /// Containers of workers do not run, or not as they should.
    Problem,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }

    /// The escape sequence of its colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Fine => "\x1b[32m",
            Self::Note => "\x1b[33m",
            Self::Problem => "\x1b[31m",
        }
    }
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    health: Health,
    /// What is there.
    found: String,
    /// What to do.
    remedy: Option<String>,
}

impl Finding {
    fn fine(found: impl Into<String>) -> Self {
        Self {
            health: Health::Fine,
            found: found.into(),
            remedy: None,
        }
    }

    fn note(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            health: Health::Note,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn problem(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            health: Health::Problem,
            ..Self::note(found, remedy)
        }
    }
}

/// A check of the host.
struct Check {
    name: &'static str,
    look: fn(&Host) -> Finding,
}

/// All checks, in the order in which a container meets them.
const CHECKS: [Check; 11] = [
    Check {
        name: "kernel",
        look: machine::kernel,
    },
    Check {
        name: "sandbox",
        look: machine::sandbox,
    },
    Check {
        name: "cgroups",
        look: machine::cgroups,
    },
    Check {
        name: "containerd",
        look: containerd::version,
    },
    Check {
        name: "containerd socket",
        look: containerd::socket,
    },
    Check {
        name: "shim",
        look: containerd::shim,
    },
    Check {
        name: "server",
        look: containerd::server,
    },
    Check {
        name: "runc",
        look: containerd::runc,
    },
    Check {
        name: "docker",
        look: clients::docker,
    },
    Check {
        name: "kubernetes",
        look: clients::kubernetes,
    },
    Check {
        name: "code cache",
        look: machine::code_cache,
    },
];

/// Checks the host and prints what was found; fails if there is a problem.
pub(crate) fn doctor(args: &Doctor) -> ExitCode {
    let host = Host::this();
    let findings: Vec<_> = CHECKS
        .iter()
        .map(|check| (check.name, (check.look)(&host)))
        .collect();
    if args.json {
        println!("{}", as_json(&findings));
    } else {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print!("{}", as_text(&findings, colours));
    }
    let is_problem = |(_, finding): &(_, Finding)| finding.health == Health::Problem;
    if findings.iter().any(is_problem) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn as_json(findings: &[(&str, Finding)]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|(name, finding)| {
            json!({
                "check": name,
                "result": finding.health.word(),
                "found": finding.found,
                "remedy": finding.remedy,
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "checks": findings }));
    text.unwrap_or_default()
}

fn as_text(findings: &[(&str, Finding)], colours: bool) -> String {
    let rows: Vec<[String; 3]> = findings
        .iter()
        .map(|(name, finding)| {
            let (word, found) = (finding.health.word(), &finding.found);
            [(*name).into(), word.into(), found.clone()]
        })
        .collect();
    let mut text = String::new();
    for (line, (_, finding)) in table::aligned(&rows).lines().zip(findings) {
        if colours {
            // The row as a whole, so that columns stay aligned.
            text += &format!("{}{line}\x1b[0m\n", finding.health.colour());
        } else {
            text += &format!("{line}\n");
        }
    }
    let remedies = findings
        .iter()
        .filter_map(|(name, finding)| Some((name, finding.remedy.as_ref()?)));
    for (name, remedy) in remedies {
        text += &format!("\n{name}: {remedy}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn findings() -> Vec<(&'static str, Finding)> {
        vec![
            ("kernel", Finding::fine("6.1")),
            ("shim", Finding::problem("missing", "install it")),
        ]
    }

    #[test]
    fn shows_remedies_after_the_table() {
        let text = as_text(&findings(), false);
        assert_eq!(
            text,
            "kernel  ok       6.1\nshim    problem  missing\n\nshim: install it\n"
        );
        let text = as_text(&findings(), true);
        assert!(
            text.starts_with("\x1b[32mkernel  ok       6.1\x1b[0m\n"),
            "{text}"
        );
    }

    #[test]
    fn json_has_a_value_for_each_check() {
        let value: serde_json::Value = serde_json::from_str(&as_json(&findings())).unwrap();
        let expected = json!({ "checks": [
            { "check": "kernel", "result": "ok", "found": "6.1", "remedy": null },
            { "check": "shim", "result": "problem", "found": "missing", "remedy": "install it" },
        ]});
        assert_eq!(value, expected);
    }

    #[test]
    fn reports_problems_of_an_empty_machine() {
        let host = host::tests::FakeHost::new();
        for check in CHECKS {
            let finding = (check.look)(&host.host());
            assert!(!finding.found.is_empty(), "{}", check.name);
            let has_remedy = finding.remedy.is_some();
            assert_eq!(has_remedy, finding.health != Health::Fine, "{}", check.name);
        }
    }
}
