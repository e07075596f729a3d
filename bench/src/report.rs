//! The results: printed as a table, written as JSON.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// Which side of its target a figure must be on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(target) => value >= target,
            Self::AtMost(target) => value <= target,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(target) => format!(">= {target}"),
            Self::AtMost(target) => format!("<= {target}"),
        }
    }
}

/// One figure beside its peer's.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    peer: String,
    peer_value: f64,
    ratio: f64,
    target: String,
    met: bool,
    how: String,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Row>);

/// What was measured, of us and of the peer.
pub(crate) struct Measured<'m> {
    pub(crate) name: &'m str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) peer: &'m str,
    pub(crate) peer_value: f64,
    pub(crate) target: Target,
    pub(crate) how: &'m str,
}

/// A figure without a peer: a size, a count.
pub(crate) struct Alone<'m> {
    pub(crate) name: &'m str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
    pub(crate) how: &'m str,
}

impl Report {
    /// Adds a figure whose target is of its value.
    pub(crate) fn add_alone(&mut self, alone: &Alone<'_>) {
        let row = Row {
            name: alone.name.to_owned(),
            value: alone.value,
            unit: alone.unit,
            peer: String::new(),
            // `null` in JSON.
            peer_value: f64::NAN,
            ratio: f64::NAN,
            target: alone.target.shown(),
            met: alone.target.met(alone.value),
            how: alone.how.to_owned(),
        };
        eprintln!("{}", row.line());
        self.0.push(row);
    }

    /// Adds a figure whose ratio is that of the values.
    pub(crate) fn add(&mut self, measured: &Measured<'_>) {
        let ratio = measured.value / measured.peer_value;
        let row = Row {
            name: measured.name.to_owned(),
            value: measured.value,
            unit: measured.unit,
            peer: measured.peer.to_owned(),
            peer_value: measured.peer_value,
            ratio,
            target: measured.target.shown(),
            met: measured.target.met(ratio),
            how: measured.how.to_owned(),
        };
        eprintln!("{}", row.line());
        self.0.push(row);
    }

    pub(crate) fn print(&self) {
        println!();
        for row in &self.0 {
            println!("{}", row.line());
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl Row {
    fn line(&self) -> String {
        let mark = if self.met { "reached" } else { "NOT REACHED" };
        if self.peer.is_empty() {
            return format!(
                "{}: {:.2} {}, target {}: {mark}",
                self.name, self.value, self.unit, self.target
            );
        }
        format!(
            "{}: {:.2} {unit} : {:.2} {unit} ({}) = {:.3}, target {}: {mark}",
            self.name,
            self.value,
            self.peer_value,
            self.peer,
            self.ratio,
            self.target,
            unit = self.unit,
        )
    }
}

/// The median.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
