//! What is evaluated before a worker: the kit of `kits/ruby`.

macro_rules! kit {
    ($($file:literal)*) => {
        [$(($file, include_str!(concat!("../../../../kits/ruby/src/", $file, ".rb"))),)*]
    };
}

/// Its files, in order.
const FILES: [(&str, &str); 10] =
    kit!("channel" "env" "request" "response" "cache" "fetch" "log" "require" "random" "main");

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
