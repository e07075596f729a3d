//! What of a worker's own output reaches the log.

use crate::setting::{TomlType, Value, settings};

/// The least severe lines that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// None.
    Off,
    /// Errors.
    Error,
    /// Warnings, too.
    Warn,
    /// What a worker prints, too.
    #[default]
    Info,
    /// Details, too.
    Debug,
    /// All.
    Trace,
}

impl LogLevel {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Off, "off"),
        (Self::Error, "error"),
        (Self::Warn, "warn"),
        (Self::Info, "info"),
        (Self::Debug, "debug"),
        (Self::Trace, "trace"),
    ];
}

impl Value for LogLevel {
    const TYPE: &'static str = "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
    const VALUES: &'static [&'static str] = &["off", "error", "warn", "info", "debug", "trace"];
    const TOML: &'static [TomlType] = &[TomlType::Text];
    fn parse(text: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(_, name)| *name == text.trim())
            .map(|(level, _)| *level)
    }
    fn show(&self) -> String {
        let mut all = Self::ALL.iter();
        let found = all.find(|(level, _)| level == self);
        found.map_or("", |(_, name)| name).to_owned()
    }
}

settings! {
    /// What of a worker's own output reaches the log.
    pub struct WorkerLog in "log" {
        /// The least severe lines of the worker that are logged. What it prints to standard error
        /// has the level `info`. `WWS_LOG` can only leave out more.
        level: LogLevel = LogLevel::Trace, 0 => 0;
        /// Lines per second that the worker may log, in all of its calls together; of further ones
        /// only the count is logged. 0 sets no bound.
        rate: u32 = 1000, 0 => 1_000_000;
    }
}
