//! What is evaluated before a worker: the kit of `kits/ruby`.

use crate::channel::Library;

macro_rules! kit {
    ($($file:literal)*) => {
        [$(($file, include_str!(concat!("../../../../kits/ruby/src/", $file, ".rb"))),)*]
    };
}

/// Its files, in order.
const FILES: [(&str, &str); 11] = kit!("channel" "env" "request" "response" "cache" "fetch" "log" "absent" "require" "random" "main");

/// Files that `require` has where this Ruby has none.
pub(super) const LIBRARY: Library = &[
    // What it has is in the core since Ruby 3.2.
    ("io/wait", ""),
    (
        "socket",
        include_str!("../../../../kits/ruby/library/socket.rb"),
    ),
];

/// A line that no file of the kit has.
const END: &str = "WWS_END_OF_FILE";

/// Writes why the text before was not evaluated.
pub(super) const WHY: &str = "STDERR.write($!.full_message(highlight: false))";

/// Texts that load the kit. Backtraces name its files `wws:NAME`.
pub(super) fn parts() -> impl Iterator<Item = String> {
    FILES.into_iter().map(|(name, source)| {
        format!(
            "RubyVM::InstructionSequence.compile(<<'{END}', 'wws:{name}', 'wws:{name}', 1).eval\n{source}\n{END}\n"
        )
    })
}

/// A text that loads a worker, and takes variables out of its environment.
pub(super) fn load(file: &str, settings: &[&str]) -> String {
    format!(
        "Wws.load('{}', %w[{}])",
        file.replace('\\', "\\\\").replace('\'', "\\'"),
        settings.join(" ")
    )
}
