//! Where in the user's files an error arose.

/// Puts the place of the first frame before an error's text: `file:line:column: Error: message`, then the frames.
pub(super) fn with_place(text: &str) -> String {
    let place = text.lines().skip(1).find_map(|line| {
        let frame = line.trim_start().strip_prefix("at ")?;
        let place = match frame.rsplit_once('(') {
            Some((_, place)) => place.strip_suffix(')')?,
            None => frame,
        };
        // A place ends with a line.
        let (rest, last) = place.rsplit_once(':')?;
        // `<input>` is a text that was parsed, no file.
        (last.parse::<u32>().is_ok() && !rest.is_empty() && !rest.starts_with('<')).then_some(place)
    });
    match place {
        Some(place) => format!("{place}: {text}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_is_the_place() {
        for (text, with) in [
            (
                "Error: x\n    at f (a/b.js:3:5)\n    at <eval> (b.js:1:1)",
                "a/b.js:3:5: Error: x",
            ),
            (
                "SyntaxError: x\n    at a.js:1:9",
                "a.js:1:9: SyntaxError: x",
            ),
            (
                "SyntaxError: x\n    at <input>:1:2\n    at f (b.js:4:1)",
                "b.js:4:1: SyntaxError: x",
            ),
            ("thrown", "thrown"),
            ("Error: x\n    at f (native)", "Error: x"),
        ] {
            assert!(with_place(text).starts_with(with), "{text}");
        }
    }
}
