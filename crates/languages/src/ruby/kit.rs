//! The kit of `kits/ruby`, which is evaluated before a worker.

use crate::channel::Library;

macro_rules! kit {
    ($($file:literal)*) => {
        [$(($file, include_str!(concat!("../../../../kits/ruby/src/", $file, ".rb"))),)*]
    };
}

/// Its files, in order.
const FILES: [(&str, &str); 13] = kit!(
    "channel" "env" "body" "request" "response" "websocket" "cache" "fetch" "log" "absent" "require"
    "random" "main"
);

/// Files for `require` that this Ruby lacks.
pub(super) const LIBRARY: Library = &[
    // In the core since Ruby 3.2.
    ("io/wait", ""),
    (
        "socket",
        include_str!("../../../../kits/ruby/library/socket.rb"),
    ),
];

/// A line that no file of the kit contains.
const END: &str = "WWS_END_OF_FILE";

/// Writes why the previous text was not evaluated.
pub(super) const WHY: &str = "STDERR.write($!.full_message(highlight: false))";

/// Texts that load the kit. Backtraces name its files `wws:NAME`.
pub(super) fn parts() -> impl Iterator<Item = String> {
    FILES.into_iter().map(|(name, source)| {
        format!(
            "RubyVM::InstructionSequence.compile(<<'{END}', 'wws:{name}', 'wws:{name}', 1).eval\n\
             {source}\n{END}\n"
        )
    })
}

/// A text that loads a worker, and removes variables from its environment.
pub(super) fn load(file: &str, settings: &[&str]) -> String {
    format!(
        "Wws.load('{}', %w[{}])",
        file.replace('\\', "\\\\").replace('\'', "\\'"),
        settings.join(" ")
    )
}
