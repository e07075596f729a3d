//! Routes against a matcher that looks at each of them.
#![no_main]

/// What routes and paths are made of, so that any bytes are some of them: a line is a route up to
/// the first empty one, then a path.
const PIECES: [&str; 24] = [
    "\n",
    "/",
    "/a",
    "/b",
    "/a/b",
    "/[x]",
    "/[y]",
    "/[...rest]",
    "a",
    "b",
    "%61",
    "/%62",
    "%2F",
    "%2f",
    "%",
    "%ff",
    "%C3%BC",
    "\u{fc}",
    "//",
    "/.",
    "/..",
    "+",
    "?",
    "\n\n",
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let pieces = bytes
        .iter()
        .map(|byte| PIECES[usize::from(*byte) % PIECES.len()]);
    let text: String = pieces.collect();
    let (routes, paths) = text.split_once("\n\n").unwrap_or((&text, ""));
    wws_project::fuzz::routes(routes, paths);
});
