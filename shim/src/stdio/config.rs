//! The configuration of the streams of a process.

/// The streams that a client asks for: paths of FIFOs, or URIs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioConfig {
    /// Standard input; empty for none.
    pub(crate) stdin: String,
    /// Standard output; empty for none.
    pub(crate) stdout: String,
    /// Standard error; empty for none.
    pub(crate) stderr: String,
    /// Whether the process has a terminal.
    pub(crate) terminal: bool,
}
